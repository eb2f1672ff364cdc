import numpy as np
import pytest
from matplotlib import pyplot, rcParams
from PIL import Image

from evaluator.protocol.evaluate import Protocol, Results
from evaluator.report.figures import click_curves, training_curves

GREY, BLUE = (0x77, 0x77, 0x7D), (0x14, 0x63, 0xC2)


def results_of(policies: list[str]) -> Results:
    results = Results.empty(Protocol(), (6, 3, 32, 32), 0, policies, ["ab_psnr", "rgb_psnr"])
    rng = np.random.default_rng(0)
    for shift, policy in enumerate(policies):
        for values in results.values[policy].values():
            values[:] = 25 + shift + np.arange(5) + rng.standard_normal((6, 5))
    return results


def history_of(validations: int, policies: list[str]) -> list[dict[str, float]]:
    return [
        {
            "images_seen": 1000.0 * step,
            "losses/color": 0.1,
            **{
                f"validation/{policy}/{metric}@{clicks}": 20.0 + step + shift + 0.1 * clicks
                for shift, policy in enumerate(policies)
                for metric in ("ab_psnr", "ab_ssim")
                for clicks in (1, 10)
            },
        }
        for step in range(validations)
    ]


def has_colour(picture: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool((np.abs(np.asarray(picture).astype(int) - colour).max(-1) <= 4).any())


def test_click_curves_have_a_panel_per_metric_and_a_row_of_differences():
    both, alone = click_curves(results_of(["random", "guide"])), click_curves(results_of(["random"]))
    assert both.width == alone.width
    assert both.height > 1.5 * alone.height
    assert has_colour(both, GREY)
    assert has_colour(both, BLUE)
    assert has_colour(alone, GREY)
    assert not has_colour(alone, BLUE)


def test_training_curves_draw_the_asked_policies():
    history = history_of(4, ["random", "editnet-blind"])
    both = training_curves(history, ["random", "editnet-blind"])
    assert has_colour(both, GREY)
    assert has_colour(both, BLUE)
    assert not has_colour(training_curves(history, ["random"]), BLUE)


def test_training_curves_take_one_validation_and_policies_that_come_later():
    training_curves(history_of(1, ["random"]), ["random"])
    history = [*history_of(2, ["random"]), *history_of(3, ["random", "guide"])[2:]]
    assert has_colour(training_curves(history, ["random", "guide"]), BLUE)


def test_a_history_without_these_policies_is_refused():
    with pytest.raises(ValueError, match="2 validations has no means of guide"):
        training_curves(history_of(2, ["random"]), ["guide"])


def test_drawing_leaves_no_global_state():
    before = dict(rcParams)
    click_curves(results_of(["random", "guide"]))
    assert dict(rcParams) == before
    assert pyplot.get_fignums() == []
