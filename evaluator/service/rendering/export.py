"""Full-size export of a colored photo as a file.

TIFF keeps the photo's lightness bit by bit, whatever the colors: it is written as CIELab with 16 bits. PNG and
JPEG hold 8-bit sRGB, which cannot (`docs/results/upsampling.md` has the figures).
"""

import io
from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt16
from PIL import Image
from torch import Tensor

from evaluator.service.images.decode import FULL
from evaluator.service.images.store import StoredPhoto
from evaluator.service.rendering.lab_tiff import encode_lab
from evaluator.service.rendering.upsample import Upsampler
from kernels.color import lab_to_uint8

ExportFormat = Literal["png", "jpeg", "tiff"]
_STRIP = 2**19
"""Pixels that are colored at once: some 30 MB."""
_PNG_LEVEL = 4
"""A sixth larger than at level 6, in half the time."""


def render(
    photo: StoredPhoto, ab: Float[Tensor, "1 2 h w"], format: ExportFormat = "png", quality: int = 95
) -> bytes:
    """File of the photo in full size with its colors and its EXIF.

    Beside the file itself, a photo of n pixels takes some 10 n bytes of memory.

    Args:
        photo: gives the lightness.
        ab: at the working size, CIE / 128.
        format: of the file.
        quality: of a JPEG, 1 to 100.

    Raises:
        ValueError: an unknown format, or a quality that is none.
        PhotoMissing: the photo has left the store.
    """
    if format not in get_args(ExportFormat):
        raise ValueError(f"format is {format!r}; take one of {', '.join(get_args(ExportFormat))}")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality is {quality}; give 1 to 100")
    lightness = photo.full_lightness()
    strips = _colored(lightness, Upsampler(ab, photo.working, (photo.height, photo.width)))
    if format == "tiff":
        return encode_lab(lightness, (colours for _, _, colours in strips), photo.exif)
    rgb = np.empty((photo.height, photo.width, 3), np.uint8)
    for top, light, colours in strips:
        rgb[top : top + light.shape[-2]] = lab_to_uint8(light, colours)[0].permute(1, 2, 0).numpy()
    return _saved(Image.fromarray(rgb), format, quality, photo.exif)


def _colored(
    lightness: UInt16[np.ndarray, "h w"], colours: Upsampler
) -> Iterator[tuple[int, Float[Tensor, "1 1 rows w"], Float[Tensor, "1 2 rows w"]]]:
    """Strips of the photo: first row, lightness and ab of each."""
    height, width = lightness.shape
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        light = torch.from_numpy(lightness[top : top + rows].astype(np.float32)).div_(FULL)[None, None]
        yield top, light, colours.rows(light, top)


def _saved(image: Image.Image, format: ExportFormat, quality: int, exif: bytes) -> bytes:
    told: dict[str, Any] = (
        {"compress_level": _PNG_LEVEL} if format == "png" else {"quality": quality, "subsampling": 0}
    )
    if exif:
        told["exif"] = exif
    file = io.BytesIO()
    image.save(file, format, **told)
    return file.getvalue()
