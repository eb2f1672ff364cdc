"""The numbers that trials report, against the table and against what can be counted by hand."""

import math

import numpy as np
import pytest

from evaluator.protocol.results import Protocol, Results
from tests.evaluator.made_up_results import made_up_results
from trainer.config import override
from trainer.config.presets import tiny
from tuner.objectives import measured, measures_of
from tuner.records import Measure

BUDGETS = (0, 1, 2, 4)
PSNR: dict[str, list[list[float]]] = {
    "random": [[20, 21, 22, 23], [30, 31, 32, math.inf]],
    "editnet-oracle": [[20, 23, 24, 25], [30, 31, 32, 33]],
    "editnet-blind": [[20, 22, 23, 22], [30, 33, 35, math.inf]],
}


@pytest.fixture
def results() -> Results:
    return results_of(PSNR)


def results_of(psnr: dict[str, list[list[float]]], clicks: tuple[int, ...] = BUDGETS) -> Results:
    """Two photos of 30 x 40 pixels (diagonal 50)."""
    # (row, column): (0, 0), (0, 10), (29, 0), (29, 30); and four side by side.
    positions = {
        "random": [[0, 1, 2, 3]] * 2,
        "editnet-oracle": [[0, 39, 29 * 40, 29 * 40 + 39]] * 2,
        "editnet-blind": [[0, 10, 29 * 40, 29 * 40 + 30], [0, 1, 2, 3]],
    }
    return made_up_results(
        {policy: {"ab_psnr": np.array(values)} for policy, values in psnr.items()},
        Protocol(clicks=clicks),
        size=(30, 40),
        positions={policy: np.array(places)[:, : clicks[-1]] for policy, places in positions.items()},
    )


def test_quality_is_the_table_s_mean_at_the_last_budget_but_one(results: Results):
    table = {(row.policy, row.clicks): row for row in results.records}
    found = measured(results, tiny())
    for prefix, guide in (("", "editnet-blind"), ("oracle_", "editnet-oracle")):
        assert found[f"{prefix}ab_psnr"] == pytest.approx(table[guide, 2].value)
        assert found[f"{prefix}ab_psnr_gain"] == pytest.approx(table[guide, 2].gain)
    assert found["ab_psnr"] == 29.0
    assert found["ab_psnr_gain"] == 2.0


def test_nri_counts_clicks_to_what_random_ones_reach_in_the_end(results: Results):
    """Blind: 23 dB at 2 clicks, an exact photo at 4. Oracle: 23 dB at 1 click; the other never, which counts 5."""
    found = measured(results, tiny())
    assert found["nri"] == (2 + 4) / 2
    assert found["oracle_nri"] == (1 + 5) / 2


def test_dispersion_and_crowding_are_measured_on_all_clicks(results: Results):
    """The nearest clicks are 10, 10, 29 and 30 pixels away, or 1; 3 % of the diagonal are 1.5."""
    found = measured(results, tiny())
    assert found["dispersion"] == pytest.approx(((10 + 10 + 29 + 30) / 4 + 1) / 2 / 50)
    assert found["crowding"] == pytest.approx((0 + 1) / 2)
    assert found["oracle_dispersion"] == pytest.approx(29 / 50)
    assert found["oracle_crowding"] == 0


def test_what_was_not_measured_is_none(results: Results):
    assert measured(results, tiny())["lpips"] is None
    assert measured(results, tiny())["ab_ssim"] is None
    without = measured(results_of({policy: PSNR[policy] for policy in ("random", "editnet-oracle")}), tiny())
    assert without["ab_psnr"] is None
    assert without["oracle_ab_psnr"] is not None


def test_one_click_has_no_dispersion():
    few = results_of({policy: [[20.0, 20.0]] * 2 for policy in PSNR}, clicks=(0, 1))
    assert measured(few, tiny())["dispersion"] is None
    assert measured(few, tiny())["crowding"] is None
    assert measured(few, tiny())["nri"] == 0


def test_every_measure_is_in_the_table_and_says_what_it_is(results: Results):
    assert set(measured(results, tiny())) == set(measures_of(tiny()))
    assert all(name == measure.name for name, measure in measures_of(tiny()).items())
    named = measures_of(override(tiny(), {"validation.clicks": (0, 5, 10, 20)}))
    assert named["ab_psnr"] == Measure("ab_psnr", "max", "ab PSNR, dB, range 2, at 10 clicks, guide blind")
    assert named["oracle_crowding"].label.endswith("at 20 clicks, guide oracle")
    assert named["nri"].direction == named["lpips"].direction == named["crowding"].direction == "min"


def test_an_exact_photo_counts_as_the_metric_s_ceiling():
    exact = results_of({**PSNR, "editnet-blind": [[20, 22, 20, 22], [30, 33, math.inf, math.inf]]})
    assert measured(exact, tiny())["ab_psnr"] == (20 + 100) / 2
