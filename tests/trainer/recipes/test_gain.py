"""The gain of a click: tried pixels, their gains against loops over a colorizer of one formula, and the losses."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.clicks import no_clicks, place_clicks
from kernels.noise import sample_keys
from tests.trainer.split_networks import click_map, photos
from trainer.recipes.coloring import Colored
from trainer.recipes.gain import Tries, best_apart, gain_loss, stratified, try_clicks

KEYS = sample_keys(3, 0, 2)


def around_clicks(lightness: Tensor) -> Callable[[Tensor], Colored]:
    """A colorizer: every pixel takes the mean of the clicks, fading with the difference of lightness."""

    def colorize(clicks: Tensor) -> Colored:
        mask, colors = clicks[:, :1], clicks[:, 1:]
        count = mask.sum((2, 3), keepdim=True).clamp(min=1)
        mean, light = (part.sum((2, 3), keepdim=True) / count for part in (colors, mask * lightness))
        return Colored(mean * torch.exp(-((lightness - light) ** 2) / 0.1))

    return colorize


def log_mse(ab: Tensor, truth_ab: Tensor) -> float:
    return float(np.log(np.square(ab.double().numpy() - truth_ab.double().numpy()).mean() + 1e-6))


@pytest.mark.parametrize(("count", "hint_size", "area"), [(0, 1, None), (5, 1, None), (2, 3, None), (8, 1, 4.0)])
def test_gains_are_what_trying_each_pixel_gives(count: int, hint_size: int, area: float | None):
    lightness, truth_ab = photos(2, 32, 48)
    colorize, clicks = around_clicks(lightness), click_map(truth_ab, count)
    logits = torch.randn(2, 32, 48, generator=torch.Generator().manual_seed(0))
    present = colorize(clicks).ab
    found = try_clicks(
        colorize, present, clicks, truth_ab, logits, KEYS,
        stream=6, draw=1, tries=12, hint_size=hint_size, usual_area=area,
    )  # fmt: skip
    assert found.places.shape == found.drops.shape == (2, 12)
    for n in range(2):
        drops = []
        for place in found.places[n]:
            tried = place_clicks(clicks[n : n + 1], truth_ab[n : n + 1], place[None], hint_size)
            ab = around_clicks(lightness[n : n + 1])(tried).ab
            drops.append(log_mse(present[n], truth_ab[n]) - log_mse(ab[0], truth_ab[n]))
        assert np.allclose(found.drops[n], drops, atol=1e-5)
        usual = 0.23 / (1 + 0.4 * count / (area or hint_size**2))
        expected = np.clip((np.array(drops) - np.mean(drops)) / usual, -6, 6)
        assert np.allclose(found.gains[n], expected, atol=1e-3)
    assert found.gains.std() > 0.1


def test_pixels_that_are_tried_are_the_guides_best_and_others_that_differ_in_each_state():
    lightness, truth_ab = photos(2, 32, 32)
    colorize, clicks = around_clicks(lightness), click_map(truth_ab, 3)
    logits = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(1)) - 99 * clicks[:, 0]

    def places(draw: int, known: Tries | None = None) -> Tensor:
        return try_clicks(
            colorize, colorize(clicks).ab, clicks, truth_ab, logits, KEYS,
            stream=6, draw=draw, tries=16, hint_size=1, known=known,
        ).places  # fmt: skip

    one, other = places(1), places(2)
    assert torch.equal(one[:, 0], logits.flatten(1).argmax(1))
    assert torch.equal(one[:, :6], best_apart(logits, 6))
    assert torch.equal(one[:, :6], other[:, :6])
    assert not torch.equal(one[:, 6:], other[:, 6:])
    assert torch.equal(one, places(1))


def test_a_second_guide_uses_the_first_ones_tries():
    lightness, truth_ab = photos(2, 32, 32)
    calls: list[int] = []

    def colorize(clicks: Tensor) -> Colored:
        calls.append(len(clicks))
        return around_clicks(lightness)(clicks)

    clicks = no_clicks(truth_ab)
    present = around_clicks(lightness)(clicks).ab
    arguments = (colorize, present, clicks, truth_ab)
    first, second = (torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    settings: dict[str, Any] = {"stream": 6, "draw": 1, "tries": 8, "hint_size": 1}
    known = try_clicks(*arguments, first, KEYS, **settings)
    calls.clear()
    found = try_clicks(*arguments, second, KEYS, **settings, known=known)
    assert len(calls) == 3
    assert torch.equal(found.places, torch.cat([best_apart(second, 3), known.places], 1))
    assert torch.equal(found.drops[:, 3:], known.drops)


def test_the_best_pixels_keep_apart():
    """Against a loop; 5 pixels of 64."""
    scores = torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(0))
    for photo, found in zip(scores.double().numpy(), best_apart(scores, 6).tolist(), strict=True):
        left, expected = photo.copy(), []
        for _ in range(6):
            row, col = np.unravel_index(left.argmax(), left.shape)
            expected.append(int(row) * 96 + int(col))
            for r in range(64):
                for c in range(max(0, col - 6), min(96, col + 7)):
                    if (r - row) ** 2 + (c - col) ** 2 < 25:
                        left[r, c] = -np.inf
        assert found == expected


@pytest.mark.parametrize("count", [1, 2, 5, 10, 13, 16, 17, 60])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 96)])
def test_spread_pixels_are_in_the_photo_and_each_in_another_cell(count: int, height: int, width: int):
    keys = sample_keys(0, 0, 50)
    places = stratified(keys, 6, count, height, width)
    assert places.shape == (50, count)
    rows, cols = places // width, places % width
    assert (rows >= 0).all()
    assert (rows < height).all()
    assert all(len(set(of_photo)) == count for of_photo in places.tolist())
    side = math.ceil(math.sqrt(count))
    if height % side == width % side == 0:  # no border of cells runs through a pixel
        cells = rows // (height // side) * side + cols // (width // side)
        assert all(len(set(of_photo)) == count for of_photo in cells.tolist())
    assert torch.equal(stratified(keys[7:9], 6, count, height, width), places[7:9])
    assert not torch.equal(stratified(keys, 6, count, height, width, 1), places)


def test_spread_pixels_reach_all_of_a_photo():
    places = stratified(sample_keys(0, 0, 4000), 6, 10, 32, 32)
    counts = np.bincount(((places // 32) // 8 * 4 + places % 32 // 8).flatten().numpy(), minlength=16)
    assert counts.min() > 0.9 * counts.mean()
    assert counts.max() < 1.1 * counts.mean()


def tries(gains: Tensor, places: Tensor) -> Tries:
    """Tries whose gains are these, which have mean 0."""
    return Tries(places, gains * 0.23, torch.zeros(len(gains)))


def test_losses_of_gains():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, generator=generator, requires_grad=True)
    places = torch.stack([torch.randperm(20, generator=generator)[:6] for _ in range(2)])
    gains = torch.randn(2, 6, generator=generator)
    gains -= gains.mean(1, keepdim=True)
    found = tries(gains, places)
    z = np.take_along_axis(logits.detach().numpy().reshape(2, -1), places.numpy(), 1).astype(np.float64)
    wanted = np.exp(2 * gains.double().numpy())
    wanted /= wanted.sum(1, keepdims=True)
    chance = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    expected = {
        "list": -(wanted * np.log(chance)).sum(1).mean(),
        "centred": np.square(z - z.mean(1, keepdims=True) - gains.numpy()).mean(),
    }
    for kind in ("list", "centred"):
        assert gain_loss(logits, found, kind).item() == pytest.approx(expected[kind], rel=1e-5)
        (gradient,) = torch.autograd.grad(gain_loss(logits, found, kind), logits)
        touched = {(n, place) for n in range(2) for place in places[n].tolist()}
        assert {tuple(at) for at in gradient.flatten(1).nonzero().tolist()} == touched


@pytest.mark.parametrize("kind", ["list", "centred"])
def test_scores_descend_to_the_gains(kind):
    """`centred` to the gains themselves, `list` to twice them."""
    places = torch.arange(8)[None]
    gains = torch.linspace(-1, 1, 8)[None]
    logits = torch.zeros(1, 2, 4, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.2)
    for _ in range(100):
        optimizer.zero_grad()
        gain_loss(logits, tries(gains, places), kind).backward()
        optimizer.step()
    found = logits.detach().flatten() - logits.detach().mean()
    assert torch.allclose(found, gains[0] * (2 if kind == "list" else 1), atol=0.05)
