"""From a photo's bytes to the uint8 RGB crop that the networks see.

"Random scaling of 20 pixels, random cropping" (thesis, 4.1.1): the short side becomes size + U{0 ... 20}, then a
size x size window is cut. Here the window is cut first, at the photo's own scale, and only the window is
resized: the same distribution of crops up to a pixel of rounding, for about half of the work.
"""

import io

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate


class BrokenPhoto(ValueError):
    """Bytes that are no decodable photo."""


def decode_rgb(data: bytes, enough: int | None = None) -> UInt8[Tensor, "3 h w"]:
    """Decode a photo in any format that Pillow reads; upright (EXIF), three channels.

    With `enough`, a JPEG whose sides are at least twice as long is decoded at 1/2, 1/4 or 1/8 of its size,
    its sides still at least `enough` pixels.

    Raises:
        BrokenPhoto: no photo, or one that is cut short.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if enough is not None:
                image.draft("RGB", (enough, enough))
            ImageOps.exif_transpose(image, in_place=True)
            pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise BrokenPhoto("no image in a format that Pillow reads") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BrokenPhoto(str(error)) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def random_crop(
    rgb: UInt8[Tensor, "3 h w"], size: int, scale_jitter: int, draws: tuple[float, float, float]
) -> UInt8[Tensor, "3 size size"]:
    """A random window of a photo, `size` pixels square.

    Args:
        rgb: The photo; a short side below `size` is enlarged.
        size: Side of the result in pixels.
        scale_jitter: The photo's short side is scaled to `size` + 0 ... `scale_jitter` pixels.
        draws: Uniform numbers in [0, 1) for the scale, the row and the column.
    """
    height, width = rgb.shape[1:]
    short_side = min(height, width)
    side = max(1, round(short_side * size / (size + int(draws[0] * (scale_jitter + 1)))))
    top, left = int(draws[1] * (height - side + 1)), int(draws[2] * (width - side + 1))
    return _resized(rgb[:, top : top + side, left : left + side], size)


def centre_crop(rgb: UInt8[Tensor, "3 h w"], size: int) -> UInt8[Tensor, "3 size size"]:
    """The largest centred square of a photo, resized to `size` pixels."""
    height, width = rgb.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return _resized(rgb[:, top : top + side, left : left + side], size)


def _resized(window: Tensor, size: int) -> Tensor:
    if window.shape[1:] == (size, size):
        return window
    # Bilinear with antialias on uint8: torch has vector code for exactly this, some 4x quicker than Pillow's.
    return interpolate(window[None], size=(size, size), mode="bilinear", antialias=True)[0]
