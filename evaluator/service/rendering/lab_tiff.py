"""Writer of 16-bit CIELab TIFFs with EXIF (TIFF 6.0, section 23; a* and b* in 1/256, as libtiff reads them).

Pillow has no such mode, and tifffile writes no EXIF: the pixels are written here, and the directory by Pillow.
"""

import io
import zlib
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import numpy as np
from jaxtyping import Float, UInt16
from PIL import ExifTags, Image, TiffImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from torch import Tensor

from evaluator.service.images.exif import as_read
from kernels.color import AB_SCALE

_AB_STEPS = 256
"""Stored steps of a* and b* per CIE unit."""
_LEVEL = 1
"""Of zlib: higher ones take twice as long and more for a few percent."""
_PREDICTOR, _PLANES = 317, 284
_DEFLATE, _CIELAB, _DIFFERENCES, _TOGETHER = 8, 8, 2, 1


def encode_lab(
    lightness: UInt16[np.ndarray, "h w"], colors: Iterable[Float[Tensor, "1 2 rows w"]], exif: bytes = b""
) -> bytes:
    """Bytes of the TIFF.

    Args:
        lightness: L* / 100 * 65535, which is TIFF's own scale: it is stored as it is.
        colors: ab (CIE / 128) of one strip after the other, from the top; rounded to 1/256 of a CIE unit.
        exif: as Pillow writes it.
    """
    strips, rows, top = [], 0, 0
    for ab in colors:
        rows = rows or ab.shape[-2]
        strips.append(_compressed(lightness[top : top + rows], ab))
        top += rows
    file = io.BytesIO()
    _directory(lightness.shape, rows, [len(strip) for strip in strips], exif).save(file)
    file.writelines(strips)
    return file.getvalue()


def _compressed(lightness: UInt16[np.ndarray, "rows w"], ab: Float[Tensor, "1 2 rows w"]) -> bytes:
    """A compressed strip: differences of L, a, b to the left neighbor (TIFF's predictor 2), through zlib."""
    strip = np.empty((*lightness.shape, 3), "<u2")
    strip[..., 0] = lightness
    stored = (ab[0] * (AB_SCALE * _AB_STEPS)).round().clamp(-(2**15), 2**15 - 1)
    strip[..., 1:] = stored.permute(1, 2, 0).numpy().astype(np.int16).view(np.uint16)
    steps = strip.copy()
    steps[:, 1:] -= strip[:, :-1]
    return zlib.compress(steps.tobytes(), _LEVEL)


def _directory(size: tuple[int, ...], rows: int, sizes: list[int], exif: bytes) -> ImageFileDirectory_v2:
    """Everything before the strips. Pillow adds its own length to their places."""
    directory = ImageFileDirectory_v2(prefix=b"II")
    for tag, value in _main_tags(exif).items():
        directory[tag] = value
    height, width = size
    layout = {
        TiffImagePlugin.IMAGEWIDTH: width,
        TiffImagePlugin.IMAGELENGTH: height,
        TiffImagePlugin.BITSPERSAMPLE: (16, 16, 16),
        TiffImagePlugin.COMPRESSION: _DEFLATE,
        TiffImagePlugin.PHOTOMETRIC_INTERPRETATION: _CIELAB,
        TiffImagePlugin.STRIPOFFSETS: (0, *accumulate(sizes[:-1])),
        TiffImagePlugin.SAMPLESPERPIXEL: 3,
        TiffImagePlugin.ROWSPERSTRIP: rows,
        TiffImagePlugin.STRIPBYTECOUNTS: tuple(sizes),
        _PLANES: _TOGETHER,
        _PREDICTOR: _DIFFERENCES,
    }
    for tag, value in layout.items():
        directory[tag] = value
    return directory


def _main_tags(exif: bytes) -> dict[int, Any]:
    """Main EXIF tags, with sub-directories as dictionaries."""
    if not exif:
        return {}
    parsed = Image.Exif()
    parsed.load(exif)
    inner = {int(number): as_read(parsed.get_ifd(number)) for number in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)}
    main = as_read({tag: value for tag, value in parsed.items() if tag not in inner})
    return main | {number: directory for number, directory in inner.items() if directory}
