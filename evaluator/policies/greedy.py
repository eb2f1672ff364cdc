"""Policies that try candidate clicks with the real colorizer before they choose one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from evaluator.policies.base import State, needed, recolor
from evaluator.policies.uncertainty import Imagination
from evaluator.registry.session import PhotoSession
from kernels.clicks import at_places, check_some_pixel_is_free, clicked, hint_colors, place_patches
from kernels.noise import uniform

PIXELS_AT_ONCE = 2**20
"""Photos of 256 x 256 pixels are tried 16 at a time."""


@dataclass(frozen=True, kw_only=True)
class GreedyPolicy:
    """Best of many candidates, each tried in its true color: an upper reference for single clicks.

    Costs one colorizer call per candidate. The candidates are those of `candidates`; the one with the smallest
    mean squared error on ab wins, ties go to the first in reading order of the grid.
    """

    side: int = 6
    """Cells along each side of the grid of candidates: 36 of them."""
    pixels_at_once: int = PIXELS_AT_ONCE
    """Bounds the memory of a trial; changes speed, not results."""
    needs_prediction = False
    needs_truth = True
    needs_colorizer = True

    def choose(self, state: State) -> Int64[Tensor, " b"]:
        """Try all candidates. Raises a ValueError when no pixel is left."""
        truth = needed(state.truth_ab, "truth_ab")
        places, free = candidates(state, self.side)
        colors = at_places(hint_colors(truth, state.hint_size), places)
        error = try_clicks(
            state,
            places,
            colors,
            lambda predicted, photo: (predicted - truth[photo]).square().flatten(1).mean(1),
            self.pixels_at_once,
        )
        return best(places, -error, free)


@dataclass(frozen=True, kw_only=True)
class ExpectedReductionPolicy:
    """Candidate with the largest expected drop of the error; knows no true colors.

    For a colorizer that predicts mean colors, the expected drop of its mean squared error by a click is the
    expected square of the change that the click makes: the law of total variance. The expectation is over the
    candidate's likeliest colors where the colorizer has a distribution. Where it has none, over two equally
    plausible ones, one standard deviation to either side of the present one along the direction in which imagined
    clicks elsewhere move it most. The candidates are those of `candidates`; ties go to the first. Costs a
    colorizer call for each candidate and color, and those of the imagination.
    """

    side: int = 6
    """Cells along each side of the grid of candidates: 36 of them."""
    colors: int = 3
    """Likeliest colors of a candidate that are tried, of a colorizer that has a distribution."""
    imagination: Imagination = field(default_factory=Imagination)
    """For a colorizer that has none."""
    pixels_at_once: int = PIXELS_AT_ONCE
    """Bounds the memory of a trial; changes speed, not results."""
    needs_prediction = True
    needs_truth = False
    needs_colorizer = True

    def choose(self, state: State) -> Int64[Tensor, " b"]:
        """Try all candidates in both colors. Raises a ValueError when no pixel is left."""
        present = needed(state.predicted_ab, "predicted_ab")
        places, free = candidates(state, self.side)
        total = torch.zeros_like(places, dtype=torch.float32)
        for colors, share in self._plausible(state, present, places):
            total += share * try_clicks(
                state,
                places,
                colors.clamp(-1.0, 1.0),
                lambda predicted, photo: (predicted - present[photo]).square().flatten(1).mean(1),
                self.pixels_at_once,
            )
        return best(places, total, free)

    def _plausible(self, state: State, present: Tensor, places: Tensor) -> Iterator[tuple[Tensor, Tensor | float]]:
        """Plausible colors of the candidates, (b,c,2), and their probabilities."""
        session = state.colorize
        if isinstance(session, PhotoSession) and state.features is not None:
            likely = session.likely_colors(state.features, places, present.shape[-1], self.colors)
            if likely is not None:
                yield from zip(likely[0].unbind(2), likely[1].unbind(2), strict=True)
                return
        changes = [at_places(change, places) for change in self.imagination.changes(state)]
        deviation = principal_deviation(torch.stack(changes))
        yield at_places(present, places) + deviation, 0.5
        yield at_places(present, places) - deviation, 0.5


def principal_deviation(changes: Float[Tensor, "m b c 2"]) -> Float[Tensor, "b c 2"]:
    """Vector of the root mean square of two-dimensional changes along their principal direction.

    The first eigenvector of the second moments, in closed form; its sign is arbitrary.
    """
    a, b = changes.double().unbind(-1)
    aa, bb, ab = a.square().mean(0), b.square().mean(0), (a * b).mean(0)
    half, turn = (aa - bb) / 2, torch.atan2(2 * ab, aa - bb) / 2
    length = ((aa + bb) / 2 + torch.hypot(half, ab)).sqrt()
    return torch.stack([length * turn.cos(), length * turn.sin()], dim=-1).to(changes.dtype)


def candidates(state: State, side: int) -> tuple[Int64[Tensor, "b c"], Bool[Tensor, "b c"]]:
    """One uniform unclicked pixel of each cell of a grid, and whether there was one.

    The photo is cut into `side` x `side` cells in reading order; a shorter photo has a cell for each pixel. A cell
    without an unclicked pixel gives some clicked one, marked False.

    Raises:
        ValueError: every pixel of some photo is clicked.
    """
    taken = clicked(state.clicks)
    check_some_pixel_is_free(taken)
    height, width = taken.shape[-2:]
    noise = uniform(state.keys, state.step, height * width).view(-1, height, width).masked_fill(taken, -1.0)
    found = [_best_in(noise, rows, cols) for rows in _cells(height, side) for cols in _cells(width, side)]
    places, largest = (torch.stack(part, dim=1) for part in zip(*found, strict=True))
    return places, largest > 0


def try_clicks(
    state: State,
    places: Int64[Tensor, "b c"],
    colors: Float[Tensor, "b c 2"],
    measure: Callable[[Tensor, Tensor], Tensor],
    pixels_at_once: int,
) -> Float[Tensor, "b c"]:
    """Measure a photo's coloring under each candidate click in turn.

    Args:
        state: with the colorizer.
        places: flat indices of the candidates.
        colors: ab that each of them carries.
        measure: from colors (n,2,h,w) and the index of the photo of each (n,) to numbers (n,).
        pixels_at_once: colorizer calls get as many photos as have about this many pixels.
    """
    height, width = state.clicks.shape[-2:]
    trials = torch.arange(places.numel(), device=places.device)
    results = []
    for part in trials.split(max(1, pixels_at_once // (height * width))):
        photo = part // places.shape[1]
        clicks = place_patches(
            state.clicks[photo], places.flatten()[part], colors.flatten(0, 1)[part], state.hint_size
        )
        results.append(measure(recolor(state, photo, clicks), photo))
    return torch.cat(results).view_as(places)


def best(
    places: Int64[Tensor, "b c"], scores: Float[Tensor, "b c"], free: Bool[Tensor, "b c"]
) -> Int64[Tensor, " b"]:
    """The free position with the largest score; ties go to the first."""
    winner = scores.masked_fill(~free, -torch.inf).argmax(1, keepdim=True)
    return places.gather(1, winner)[:, 0]


def _cells(length: int, count: int) -> list[slice]:
    """Bounds of `count` parts of a side, or of single pixels where it is shorter."""
    count = min(count, length)
    ends = [length * i // count for i in range(count + 1)]
    return [slice(first, stop) for first, stop in pairwise(ends)]


def _best_in(noise: Tensor, rows: slice, cols: slice) -> tuple[Tensor, Tensor]:
    """Flat index and value of the largest noise in a cell."""
    cell = noise[:, rows, cols]
    largest, index = cell.flatten(1).max(1)
    across = cell.shape[2]
    return (rows.start + index // across) * noise.shape[2] + cols.start + index % across, largest
