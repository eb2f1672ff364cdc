"""From a photo's bytes to uint8 RGB, upright, and the largest centred square of it."""

import io
from collections.abc import Callable

import numpy as np
import torch
import torchvision  # noqa: F401  registers torch.ops.image
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

# Torchvision's decoder is a quarter quicker than Pillow's and gives the same pixels (a test compares them). Its
# Python functions will be removed in favour of TorchCodec; without the operator Pillow decodes everything.
_torchvision_jpeg: Callable[[Tensor, int, bool], Tensor] | None = getattr(torch.ops.image, "decode_jpeg", None)
_TORCHVISION_RGB = 3


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
            full_size = image.size
            if enough is not None:
                image.draft("RGB", (enough, enough))
            plain_jpeg = image.format == "JPEG" and image.mode in ("RGB", "L") and image.size == full_size
            if plain_jpeg and _torchvision_jpeg is not None:
                # A bytearray, because torch wants memory that may be written.
                encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
                return _torchvision_jpeg(encoded, _TORCHVISION_RGB, True)
            ImageOps.exif_transpose(image, in_place=True)
            pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise BrokenPhoto("no image in a format that Pillow reads") from error
    except (RuntimeError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Torchvision puts its own file and line before the reason.
        raise BrokenPhoto(str(error).partition("\n")[0].rpartition(", ")[2]) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def centre_crop(rgb: UInt8[Tensor, "3 h w"], size: int) -> UInt8[Tensor, "3 size size"]:
    """The largest centred square of a photo, resized to `size` pixels."""
    height, width = rgb.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resized(rgb[:, top : top + side, left : left + side], size)


def resized(window: UInt8[Tensor, "3 h w"], size: int) -> UInt8[Tensor, "3 size size"]:
    """A window resized to a square with antialiasing, bilinear; itself where it has that size."""
    if window.shape[1:] == (size, size):
        return window
    # torch has vector code for bilinear antialias on uint8, for contiguous channels-last pixels.
    pixels = window[None].contiguous(memory_format=torch.channels_last)
    return interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)[0]
