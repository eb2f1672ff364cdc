"""Limits, errors and mode conversion for all readers of photos. Needs Pillow alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 180_000_000
"""Of a photo that is decoded at all; a larger one may be a decompression bomb."""
TOO_LARGE = f"more than {MAX_PIXELS / 1e6:.0f} million pixels, perhaps a decompression bomb"
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow itself warns at 89 million


class BrokenPhoto(ValueError):
    """Raised for bytes that cannot be decoded as a photo."""


@contextmanager
def explained() -> Iterator[None]:
    """Context that turns Pillow's and torchvision's errors for a bad photo into a BrokenPhoto."""
    try:
        yield
    except BrokenPhoto:
        raise
    except UnidentifiedImageError as error:
        raise BrokenPhoto("no image in a format that Pillow reads") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BrokenPhoto(TOO_LARGE) from error
    except (RuntimeError, OSError, SyntaxError, ValueError) as error:
        # Torchvision puts its own file and line before the reason.
        raise BrokenPhoto(str(error).partition("\n")[0].rpartition(", ")[2]) from error


def as_rgb(image: Image.Image) -> Image.Image:
    """An image with three channels of 8 bits; alpha is dropped, 16 bits are rounded down.

    Raises:
        BrokenPhoto: 32-bit pixels, which have no range that one could know.
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):  # Pillow would clip at 255
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise BrokenPhoto(f"32-bit pixels (mode {image.mode}) have no known range; save it with 8 or 16 bits")
    if isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # Pillow warns where this step is left out
    return image.convert("RGB")
