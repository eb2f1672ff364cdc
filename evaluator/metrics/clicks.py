"""Metrics of clicks: hint error, locality, harm, distance, crowding, number needed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from evaluator.metrics.base import at_least_float32, photo_mean
from kernels.color import AB_SCALE
from kernels.error_regions import error_map

FAR = 0.25
"""Beyond this distance from a click, as a share of the diagonal, a color should stay as it was."""

CROWDED = 0.03
"""Within this distance of an earlier click, as a share of the diagonal, a click adds little."""


def hint_error(
    predicted_ab: Float[Tensor, "b 2 h w"],
    clicks: Float[Tensor, "b 3 h w"],
    positions: Int64[Tensor, "b placed"],
) -> Float64[Tensor, " b"]:
    """Distance in the ab plane, in CIE units (CIE76), between the color at a clicked pixel and the click's.

    The mean over clicks, at the clicked pixel itself (not the rest of its hint patch). Where hint patches overlap
    the color is the newest one's, as in the click map. 0 is a coloring that keeps every given color.
    NaN without clicks. Lightness is the photo's own in both, hence CIE76 on ab.

    Raises:
        ValueError: a position where the click map has no click.
    """
    if not _at(clicks[:, :1], positions).gt(0.5).all():
        raise ValueError("a position has no click in the click map; pass the positions of its clicks")
    error = at_least_float32(_at(predicted_ab, positions)) - at_least_float32(_at(clicks[:, 1:], positions))
    return photo_mean(torch.hypot(*error.unbind(1)) * AB_SCALE)


def locality(
    predicted_ab: Float[Tensor, "b 2 h w"],
    previous_ab: Float[Tensor, "b 2 h w"] | None,
    positions: Int64[Tensor, "b placed"],
) -> Float64[Tensor, " b"]:
    """Mean change of ab, in CIE units, that the newest click made far from itself; smaller is more local.

    Far is beyond a quarter of the diagonal (`FAR`). NaN without clicks, and in a photo without such pixels
    (1 x 1).

    Args:
        predicted_ab: the coloring with the newest click.
        previous_ab: the coloring with one click less; may be None without clicks.
        positions: flat indices of all clicks; the last is the newest.

    Raises:
        ValueError: there are clicks, but no previous coloring.
    """
    batch, _, height, width = predicted_ab.shape
    if not positions.shape[1]:
        return torch.full((batch,), math.nan, dtype=torch.float64, device=predicted_ab.device)
    if previous_ab is None:
        raise ValueError("locality needs the colouring before the newest click; pass previous_ab")
    far = _far(positions[:, -1], height, width).flatten(1)
    change = error_map(predicted_ab, previous_ab).flatten(1).double()
    return (change * far).sum(1) / far.sum(1)


def worse_clicks(
    predicted_ab: Float[Tensor, "b 2 h w"],
    previous_ab: Float[Tensor, "b 2 h w"] | None,
    truth_ab: Float[Tensor, "b 2 h w"],
    positions: Int64[Tensor, "b placed"],
) -> Float64[Tensor, " b"]:
    """1 where the newest click raised the photo's mean squared error of ab, else 0: its mean is a share of clicks.

    An error that stays as it was, bit by bit, is not worse. NaN without clicks.

    Args:
        predicted_ab: the coloring with the newest click.
        previous_ab: the coloring with one click less; may be None without clicks.
        truth_ab: the true colors.
        positions: flat indices of all clicks.

    Raises:
        ValueError: there are clicks, but no previous coloring.
    """
    if not positions.shape[1]:
        return torch.full((len(positions),), math.nan, dtype=torch.float64, device=predicted_ab.device)
    if previous_ab is None:
        raise ValueError("worse_clicks needs the colouring before the newest click; pass previous_ab")
    before, after = (photo_mean((ab.double() - truth_ab).square()) for ab in (previous_ab, predicted_ab))
    return (after > before).double()


def click_distance(positions: Int64[Tensor, "b placed"], height: int, width: int) -> Float64[Tensor, " b"]:
    """Mean distance from each click to the nearest other one, as a share of the diagonal, in [0, 1].

    n clicks thrown at random on a square come to about 0.35 / sqrt(n) (half the mean spacing; Clark and Evans
    1954), a little more for few clicks. NaN for fewer than two clicks.
    """
    if positions.shape[1] < 2:
        return positions.new_full((len(positions),), 0).double() * math.nan
    squares = _squared_distances(positions, width)
    itself = torch.eye(positions.shape[1], dtype=torch.bool, device=positions.device)
    nearest = squares.masked_fill(itself, math.inf).amin(2)
    return nearest.sqrt().mean(1) / math.hypot(height, width)


def click_crowding(positions: Int64[Tensor, "b placed"], height: int, width: int) -> Float64[Tensor, " b"]:
    """Share of the clicks after the first that fall within 3 % of the diagonal (`CROWDED`) of an earlier one.

    The collapse of the thesis' section 3.4 as a number: 0 is clicks that keep apart, 1 is all clicks on one
    spot. The radius is 11 px at 256 x 256. NaN for fewer than two clicks.
    """
    squares = _squared_distances(positions, width)
    near = squares <= (CROWDED * math.hypot(height, width)) ** 2
    earlier = near.tril(-1).any(2)
    return earlier[:, 1:].double().mean(1)


def _at(values: Float[Tensor, "b c h w"], positions: Int64[Tensor, "b placed"]) -> Float[Tensor, "b c placed"]:
    """Values at flat indices."""
    return values.flatten(2).gather(2, positions[:, None].expand(-1, values.shape[1], -1))


def _far(position: Int64[Tensor, " b"], height: int, width: int) -> Bool[Tensor, "b h w"]:
    """Mask of the pixels farther than `FAR` from one position per photo."""
    rows = torch.arange(height, device=position.device)[:, None] - (position // width)[:, None, None]
    cols = torch.arange(width, device=position.device) - (position % width)[:, None, None]
    return rows.square() + cols.square() > (FAR * math.hypot(height, width)) ** 2


def _squared_distances(positions: Int64[Tensor, "b placed"], width: int) -> Float64[Tensor, "b placed placed"]:
    """Exact squared distances between all pairs of clicks, in pixels."""
    rows, cols = positions // width, positions % width
    apart = [place[:, :, None] - place[:, None, :] for place in (rows, cols)]
    return (apart[0].square() + apart[1].square()).double()


@dataclass(frozen=True, eq=False)
class Nri:
    """Number of clicks that each photo needed."""

    clicks: Int64[np.ndarray, " n"]
    """A photo that never became good counts as the largest budget + 1."""
    failed: Bool[np.ndarray, " n"]
    """Photos that never became good."""

    @property
    def mean(self) -> float:
        """Mean over the photos; NaN without any. With many failures it mostly reflects the largest budget."""
        return float(self.clicks.mean()) if len(self.clicks) else float("nan")

    @property
    def failures(self) -> float:
        """Share of photos that never reached the level, in [0, 1]; NaN without photos."""
        return float(self.failed.mean()) if len(self.failed) else float("nan")


def nri(
    values: Float[np.ndarray, "n budgets"],
    budgets: Sequence[int],
    level: float,
    *,
    higher_is_better: bool = True,
) -> Nri:
    """First budget at which each photo's metric reaches a level (number of required interactions).

    Between two budgets nothing is known, so a photo that needs 6 clicks counts as 10 on the grid 0, 1, 2, 5, 10:
    compare only numbers from one grid, and ask for every budget (0, 1, 2, ..., 30) to hold them against the
    paper's. A later fall below the level does not count. An undefined value (NaN) has not reached it.

    Args:
        values: a metric per photo and budget.
        budgets: numbers of clicks, rising.
        level: reached by a value that equals it.
        higher_is_better: whether the level is a floor (PSNR) or a ceiling (LPIPS).

    Raises:
        ValueError: budgets do not rise or are not as many as the columns, or the level is NaN.
    """
    if not budgets or list(budgets) != sorted(set(budgets)) or len(budgets) != values.shape[1]:
        raise ValueError(
            f"budgets is {list(budgets)} for {values.shape[1]} columns; give one rising budget per column"
        )
    if np.isnan(level):
        raise ValueError("level is NaN; give the value of the metric that counts as good")
    reached = np.asarray(values >= level if higher_is_better else values <= level)
    failed = np.logical_not(reached.any(axis=1))
    clicks = np.asarray(budgets, dtype=np.int64)[reached.argmax(1)]
    return Nri(np.where(failed, budgets[-1] + 1, clicks), failed)
