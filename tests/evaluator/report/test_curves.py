from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot, rcParams
from PIL import Image

from evaluator.report.figures import training_curves

GREY, BLUE = (0x55, 0x55, 0x5B), (0x00, 0x72, 0xB2)


def curve_of(stages: Iterable[int], policies: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "stage": stage,
            "images_seen": 1000 * stage,
            "policy": policy,
            "metric": metric,
            "clicks": clicks,
            "value": 20.0 + stage + shift + 0.1 * clicks,
        }
        for stage in stages
        for shift, policy in enumerate(policies)
        for metric in ("ab_psnr", "ab_ssim")
        for clicks in (1, 10)
    ]


def has_colour(picture: Image.Image, color: tuple[int, int, int]) -> bool:
    return bool((np.abs(np.asarray(picture).astype(int) - color).max(-1) <= 4).any())


def test_training_curves_draw_the_asked_policies():
    curve = curve_of(range(4), ["random", "editnet-blind"])
    both = training_curves(curve, ["random", "editnet-blind"])
    assert has_colour(both, GREY)
    assert has_colour(both, BLUE)
    assert not has_colour(training_curves(curve, ["random"]), BLUE)


def test_training_curves_take_one_validation_and_policies_that_come_later():
    training_curves(curve_of([0], ["random"]), ["random"])
    curve = [*curve_of(range(2), ["random"]), *curve_of([2], ["random", "guide"])]
    assert has_colour(training_curves(curve, ["random", "guide"]), BLUE)


def test_a_curve_without_these_policies_is_refused():
    with pytest.raises(ValueError, match="8 means has none of guide"):
        training_curves(curve_of(range(2), ["random"]), ["guide"])


def test_drawing_leaves_no_global_state():
    before = dict(rcParams)
    training_curves(curve_of(range(2), ["random"]), ["random"])
    assert dict(rcParams) == before
    assert pyplot.get_fignums() == []
