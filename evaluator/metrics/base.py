"""Input of every metric: a batch of colorings with the truth, measured photo by photo."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Float64, Int64, Shaped, UInt8
from torch import Tensor

from kernels.color import lab_to_rgb, to_uint8


def at_least_float32(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The tensor with half precision widened to float32; float32 and float64 as they are."""
    return value if value.dtype == torch.float64 else value.float()


def photo_mean(values: Shaped[Tensor, "b *rest"]) -> Float64[Tensor, " b"]:
    """The mean over everything but the batch, summed in float64.

    The order in which a float32 sum is taken depends on the batch's size and on the number of threads, and
    shows in the sixth digit; in float64 it does not show.
    """
    return values.flatten(1).mean(1, dtype=torch.float64)


def require_side(what: str, photo: Shaped[Tensor, "b c h w"], smallest: int) -> None:
    """Raise a ValueError when a side of the photos is below `smallest` pixels."""
    height, width = photo.shape[-2:]
    if min(height, width) < smallest:
        raise ValueError(f"a photo of {height} x {width} pixels; {what} needs at least {smallest} x {smallest}")


_CACHED_PIXELS = 2**16
"""Pixels per CPU thread that are measured at a time; a photo of 256 px or four of 128 px."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Comparison:
    """A batch of colorings on one device, with the truth and the clicks behind them."""

    lightness: Float[Tensor, "b 1 h w"]
    predicted_ab: Float[Tensor, "b 2 h w"]
    truth_ab: Float[Tensor, "b 2 h w"]
    truth_rgb: UInt8[Tensor, "b 3 h w"]
    """The original photo, not its round trip through Lab."""
    clicks: Float[Tensor, "b 3 h w"] | None = None
    """The click map that the colorizer was given."""
    positions: Int64[Tensor, "b placed"] | None = None
    """Flat indices of the clicked pixels in that map, in the order in which they were clicked."""
    previous_ab: Float[Tensor, "b 2 h w"] | None = None
    """The coloring just before the newest click."""
    shared: dict[str, Any] = field(default_factory=dict)
    """What metrics computed from the truth alone (`of_truth`). Comparisons with the same truth may share one."""

    @cached_property
    def predicted_rgb(self) -> UInt8[Tensor, "b 3 h w"]:
        """The colored photo as it is shown: clipped to sRGB and rounded."""
        if len(self.parts) > 1:
            return torch.cat([part.predicted_rgb for part in self.parts])
        return to_uint8(lab_to_rgb(self.lightness, self.predicted_ab))

    @cached_property
    def parts(self) -> list["Comparison"]:
        """The photos in chunks in which they are measured.

        On a CPU a few at a time, so that temporaries stay in the caches (SSIM at 256 px: 3 to 4 times as fast as
        32 photos at once). On a GPU all at once.
        """
        photos, _, height, width = self.truth_rgb.shape
        at_once = max(1, _CACHED_PIXELS * torch.get_num_threads() // (height * width))
        if photos <= at_once or self.truth_rgb.device.type != "cpu":
            return [self]
        return [self._part(slice(first, first + at_once)) for first in range(0, photos, at_once)]

    def of_truth(self, name: str, compute: Callable[[], T]) -> T:
        """Cached result of `compute`, which depends on the truth alone; shared by all comparisons with it."""
        if name not in self.shared:
            self.shared[name] = compute()
        return self.shared[name]

    def needed(self, name: str) -> Tensor:
        """Tensor of an optional field, or an error.

        Raises:
            ValueError: it was not given.
        """
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"this metric needs {name}; pass it to Comparison(..., {name}=...)")
        return value

    def _part(self, rows: slice) -> "Comparison":
        values: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        values |= {name: value[rows] for name, value in values.items() if isinstance(value, Tensor)}
        values["shared"] = self.of_truth(f"photos from {rows.start} to {rows.stop}", dict)
        return Comparison(**values)
