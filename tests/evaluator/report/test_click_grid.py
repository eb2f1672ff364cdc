import numpy as np
import pytest
import torch
from PIL import Image

from evaluator.policies import GuidePolicy, RandomPolicy
from evaluator.protocol.evaluate import Protocol, evaluate
from evaluator.report.click_grid import click_grid, marked


def grey_colorizer(lightness, clicks):
    return torch.zeros_like(clicks[:, 1:])


def color_close(page: Image.Image, color: tuple[int, int, int], tolerance: int) -> np.ndarray:
    return np.abs(np.asarray(page).astype(int) - color).max(-1) <= tolerance


def red_photos(count: int = 2, size: int = 64) -> torch.Tensor:
    return torch.tensor([200, 30, 40], dtype=torch.uint8)[:, None, None].expand(count, 3, size, size).clone()


def test_the_page_has_a_row_per_photo_and_policy_and_a_column_per_budget():
    one = click_grid(grey_colorizer, {"random": RandomPolicy()}, red_photos(1), clicks=(1, 5))
    more_rows = click_grid(grey_colorizer, {"random": RandomPolicy()}, red_photos(3), clicks=(1, 5))
    more_columns = click_grid(grey_colorizer, {"random": RandomPolicy()}, red_photos(1), clicks=(1, 5, 6))
    two = {"random": RandomPolicy(), "second": RandomPolicy()}
    more_policies = click_grid(grey_colorizer, two, red_photos(1), clicks=(1, 5))
    assert one.mode == "RGB"
    assert more_rows.height - one.height > 2 * 192
    assert more_columns.width - one.width > 192
    assert more_policies.height - one.height > 192


@pytest.mark.parametrize(("size", "shown"), [(32, 192), (64, 192), (100, 200), (256, 256)])
def test_photos_are_enlarged_by_a_whole_number(size, shown):
    page = click_grid(grey_colorizer, {"random": RandomPolicy()}, red_photos(1, size), clicks=(1,))
    truth = color_close(page, (200, 30, 40), 0)
    assert truth.any(axis=1).sum() >= shown
    assert np.flatnonzero(truth.sum(0) > shown // 2).size == shown


def test_each_click_is_marked_at_its_place_in_the_color_that_it_carries():
    """The photo is red, its coloring grey: only markers are red in the column between grey and truth."""
    place = 20 * 64 + 41

    def guide(lightness, predicted_ab, clicks, truth_ab):
        logits = torch.zeros_like(lightness[:, 0])
        logits.flatten(1)[:, place] = 1
        return logits

    page = click_grid(grey_colorizer, {"here": GuidePolicy(guide=guide, blind=True)}, red_photos(1), clicks=(1,))
    red = color_close(page, (200, 30, 40), 2)
    left_of_truth = np.flatnonzero(red.sum(0) > 150).min()
    rows, cols = np.nonzero(red[:, :left_of_truth])
    top = np.flatnonzero(red.sum(1) > 150).min()
    left = left_of_truth - 10 - 192
    assert rows.mean() - top == pytest.approx(20.5 * 3, abs=1)
    assert cols.mean() - left == pytest.approx(41.5 * 3, abs=1)
    white = color_close(page, (255, 255, 255), 40)[top + 50 : top + 74, left + 112 : left + 138]
    assert white.sum() > 20


def test_the_clicks_are_those_that_the_protocol_measures(photos):
    """A colorizer that records its clicks sees the same ones from both."""
    seen = []

    def colorizer(lightness, clicks):
        seen.append(clicks)
        return torch.zeros_like(clicks[:, 1:])

    policies = {"random": RandomPolicy()}
    protocol = Protocol(clicks=(4,), seed=5, hint_size=2)
    evaluate(colorizer, policies, photos[3:6], protocol, first_index=3)
    measured = seen[-1]
    click_grid(colorizer, policies, photos[3:6], clicks=(4,), seed=5, hint_size=2, first_index=3)
    assert torch.equal(measured, seen[-1])


def test_a_title_and_long_names_fit_on_the_page():
    plain = click_grid(grey_colorizer, {"random": RandomPolicy()}, red_photos(1), clicks=(1,))
    titled = click_grid(
        grey_colorizer,
        {"a policy with a long name": RandomPolicy()},
        red_photos(1),
        clicks=(1,),
        title="tiny, 64 px",
    )
    assert titled.height > plain.height
    assert titled.width > plain.width + 60


def test_numbered_dots_are_larger_and_carry_ink_that_stands_out():
    grey = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    place = torch.tensor([20 * 64 + 41])
    for color, ink in (((250, 240, 60), (0, 0, 0)), ((40, 20, 60), (255, 255, 255))):
        colors = torch.tensor([color], dtype=torch.uint8)
        plain, numbered = (
            marked(grey, place, colors, newest=1, scale=3, numbered=with_number) for with_number in (False, True)
        )
        assert plain.size == numbered.size == (192, 192)
        changed = [(np.asarray(page) != 128).any(-1) for page in (plain, numbered)]
        assert changed[1].sum() > 1.3 * changed[0].sum()
        middle = numbered.crop((41 * 3 - 3, 20 * 3 - 3, 41 * 3 + 6, 20 * 3 + 6))
        assert color_close(middle, ink, 60).any()
        rows, cols = np.nonzero(changed[1])
        assert (rows.mean(), cols.mean()) == pytest.approx((20.5 * 3, 41.5 * 3), abs=1)
