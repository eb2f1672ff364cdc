"""Clicks by place and colour: stamps in a click map, and the free pixel nearest to a place.

The click map is that of `kernels.clicks`; here a click comes as one flat index and one colour per photo, which
costs as much as its stamp is large, not as much as the photo.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from kernels.clicks import check_some_pixel_is_free


def stamp(
    clicks: Float[Tensor, "b 3 h w"],
    positions: Int64[Tensor, " b"],
    colours: Float[Tensor, "b 2"],
    hint_size: int = 1,
) -> Float[Tensor, "b 3 h w"]:
    """A new click map with one more click per photo: the same numbers as `kernels.clicks.place` writes.

    Args:
        clicks: the map so far; not modified.
        positions: flat index row * width + col of each photo's click.
        colours: ab that each click carries, CIE / 128.
        hint_size: side of the stamp in pixels, at least 1; cut off at the border.
    """
    batch, _, height, width = clicks.shape
    offset = torch.arange(-((hint_size - 1) // 2), hint_size // 2 + 1, device=positions.device)
    # A pixel beyond the border becomes the border's own, which lies under the stamp too.
    rows = ((positions // width)[:, None] + offset).clamp(0, height - 1)
    cols = ((positions % width)[:, None] + offset).clamp(0, width - 1)
    under = (rows[:, :, None] * width + cols[:, None, :]).view(batch, 1, -1).expand(-1, 3, -1)
    written = torch.cat([torch.ones_like(colours[:, :1]), colours], dim=1)[:, :, None].expand_as(under)
    return clicks.flatten(2).scatter(2, under, written.to(clicks.dtype)).view_as(clicks)


def nearest_free(positions: Int64[Tensor, " b"], taken: Bool[Tensor, "b h w"]) -> Int64[Tensor, " b"]:
    """The free pixel nearest to each position: the position itself where it is free; ties go to the first.

    Raises:
        ValueError: every pixel of some photo is taken.
    """
    height, width = taken.shape[-2:]
    occupied = taken.flatten(1).gather(1, positions[:, None])[:, 0].nonzero()[:, 0]
    if not len(occupied):
        return positions
    check_some_pixel_is_free(taken[occupied])
    place = positions[occupied, None, None]
    rows = torch.arange(height, device=taken.device)[:, None] - place // width
    cols = torch.arange(width, device=taken.device) - place % width
    squared = (rows.square() + cols.square()).masked_fill(taken[occupied], torch.iinfo(torch.int64).max)
    return positions.index_put((occupied,), squared.flatten(1).argmin(1))


def at_places(values: Float[Tensor, "b k h w"], places: Int64[Tensor, "b c"]) -> Float[Tensor, "b c k"]:
    """The values at flat indices row * width + col."""
    return values.flatten(2).gather(2, places[:, None].expand(-1, values.shape[1], -1)).mT
