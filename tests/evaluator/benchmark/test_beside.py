"""The papers' figures: copied right, beside the right ones of ours."""

import numpy as np
import pytest

from evaluator.benchmark.presets import (
    GUIDINGPAINTER_1,
    PRESETS,
    RTUG_SWEEP,
    THESIS_4_1,
    THESIS_4_2,
    beside,
    is_coco_validation,
)
from evaluator.protocol.results import Protocol, Record
from tests.evaluator.made_up_results import made_up_results


def means_of(clicks: tuple[int, ...], metrics: tuple[str, ...]) -> list[Record]:
    values = {
        policy: dict.fromkeys(metrics, np.tile(20.0 + number + np.arange(len(clicks)), (2, 1)))
        for number, policy in enumerate(("random", "guide-oracle"))
    }
    return made_up_results(values, Protocol(clicks=clicks)).records


@pytest.mark.parametrize(
    ("label", "metric", "clicks", "value"),
    [
        ("Random", "ab_psnr", 10, 33.07),
        ("ArgmaxSTE", "ab_psnr", 10, 33.04),
        ("Random", "ab_ssim", 20, 0.4574),
        ("ArgmaxSTE", "ab_ssim", 20, 0.3695),
        ("Random", "lpips", 50, 0.0940),
        ("ArgmaxSTE", "lpips", 50, 0.0895),
    ],
)
def test_table_4_1_says_what_is_printed(label: str, metric: str, clicks: int, value: float):
    found = {(f.label, f.metric, f.clicks): f.value for f in THESIS_4_1.figures}
    assert found[label, metric, clicks] == value
    assert len(found) == 36


@pytest.mark.parametrize("metric", ["ab_psnr", "ab_ssim"])
def test_random_is_ahead_in_the_thesis_at_every_budget(metric: str):
    found = {(f.label, f.clicks): f.value for f in THESIS_4_1.figures if f.metric == metric}
    assert all(found["Random", clicks] > found["ArgmaxSTE", clicks] for clicks in (1, 5, 10, 20, 30, 50))


def test_figures_stand_beside_ours_by_policy_clicks_and_metric():
    table = beside(THESIS_4_1, means_of((1, 10), ("ab_psnr",)), [], coco=False)
    rows = {tuple(row[:3]): row[3:] for row in table["rows"]}
    assert rows["ArgmaxSTE", "ab PSNR", "10"] == ["33.04", "guide-oracle 22.00"]
    assert rows["Random", "ab PSNR", "1"] == ["30.54", "random 20.00"]
    assert rows["Random", "ab PSNR", "50"] == ["34.48", ""]
    assert rows["Random", "LPIPS", "1"] == ["0.1408", ""]
    assert table["another_dataset"]
    assert not beside(THESIS_4_1, means_of((1,), ("ab_psnr",)), [], coco=True)["another_dataset"]
    assert beside(RTUG_SWEEP, means_of((1,), ("rgb_psnr",)), [], coco=True)["another_dataset"]


def test_interactions_are_listed_by_level():
    nri = [{"policy": "random", "level": 19.5, "mean": 7.25}, {"policy": "grid", "level": 19.5, "mean": 6.0}]
    rows = beside(GUIDINGPAINTER_1, means_of((1,), ("rgb_psnr",)), nri, coco=False)["rows"]
    assert ["GuidingPainter, CelebA", "NRI to 19.5 dB", "", "6.98", "random 7.25; grid 6.00"] in rows
    assert ["RTUG, Yumi's Cells", "NRI to 20.5 dB", "", "13.82", ""] in rows


def test_other_tables_say_what_is_printed():
    cycles = {(f.label, f.metric): f.value for f in THESIS_4_2.figures}
    assert cycles["Gumbel-Softmax, cycle 4", "ab_psnr"] == 30.62
    assert cycles["Straight-Through Estimator, cycle 4", "ab_ssim"] == 0.383
    assert {f.clicks: f.value for f in RTUG_SWEEP.figures}[501] == 32.14


def test_presets_measure_what_their_papers_print():
    for preset in PRESETS.values():
        for figure in (one for table in preset.papers for one in table.figures):
            assert figure.clicks is None or figure.clicks in preset.clicks
            assert figure.metric in (*preset.metrics, "nri")


def test_coco_s_validation_is_known_by_number_and_names():
    names = [f"val2017/{number:012d}.jpg" for number in range(5000)]
    assert is_coco_validation(names)
    assert not is_coco_validation(names[:100])
    assert not is_coco_validation([*names[1:], "mine.jpg"])
