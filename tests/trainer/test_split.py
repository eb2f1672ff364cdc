"""The split network against loops in float64, at any size and number of clicks, and what it promises."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree
from scipy.stats import spearmanr
from skimage.color import rgb2lab
from torch import Tensor

from tests.trainer.split_networks import click_map, photos, split_network
from trainer.networks import Embedding, SplitColorNet
from trainer.networks.split import color_bins, soft_bins, upsample_convex

SIZES = [(32, 32), (64, 64), (64, 192), (160, 32), (96, 128)]
HEADS, WIDEST, NARROWEST, TONE, NOTHING = 5, 0.6, 0.06, 0.13, -3.0


def cells_of(image: np.ndarray) -> np.ndarray:
    """Sums over 4 x 4 pixels."""
    height, width = image.shape[-2:]
    return image.reshape(*image.shape[:-2], height // 4, 4, width // 4, 4).sum((-3, -1))


def kernel(lightness: Tensor, clicks: Tensor) -> np.ndarray:
    """Colors of the cells of one photo: a mean over heads of the clicks' colors, weighted by nearness.

    Cell by cell, head by head.
    """
    light = cells_of(lightness[0].double().numpy()) / 16
    count, *colors = cells_of(clicks.double().numpy())
    height, width = light.shape
    side = (height + width) / 2
    tokens = [
        (row, col, np.array([color[row, col] for color in colors]) / count[row, col])
        for row, col in zip(*np.nonzero(count), strict=True)
    ]
    spreads = [WIDEST * (NARROWEST / WIDEST) ** (head / (HEADS - 1)) for head in range(HEADS)]
    found = np.zeros((2, height, width))
    for row in range(height):
        for col in range(width):
            for spread in spreads:
                total, mixed = math.exp(NOTHING), np.zeros(2)
                for at_row, at_col, color in tokens:
                    distance = ((row - at_row) ** 2 + (col - at_col) ** 2) / side**2
                    tone = (light[row, col] - light[at_row, at_col]) ** 2
                    weight = math.exp(-distance / (2 * spread**2) - tone / (2 * TONE**2))
                    total, mixed = total + weight, mixed + weight * color
                found[:, row, col] += mixed / total / HEADS
    return found


def enlarged(low: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Four times the sides, pixel by pixel; weights (9, 16, h, w), or (9, 16) for all cells alike."""
    channels, height, width = low.shape
    weights = np.broadcast_to(weights.reshape(9, 16, *weights.shape[2:] or (1, 1)), (9, 16, height, width))
    found = np.zeros((channels, 4 * height, 4 * width))
    for row in range(4 * height):
        for col in range(4 * width):
            for neighbor in range(9):
                r = min(max(row // 4 + neighbor // 3 - 1, 0), height - 1)
                c = min(max(col // 4 + neighbor % 3 - 1, 0), width - 1)
                share = weights[neighbor, 4 * (row % 4) + col % 4, row // 4, col // 4]
                found[:, row, col] += share * low[:, r, c]
    return found


def bilinear() -> np.ndarray:
    """Weights that upsampling begins with, (9, 16): bilinear, and 1 % for the cell on the other side."""
    near = np.array([[0.375, 0.625, 0.01], [0.125, 0.875, 0.01], [0.01, 0.875, 0.125], [0.01, 0.625, 0.375]])
    near /= near.sum(1, keepdims=True)
    return np.einsum("ui,vj->ijuv", near, near).reshape(9, 16)


def copied(ab: np.ndarray, lightness: np.ndarray, clicks: np.ndarray) -> np.ndarray:
    """What a click leaves around it, within three pixels, click by click; its own pixel has its color."""
    height, width = lightness.shape
    amount, missing, light = np.zeros((height, width)), np.zeros_like(ab), np.zeros((height, width))
    clicked = list(zip(*np.nonzero(clicks[0]), strict=True))
    for at_row, at_col in clicked:
        for row in range(max(0, at_row - 3), min(height, at_row + 4)):
            for col in range(max(0, at_col - 3), min(width, at_col + 4)):
                bell = math.exp(-((row - at_row) ** 2 + (col - at_col) ** 2) / 2)
                amount[row, col] += bell
                missing[:, row, col] += bell * (clicks[1:, at_row, at_col] - ab[:, at_row, at_col])
                light[row, col] += bell * lightness[at_row, at_col]
    there = amount > 0
    alike = np.where(there, np.exp(-((lightness - light / np.where(there, amount, 1)) ** 2) / (2 * 0.08**2)), 0)
    found = ab + alike * missing / np.maximum(amount, 1)
    for row, col in clicked:
        found[:, row, col] = clicks[1:, row, col]
    return found.clip(-1, 1)


@pytest.mark.parametrize(("size", "count"), [((64, 64), 0), ((64, 64), 1), ((32, 96), 7), ((64, 32), 100)])
@torch.no_grad()
def test_an_untrained_network_is_the_kernel(size: tuple[int, int], count: int):
    lightness, truth_ab = photos(1, *size)
    clicks = click_map(truth_ab, count)
    found = split_network(without=["copy"], untrained=True).double()(lightness.double(), clicks.double())[0]
    expected = enlarged(kernel(lightness[0], clicks[0]), bilinear())
    assert np.abs(found.numpy() - expected).max() <= 1e-6  # its parameters were float32
    assert np.abs(found.numpy()).max() > 0.05 or not count
    with_copy = split_network(untrained=True)(lightness, clicks)[0]
    expected = copied(expected, lightness[0, 0].double().numpy(), clicks[0].double().numpy())
    assert np.abs(with_copy.numpy() - expected).max() <= 1e-4


@torch.no_grad()
def test_a_kernel_is_round_on_a_photo_of_any_shape():
    """Also one that is three times as wide as high."""
    lightness, clicks = torch.full((1, 1, 64, 192), 0.5), torch.zeros(1, 3, 64, 192)
    clicks[0, :, 32:36, 96:100] = torch.tensor([1.0, 0.5, -0.3])[:, None, None]
    ab = split_network(without=["copy"], untrained=True)(lightness, clicks)
    around = ab[..., 32 - 24 : 36 + 24, 96 - 24 : 100 + 24]
    assert torch.allclose(around, around.mT, atol=1e-5)
    assert torch.allclose(around, around.flip(-1), atol=1e-5)
    assert around.std() > 0.01


@torch.no_grad()
def test_transposed_photos_and_clicks_have_the_transposed_answer():
    network = split_network(untrained=True)
    lightness, truth_ab = photos(2, 64, 160)
    clicks = click_map(truth_ab, 9)
    assert torch.allclose(network(lightness.mT, clicks.mT), network(lightness, clicks).mT, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [0, 1, 100, "all"])
@torch.no_grad()
def test_any_size_and_any_number_of_clicks(size: tuple[int, int], count: int | str):
    """With 100, on all but the smallest photos, more than 64 cells are clicked."""
    lightness, truth_ab = photos(2, *size)
    clicks = click_map(truth_ab, truth_ab[0, 0].numel() if count == "all" else int(count))
    ab = split_network()(lightness, clicks)
    assert ab.shape == truth_ab.shape
    assert ab.isfinite().all()
    assert ab.abs().max() <= 1
    taken = (clicks[:, :1] > 0).expand_as(ab)
    assert torch.equal(ab[taken], truth_ab[taken])


@torch.no_grad()
def test_every_click_beyond_64_counts():
    """One more click changes colors around it, whichever of 100 it is."""
    network = split_network(without=["copy"], untrained=True)
    lightness, truth_ab = photos(1, 64, 64)
    clicks = click_map(truth_ab, 100)
    before = network(lightness, clicks)
    for place in clicks[0, 0].flatten().nonzero()[[0, 50, 99], 0]:
        row, col = int(place) // 64, int(place) % 64
        other = clicks.clone()
        other[0, 1:, row, col] *= -1
        moved = (network(lightness, other) - before).abs()[0].amax(0)
        assert moved[row, col] > 0.5 * moved.max() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_is_near_and_copies_clicks_exactly(dtype: torch.dtype):
    network = split_network()
    lightness, truth_ab = photos(2, 64, 96)
    clicks = click_map(truth_ab, 30)
    whole = network(lightness, clicks)
    with torch.autocast("cpu", dtype):
        half = network(lightness, clicks)
        untrained = split_network(untrained=True)(lightness, clicks)
    assert half.dtype == torch.float32
    taken = (clicks[:, :1] > 0).expand_as(half)
    assert torch.equal(half[taken], truth_ab[taken])
    assert (half - whole).abs().max() <= 0.1
    assert (half - whole).abs().mean() <= 0.01
    assert (untrained - split_network(untrained=True)(lightness, clicks)).abs().max() <= 1e-3


@torch.no_grad()
def test_a_photo_is_looked_at_once_for_several_click_maps():
    network = split_network()
    lightness, truth_ab = photos(2, 64, 96)
    maps = [click_map(truth_ab, count, seed=count) for count in (0, 3, 40)]
    together = network(lightness, torch.stack(maps, 1).flatten(0, 1))
    embedding = network.embed(lightness)
    for number, clicks in enumerate(maps):
        alone = network(lightness, clicks)
        assert torch.allclose(together[number::3], alone, atol=1e-5)
        ab, features = network.color(embedding, lightness, clicks)
        assert torch.equal(ab, alone)
        assert features.shape == (2, network.feature_channels, 16, 24)
    one = Embedding(*(part[:1] for part in embedding))
    of_first = torch.cat([clicks[:1] for clicks in maps])
    ab, _ = network.color(one, lightness[:1], of_first)
    assert torch.allclose(ab, together[:3], atol=1e-5)


@torch.no_grad()
def test_photos_of_a_batch_do_not_see_each_other():
    """Also where they have different numbers of clicks."""
    network = split_network()
    lightness, truth_ab = photos(3, 64, 64)
    clicks = torch.cat([click_map(truth_ab[n : n + 1], count) for n, count in enumerate((0, 2, 90))])
    together = network(lightness, clicks)
    for n in range(3):
        assert torch.allclose(together[n : n + 1], network(lightness[n : n + 1], clicks[n : n + 1]), atol=1e-5)


@torch.no_grad()
def test_what_a_training_looks_at_is_the_answer_and_its_parts():
    network = split_network()
    lightness, truth_ab = photos(2, 64, 64)
    clicks = torch.cat([click_map(truth_ab, 5, seed=n) for n in (0, 1)]).unflatten(0, (2, 2)).transpose(0, 1)
    clicks = clicks.flatten(0, 1)
    places = torch.tensor([[0, 17, 255]] * 4)
    found = network(lightness, clicks, places=places)
    assert torch.equal(found.ab, network(lightness, clicks))
    bare = split_network(without=["attention", "copy"])
    assert found.base_ab.shape == (2, 2, 64, 64)
    assert not torch.allclose(found.base_ab, bare(lightness, torch.zeros(2, 3, 64, 64)), atol=1e-3)
    assert found.bin_logits.shape == (4, len(network.bins), 3)
    _, features = network.color(network.embed(lightness), lightness, clicks)
    assert torch.allclose(network.bin_logits(features, places), found.bin_logits, atol=1e-5)


@torch.no_grad()
def test_features_end_with_the_entropy_and_spread_of_the_color_distribution():
    network = split_network()
    lightness, truth_ab = photos(1, 64, 64)
    _, features = network.color(network.embed(lightness), lightness, click_map(truth_ab, 5))
    blocks = features.double().unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))[0].flatten(1)
    logits = network.palette.double()(blocks[None, :-2, :, None])[0, :, :, 0]
    probability = logits.softmax(0).T.numpy()
    entropy = -(probability * np.log(probability)).sum(1) / math.log(probability.shape[1])
    bins = network.bins.double().numpy()
    spread = [np.sqrt((p @ (bins - p @ bins) ** 2).sum()) for p in probability]
    assert np.allclose(features[0, -2, ::2, ::2].flatten(), entropy, atol=1e-5)
    assert np.allclose(features[0, -1, 1::2, 1::2].flatten(), spread, atol=1e-4)


def test_upsampling_is_a_weighted_mean_of_neighbors():
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(2, 2, 3, 5, generator=generator)
    weights = torch.rand(2, 9, 16, 3, 5, generator=generator)
    found = upsample_convex(low, weights)
    for n in range(2):
        assert np.allclose(found[n], enlarged(low[n].double().numpy(), weights[n].double().numpy()), atol=1e-5)


def test_color_bins_are_those_that_srgb_reaches():
    """Those of 33 values a channel; no color of all 256 is far from them."""
    axis = np.round(np.linspace(0, 1, 33) * 255).astype(np.uint8)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(1, -1, 3)
    reached = np.unique(np.round(rgb2lab(grid)[0, :, 1:] / 10), axis=0)
    bins = color_bins().double().numpy() * 128
    assert {tuple(row) for row in reached} == {tuple(row) for row in np.round(bins / 10)}
    assert np.allclose(bins, np.round(bins / 10) * 10, atol=1e-4)
    every, few = np.arange(0, 256, 3, dtype=np.uint8), np.array([0, 128, 255], dtype=np.uint8)
    for order in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        rgb = np.stack(np.meshgrid(every, every, few, indexing="ij"), -1).reshape(1, -1, 3)[..., order]
        distance, _ = KDTree(bins).query(rgb2lab(rgb)[0, :, 1:])
        assert distance.max() <= math.hypot(5, 5) + 0.5


def test_soft_bins_are_a_gaussian_over_the_five_nearest():
    ab = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) - 0.5
    centers = color_bins()
    weights = soft_bins(ab, centers)
    assert torch.allclose(weights.sum(1), torch.ones(50), atol=1e-6)
    for color, found in zip(ab.double().numpy() * 128, weights.numpy(), strict=True):
        distance = np.linalg.norm(centers.double().numpy() * 128 - color, axis=1)
        nearest = np.argsort(distance)[:5]
        expected = np.zeros(len(centers))
        expected[nearest] = np.exp(-(distance[nearest] ** 2) / 50)
        assert np.allclose(found, expected / expected.sum(), atol=1e-4)


@pytest.mark.parametrize("count", [0, 3])
def test_gradients_reach_clicks_that_are_not_there(count: int):
    """Straight-through estimators ask what a click would change where none is: all pixels answer."""
    lightness, truth_ab = photos(2, 64, 64)
    selection = torch.zeros(2, 1, 64, 64, requires_grad=True)
    clicks = click_map(truth_ab, count) + torch.cat([selection, selection * truth_ab], 1)
    (split_network()(lightness, clicks) - truth_ab).square().mean().backward()
    assert selection.grad is not None
    assert selection.grad.isfinite().all()
    free = click_map(truth_ab, count)[:, :1] == 0
    assert (selection.grad[free] != 0).float().mean() > 0.99


def test_gradients_of_clicks_that_are_not_there_tell_what_they_would_change():
    network = split_network(without=["attention"], untrained=True)  # which looks at clicked cells alone
    lightness, truth_ab = photos(1, 32, 32)
    selection = torch.zeros(1, 1, 32, 32, requires_grad=True)
    clicks = click_map(truth_ab, 3)
    before = (
        (network(lightness, clicks + torch.cat([selection, selection * truth_ab], 1)) - truth_ab).square().sum()
    )
    before.backward()
    assert selection.grad is not None
    free = (clicks[0, 0] == 0).flatten().nonzero()[::9, 0]
    change = []
    for place in free.tolist():
        one = clicks.clone()
        row, col = place // 32, place % 32
        one[0, :, row, col] = torch.cat([torch.ones(1), truth_ab[0, :, row, col]])
        with torch.no_grad():
            change.append(float((network(lightness, one) - truth_ab).square().sum() - before.detach()))
    guessed = selection.grad.flatten()[free].numpy()
    assert spearmanr(guessed, change).statistic > 0.9  # pyright: ignore[reportAttributeAccessIssue]: scipy's tuple
    assert ((guessed < 0) == (np.array(change) < 0)).mean() > 0.9


@pytest.mark.parametrize("part", ["attention", "kernel", "copy"])
@torch.no_grad()
def test_each_part_can_be_left_out(part):
    lightness, truth_ab = photos(1, 64, 64)
    clicks = click_map(truth_ab, 5)
    whole, less = split_network(untrained=True), split_network(without=[part], untrained=True)
    difference = (whole(lightness, clicks) - less(lightness, clicks)).abs()
    assert difference.max() > 0.01
    if part == "attention":  # what is left is near the clicks
        far = torch.nn.functional.max_pool2d(clicks[:, :1], 9, 1, 4)[:, 0] == 0
        assert less(lightness, clicks).abs()[0].amax(0)[far[0]].max() < 1e-6


@pytest.mark.parametrize(("photo", "click"), [((8, 8, 8), (8, 8, 8)), ((8,) * 4, (8, 8)), ((8,) * 4, (8, 3, 8))])
def test_other_widths_are_refused(photo: tuple[int, ...], click: tuple[int, ...]):
    with pytest.raises(ValueError, match="give four and three, each at least 4"):
        SplitColorNet("fresh", photo, click)
