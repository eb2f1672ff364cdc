"""What the metrics have in common: precision, means that do not depend on the batch, and the smallest photo."""

import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor


def at_least_float32(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Half precision as float32; float32 and float64 as they are."""
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
