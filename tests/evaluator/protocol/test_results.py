import json

import numpy as np
import pytest
from scipy import stats

from evaluator.protocol.bootstrap import mean_intervals
from evaluator.protocol.evaluate import Protocol, Results
from tests.evaluator.made_up_results import made_up_results


def results_of(values: dict[str, np.ndarray], clicks: tuple[int, ...] = (0, 5)) -> Results:
    """Results with one metric, ab PSNR, of the given values (n, budgets)."""
    of_metric = {policy: {"ab_psnr": numbers} for policy, numbers in values.items()}
    return made_up_results(of_metric, Protocol(clicks=clicks))


@pytest.fixture
def paired() -> Results:
    """Photos that differ by 4 dB among themselves, policies by 0.3 dB +- 0.4 on the same photo."""
    rng = np.random.default_rng(0)
    baseline = 28 + 4 * rng.standard_normal((60, 2))
    guided = baseline + [0.0, 0.3] + 0.4 * rng.standard_normal((60, 2)) * [0, 1]
    return results_of({"random": baseline, "guide": guided})


def test_intervals_agree_with_scipy_bootstrap():
    values = np.random.default_rng(1).gamma(2.0, size=(80, 2))
    low, high = mean_intervals(values, seed=0)
    for column in range(2):
        expected = stats.bootstrap(
            (values[:, column],), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(5)
        ).confidence_interval
        width = expected.high - expected.low
        assert low[column] == pytest.approx(expected.low, abs=0.05 * width)
        assert high[column] == pytest.approx(expected.high, abs=0.05 * width)


def test_intervals_repeat_for_a_seed_and_columns_share_their_draws():
    values = np.random.default_rng(2).standard_normal((30, 1))
    once = mean_intervals(np.hstack([values, values + 5]), seed=4)
    np.testing.assert_array_equal(once, mean_intervals(np.hstack([values, values + 5]), seed=4))
    assert not np.array_equal(once, mean_intervals(np.hstack([values, values + 5]), seed=5))
    for end in once:
        assert end[1] - end[0] == pytest.approx(5.0)


def test_one_photo_has_no_interval_and_no_verdict():
    results = results_of({"random": np.array([[25.0, 26.0]]), "guide": np.array([[25.0, 27.0]])})
    after = results.records[-1]
    assert after.gain == pytest.approx(1.0)
    assert after.gain_low is not None
    assert np.isnan(after.gain_low)
    assert after.verdict == ""
    assert results.rows()[-1]["ab_psnr_gain_low"] is None


def test_the_mean_is_over_photos(paired):
    expected = paired.values("guide", "ab_psnr").mean(0)
    means = [record.value for record in paired.records if record.policy == "guide"]
    assert means == pytest.approx(expected.tolist())


def test_pairing_sees_a_gain_far_smaller_than_the_spread_between_photos(paired):
    before, after = (record for record in paired.records if record.policy == "guide")
    assert (before.gain, before.verdict) == (0.0, "no different")
    assert after.verdict == "better"
    assert after.gain_low is not None
    assert after.gain_high is not None
    assert 0.15 < after.gain_low < 0.3 < after.gain_high < 0.5
    swapped = results_of(
        {"random": paired.values("guide", "ab_psnr"), "guide": paired.values("random", "ab_psnr")}
    )
    assert swapped.records[-1].verdict == "worse"


def test_exact_photos_count_as_the_ceiling_and_are_counted():
    values = np.array([[20.0, np.inf], [30.0, 40.0]])
    results = results_of({"random": np.full((2, 2), 20.0), "guide": values})
    records = [record for record in results.records if record.policy == "guide"]
    assert [(s.value, s.exact) for s in records] == [(25.0, 0), (70.0, 1)]
    assert [s.gain for s in records] == [5.0, 50.0]


def test_means_and_gains_are_over_the_photos_for_which_both_values_are_defined():
    values = np.array([[20.0, np.nan], [30.0, np.nan], [np.nan, np.nan], [28.0, 21.0]])
    baseline = np.array([[10.0, np.nan], [np.nan, 1.0], [11.0, np.nan], [13.0, np.nan]])
    results = results_of({"random": baseline, "guide": values})
    random, never, guide, once = results.records
    assert (random.value, random.photos) == (pytest.approx(34 / 3), 3)
    assert (never.value, never.photos) == (1.0, 1)
    assert (guide.value, guide.photos, guide.gain) == (26.0, 3, 12.5)
    assert (guide.gain_low, guide.gain_high) == (10.0, 15.0)
    assert (once.value, once.photos) == (21.0, 1)
    assert (str(once.gain), str(once.gain_low), once.verdict) == ("nan", "nan", "")
    assert json.loads(json.dumps(results.rows(), allow_nan=False))[3]["ab_psnr_gain"] is None


def test_the_baseline_and_results_without_it_have_no_gain(paired):
    assert {s.gain for s in paired.records if s.policy == "random"} == {None}
    alone = results_of({"guide": np.full((3, 2), 20.0)})
    assert {(s.gain, s.verdict) for s in alone.records} == {(None, "")}


def test_rows_are_flat_and_survive_json(paired):
    rows = json.loads(json.dumps(paired.rows(), allow_nan=False))
    assert [(row["policy"], row["clicks"]) for row in rows] == [
        ("random", 0),
        ("random", 5),
        ("guide", 0),
        ("guide", 5),
    ]
    assert rows[0].keys() == rows[3].keys()
    assert {"photos": 60, "height": 8, "width": 8, "hint_size": 1, "seed": 0}.items() <= rows[0].items()
    assert rows[3]["ab_psnr"] - rows[1]["ab_psnr"] == pytest.approx(rows[3]["ab_psnr_gain"])


def test_no_photos_have_no_table():
    with pytest.raises(ValueError, match="no photos"):
        results_of({"random": np.empty((0, 2))}).rows()
