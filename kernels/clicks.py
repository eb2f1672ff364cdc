"""Click maps: where clicks are, and how a click writes its color.

A click at pixel (row, col) with hint size s fills a hint patch: rows row - (s-1)//2 ... row + s//2 (and
the same for columns), cut off at the border. It sets the mask to 1 there and the color to the mean of the true
ab inside that square. With s = 1 this is the thesis' click (section 3.1.2): the pixel and its own color.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

LARGEST_HINT = 31
"""Side of the largest hint patch of `choose_click` and of training, in pixels."""


def no_clicks(like_ab: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b 3 h w"]:
    """An empty click map for photos of this batch, size and device, in float32."""
    batch, _, height, width = like_ab.shape
    return torch.zeros(batch, 3, height, width, dtype=torch.float32, device=like_ab.device)


def clicked(clicks: Float[Tensor, "b 3 h w"]) -> Bool[Tensor, "b h w"]:
    """Mask of the clicked pixels."""
    return clicks[:, 0] > 0.5


def one_hot(choice: Int64[Tensor, " b"], height: int, width: int) -> Float[Tensor, "b h w"]:
    """One-hot maps of the chosen pixels (flat index row * width + col), in float32."""
    flat = torch.zeros(len(choice), height * width, device=choice.device)
    return flat.scatter_(1, choice[:, None], 1.0).view(-1, height, width)


def hint_colors(truth_ab: Float[Tensor, "b 2 h w"], hint_size: int) -> Float[Tensor, "b 2 h w"]:
    """Color that a click of `hint_size` has at each pixel: the mean true ab over its hint patch."""
    _check_hint_size(hint_size)
    if hint_size == 1:
        return truth_ab
    height, width = truth_ab.shape[-2:]
    covered = box_sum(torch.ones(1, 1, height, width, device=truth_ab.device), hint_size, mirrored=False)
    return box_sum(_exact(truth_ab), hint_size, mirrored=False) / covered


def place(
    clicks: Float[Tensor, "b 3 h w"],
    colors: Float[Tensor, "b 2 h w"],
    selection: Float[Tensor, "b h w"],
    hint_size: int = 1,
) -> Float[Tensor, "b 3 h w"]:
    """Write one click into each click map, differentiably with respect to `selection`.

    Args:
        clicks: the map so far; not modified.
        colors: the hint color at each pixel, from `hint_colors` with the same hint size.
        selection: one-hot, or a relaxed selection that sums to at most 1 (soft Gumbel-Softmax).
        hint_size: side of the hint patch in pixels, at least 1.

    Computed in float32, or in float64 for a float64 selection. The newest click covers older ones under its
    hint patch. The gradient at a pixel is d(mask) + d(a) * a + d(b) * b, summed over that pixel's hint patch, of
    its candidate color (a, b).
    """
    _check_hint_size(hint_size)
    selection = _exact(selection).unsqueeze(1)
    written = torch.cat([selection, selection * colors.to(selection.dtype)], dim=1)
    written = box_sum(written, hint_size, mirrored=True)
    return clicks * (1.0 - written[:, :1].detach().clamp(max=1.0)) + written


def scatter_clicks(
    colors: Float[Tensor, "b 2 h w"], places: Float[Tensor, "b h w"], hint_size: int = 1
) -> Float[Tensor, "b 3 h w"]:
    """A click map with clicks at all `places` (0 or 1) at once; overlapping hint patches average."""
    _check_hint_size(hint_size)
    places = places.float().unsqueeze(1)
    written = box_sum(torch.cat([places, places * colors.float()], dim=1), hint_size, mirrored=True)
    return torch.cat([(written[:, :1] > 0.5).float(), written[:, 1:] / written[:, :1].clamp(min=1.0)], dim=1)


def place_clicks(
    clicks: Float[Tensor, "b 3 h w"],
    truth_ab: Float[Tensor, "b 2 h w"],
    choice: Int64[Tensor, " b"],
    hint_size: int = 1,
) -> Float[Tensor, "b 3 h w"]:
    """A new click map with one more click per photo at flat index `choice`, in the true color."""
    selection = one_hot(choice, *clicks.shape[-2:])
    return place(clicks, hint_colors(truth_ab, hint_size), selection, hint_size)


def random_choice(clicks: Float[Tensor, "b 3 h w"], noise: Float[Tensor, "b h w"]) -> Int64[Tensor, " b"]:
    """The unclicked pixel with the largest noise in each photo: uniform for i.i.d. noise.

    Raises:
        ValueError: every pixel of some photo is already clicked.
    """
    return masked_argmax(noise, clicked(clicks))


def masked_argmax(scores: Float[Tensor, "b h w"], taken: Bool[Tensor, "b h w"]) -> Int64[Tensor, " b"]:
    """Flat index of the largest score among the pixels that are not taken; ties go to the first.

    Raises:
        ValueError: every pixel of some photo is taken.
    """
    check_some_pixel_is_free(taken)
    # Not -inf: a free pixel whose score is itself -inf must still win over a taken one.
    lowest = torch.finfo(torch.float32).min
    scores = scores.float().clamp(min=lowest / 2).masked_fill(taken, lowest)
    return scores.flatten(1).argmax(1)


def check_some_pixel_is_free(taken: Bool[Tensor, "b h w"]) -> None:
    """Raise a ValueError that counts the photos in which no pixel is left to click.

    Skipped under tracing, where a value cannot be read.
    """
    if torch.compiler.is_compiling():
        return
    full = taken.flatten(1).all(1)
    if full.any():
        raise ValueError(
            f"all pixels of {int(full.sum())} of {len(full)} photos are clicked; "
            "ask for fewer clicks, a smaller hint_size or a larger photo"
        )


def _exact(x: Tensor) -> Tensor:
    """The tensor in float32; float64 stays float64."""
    return x if x.dtype == torch.float64 else x.float()


def _check_hint_size(hint_size: int) -> None:
    if hint_size < 1:
        raise ValueError(f"hint_size is {hint_size}; it must be at least 1 pixel")


def box_sum(x: Float[Tensor, "b c h w"], size: int, *, mirrored: bool) -> Float[Tensor, "b c h w"]:
    """Sum over each pixel's hint patch (`mirrored`: over the pixels whose patch covers it), zero outside."""
    if size == 1:
        return x
    before, after = (size - 1) // 2, size // 2
    if mirrored:
        before, after = after, before
    padded = F.pad(x, (before, after, before, after))
    return F.avg_pool2d(padded, size, stride=1, divisor_override=1)


def place_patches(
    clicks: Float[Tensor, "b 3 h w"],
    positions: Int64[Tensor, " b"],
    colors: Float[Tensor, "b 2"],
    hint_size: int = 1,
) -> Float[Tensor, "b 3 h w"]:
    """A new click map with one more click per photo: the same numbers as `kernels.clicks.place` writes.

    Args:
        clicks: the map so far; not modified.
        positions: flat index row * width + col of each photo's click.
        colors: ab that each click carries, CIE / 128.
        hint_size: side of the hint patch in pixels, at least 1; cut off at the border.
    """
    batch, _, height, width = clicks.shape
    offset = torch.arange(-((hint_size - 1) // 2), hint_size // 2 + 1, device=positions.device)
    # A pixel beyond the border becomes the border's own, which lies under the hint patch too.
    rows = ((positions // width)[:, None] + offset).clamp(0, height - 1)
    cols = ((positions % width)[:, None] + offset).clamp(0, width - 1)
    under = (rows[:, :, None] * width + cols[:, None, :]).view(batch, 1, -1).expand(-1, 3, -1)
    written = torch.cat([torch.ones_like(colors[:, :1]), colors], dim=1)[:, :, None].expand_as(under)
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
    """Values at flat indices row * width + col."""
    return values.flatten(2).gather(2, places[:, None].expand(-1, values.shape[1], -1)).mT
