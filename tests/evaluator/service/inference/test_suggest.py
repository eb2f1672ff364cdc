"""Suggested places are the guide's; suggested colors are distinct, can be shown, and cover the evidence."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage.color import deltaE_ciede2000
from torch import Tensor

from evaluator.policies.base import State
from evaluator.policies.guide import GuidePolicy
from evaluator.service.inference import suggest_colors
from evaluator.service.inference.click_map import PlacedClick, click_map
from evaluator.service.inference.engine import Engine
from evaluator.service.inference.gamut import in_gamut
from evaluator.service.inference.suggest import NEIGHBORHOOD, Suggested, colors_at, peaks, places
from evaluator.service.inference.suggest_colors import ALIKE, cover
from kernels.color import lab_to_rgb, rgb_to_lab
from tests.evaluator.service import fakes

CLICKS = [PlacedClick(3, 5, (0.3, 0.2), 3), PlacedClick(20, 30, (-0.2, -0.3), 3)]


def grey(height: int = 32, width: int = 48) -> Tensor:
    return torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(0))


def proposed(count: int, lightness: Tensor, clicks: Tensor, row: int, col: int) -> list[Suggested]:
    async def ask() -> list[Suggested]:
        engine = Engine.from_networks(fakes.spread, fakes.detail)
        predicted = await engine.colorize(lightness, clicks)
        found = await colors_at(engine, lightness, clicks, predicted, row, col, count)
        await engine.close()
        return found

    return asyncio.run(ask())


def apart(lightness: float, first: tuple[float, float], second: tuple[float, float]) -> float:
    """Delta E 2000 by scikit-image."""
    one, other = ([100 * lightness, 128 * a, 128 * b] for a, b in (first, second))
    return float(deltaE_ciede2000(np.array(one), np.array(other)))


@pytest.mark.parametrize("clicks", [[], CLICKS])
def test_the_first_place_is_where_the_guides_policy_clicks(clicks: list[PlacedClick]):
    lightness, placed = grey(), click_map(clicks, 32, 48)
    predicted = fakes.spread(lightness, placed)

    async def ask() -> int:
        engine = Engine.from_networks(fakes.spread, fakes.detail, temperature=0.3)
        (place,) = await places(engine, lightness, placed, 1)
        assert [place] == await places(engine, lightness, placed, 1, predicted)
        await engine.close()
        return place.row * 48 + place.col

    nothing = torch.zeros(1, len(clicks), dtype=torch.int64)
    state = State(
        lightness=lightness,
        clicks=placed,
        predicted_ab=predicted,
        keys=torch.zeros(1, dtype=torch.int64),
        positions=nothing,
    )
    assert asyncio.run(ask()) == int(GuidePolicy(guide=fakes.detail, blind=True).choose(state))


def test_places_are_apart_and_have_the_share_of_their_neighborhood():
    logits = torch.full((64, 96), -50.0)
    logits[10, 10], logits[10, 12], logits[40, 70] = 2.0, 1.0, 1.5
    first, second = peaks(logits, torch.zeros(64, 96, dtype=torch.bool), 2)
    assert [(first.row, first.col), (second.row, second.col)] == [(10, 10), (40, 70)]
    total = np.exp(2) + np.exp(1) + np.exp(1.5)
    assert first.probability == pytest.approx((np.exp(2) + np.exp(1)) / total)
    assert second.probability == pytest.approx(np.exp(1.5) / total)


def test_no_place_is_clicked_already_or_in_anothers_neighborhood():
    torch.manual_seed(0)
    taken = torch.rand(64, 64) < 0.5
    found = peaks(3 * torch.randn(64, 64), taken, 10)
    assert len(found) == 10
    spots = np.array([(place.row, place.col) for place in found])
    assert not taken[spots[:, 0], spots[:, 1]].any()
    distances = np.linalg.norm(spots[:, None] - spots[None], axis=-1) + 99 * np.eye(10)
    assert distances.min() > NEIGHBORHOOD * 64
    assert 0 < sum(place.probability for place in found) <= 1


def test_where_no_pixel_is_left_there_are_fewer_places():
    taken = torch.ones(8, 8, dtype=torch.bool)
    assert peaks(torch.zeros(8, 8), taken, 3) == []
    taken[4, 4] = False
    assert [(place.row, place.col) for place in peaks(torch.zeros(8, 8), taken, 3)] == [(4, 4)]


def test_nothing_near_a_place_to_avoid_is_found_and_the_others_keep_their_share():
    logits = torch.full((64, 96), -50.0)
    logits[10, 10], logits[10, 12], logits[40, 70] = 2.0, 1.0, 1.5
    free = torch.zeros(64, 96, dtype=torch.bool)
    (place,) = peaks(logits, free, 1, [(11, 9)])
    assert (place.row, place.col) == (40, 70)
    assert place.probability == peaks(logits, free, 2)[1].probability
    assert peaks(logits[:8, :8], free[:8, :8], 3, [(row, col) for row in range(8) for col in range(8)]) == []


def test_scores_that_are_far_apart_still_give_places():
    logits = torch.zeros(40, 40)
    logits[5, 5] = 5000.0
    first, second = peaks(logits, torch.zeros(40, 40, dtype=torch.bool), 2)
    assert (first.row, first.col, first.probability) == (5, 5, 1.0)
    assert second.probability == 0.0


@pytest.mark.parametrize(("lightness", "nearest"), [(0.01, (0.0, -6 / 128)), (0.99, (0.0, 6 / 128))])
def test_of_colors_that_cover_the_same_the_likeliest_is_proposed(lightness: float, nearest: tuple[float, float]):
    grey_alone = suggest_colors.kernel(torch.tensor([[0.0, 0.0, 1.0]]))
    assert cover(lightness, grey_alone, 5) == [(nearest, pytest.approx(1.0))]


@pytest.mark.parametrize("clicks", [[], CLICKS])
@pytest.mark.parametrize("count", [1, 5, 9])
def test_distinct_colors_that_can_be_shown_are_proposed_the_likeliest_first(clicks: list[PlacedClick], count: int):
    lightness = grey()
    lightness[0, 0, 7, 9] = 0.55
    found = proposed(count, lightness, click_map(clicks, 32, 48), 7, 9)
    assert 1 <= len(found) <= count
    assert found == proposed(count, lightness, click_map(clicks, 32, 48), 7, 9)
    assert len({one.ab for one in found}) == len(found)
    light = lightness[:, :, 7:8, 9:10]
    for one in found:
        ab = torch.tensor(one.ab).view(1, 2, 1, 1)
        back, back_ab = rgb_to_lab(lab_to_rgb(light, ab))
        assert (100 * (back - light)).abs() <= 1.5
        assert (128 * (back_ab - ab)).abs().max() <= 2.5  # clipping a clipped color clips a little more
    shares = [one.probability for one in found]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 1 + 1e-9


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_black_and_white_get_suggestions_too(level: float):
    found = proposed(5, torch.full((1, 1, 16, 16), level), torch.zeros(1, 3, 16, 16), 3, 4)
    assert 1 <= len(found) <= 5
    assert all(-1 <= value <= 1 for one in found for value in one.ab)


def test_a_color_covers_what_looks_alike():
    palette = [(a, b) for a, b, _ in in_gamut(50.0, suggest_colors.GRID_STEP)]
    heavy, light = palette.index((48.0, 30.0)), palette.index((-30.0, 36.0))
    density = torch.zeros(len(palette), dtype=torch.float64)
    density[heavy], density[light] = 3.0, 1.0
    found = cover(0.5, lambda given: density, 5)
    assert [share for _, share in found] == pytest.approx([0.75, 0.25])
    for (ab, _), index in zip(found, (heavy, light), strict=True):
        a, b = palette[index]
        assert apart(0.5, ab, (a / 128, b / 128)) <= ALIKE + 1e-3


def test_colors_look_different_from_each_other():
    lightness = grey()
    found = proposed(5, lightness, click_map(CLICKS, 32, 48), 7, 9)
    level = round(100 * float(lightness[0, 0, 7, 9])) / 100
    pairs = [(one.ab, other.ab) for number, one in enumerate(found) for other in found[:number]]
    assert min(apart(level, *pair) for pair in pairs) > ALIKE / 2


def test_near_a_click_its_color_is_among_the_suggestions():
    lightness = torch.full((1, 1, 32, 48), 0.6)
    clicks = click_map([PlacedClick(10, 10, (0.25, 0.3), 9)], 32, 48)
    found = proposed(5, lightness, clicks, 10, 10)
    assert min(apart(0.6, one.ab, (0.25, 0.3)) for one in found) <= ALIKE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda asked: {**asked, "row": 32}, "row 32, column 4 is outside of the 32 x 48"),
        (lambda asked: {**asked, "col": -1}, "column -1"),
    ],
)
def test_what_cannot_be_asked_is_named(change: Callable[[dict], dict], message: str):
    asked = change({"count": 5, "row": 3, "col": 4})
    with pytest.raises(ValueError, match=message):
        proposed(lightness=grey(), clicks=torch.zeros(1, 3, 32, 48), **asked)
