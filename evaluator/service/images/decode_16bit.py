"""Decoding of photos with 16 bits a channel, of which Pillow would drop eight."""

import io

import numpy as np
import tifffile
import torch
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, COMPRESSION, PHOTOMETRIC_INTERPRETATION

from evaluator.photos.reading import BrokenPhoto

TIFF_BEGINNINGS = (b"II*\0", b"MM\0*")
_PNG_DEPTH, _PNG_COLOR = 24, 25
"""Offsets of the bit depth and the color type in a PNG."""
_TORCHVISION_MODES = {2: 3, 4: 1, 6: 3}
"""Of a PNG's color type, without alpha: RGB 3, grey 1."""
_RGB, _CIELAB = 2, 8
_READABLE = (1, 8, 32946)
"""Compressions that tifffile reads by itself: none and deflate."""
_ORIENTATION = 274
_TURNS = {
    1: lambda rgb: rgb,
    2: lambda rgb: rgb[:, ::-1],
    3: lambda rgb: rgb[::-1, ::-1],
    4: lambda rgb: rgb[::-1],
    5: lambda rgb: rgb.swapaxes(0, 1),
    6: lambda rgb: np.rot90(rgb, -1),
    7: lambda rgb: rgb[::-1, ::-1].swapaxes(0, 1),
    8: lambda rgb: np.rot90(rgb),
}


def deep_pixels(image: Image.Image, data: bytes) -> np.ndarray | None:
    """Upright uint16 pixels (h, w, 3) of a 16-bit color PNG or TIFF, (h, w) of grey with alpha; None of others.

    Args:
        image: opened by Pillow, not yet decoded; its size was checked.
        data: the same file.
    """
    if image.format == "PNG" and data[_PNG_DEPTH] == 16 and data[_PNG_COLOR] in _TORCHVISION_MODES:
        return _png(data, _TORCHVISION_MODES[data[_PNG_COLOR]])
    if image.format == "TIFF" and _is_deep_tiff(image):
        return _tiff(data, (image.width, image.height))
    return None


def lab_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a TIFF with 16-bit CIELab, such as the service exports; None of others and damaged ones.

    Pillow has no mode for it.
    """
    if not data.startswith(TIFF_BEGINNINGS):
        return None
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages.first
            kind = (page.bitspersample, page.samplesperpixel, page.photometric, page.sampleformat)
            known = kind == (16, 3, _CIELAB, 1) and page.compression in _READABLE
            return (page.imagewidth, page.imagelength) if known else None
    except Exception:  # damaged, and then tifffile raises anything
        return None


def lab_pixels(data: bytes, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Upright lightness, uint16 (h, w) in 1/655.35 of L*, and int16 (h, w, 2), a* and b* in 1/256.

    Args:
        data: a file of which `lab_size` says a size.
        size: that size; it was checked.

    Raises:
        BrokenPhoto: it is damaged.
    """
    try:
        pixels = np.ascontiguousarray(_tiff(data, size))
    except Exception as error:
        raise BrokenPhoto(f"its pixels are damaged: {error}") from error
    if pixels.dtype.kind != "u" or pixels.dtype.itemsize != 2 or pixels.shape[2:] != (3,):
        raise BrokenPhoto("its header and its pixels disagree about its depth")
    pixels = pixels.astype(np.uint16, copy=False)  # in this machine's byte order
    return pixels[..., 0], pixels[..., 1:].view(np.int16)


def _png(data: bytes, mode: int) -> np.ndarray:
    import torchvision  # noqa: F401  registers torch.ops.image; 170 MB that few uploads need

    # A bytearray, because torch wants memory that may be written.
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    planes = torch.ops.image.decode_png(encoded, mode, True)
    if planes.dtype != torch.uint16:
        raise BrokenPhoto("its header and its pixels disagree about its depth")
    return planes[0].numpy() if len(planes) == 1 else planes.permute(1, 2, 0).numpy()


def _is_deep_tiff(image: Image.Image) -> bool:
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(BITSPERSAMPLE, ())
    kind = tags.get(PHOTOMETRIC_INTERPRETATION), tags.get(COMPRESSION)
    return len(bits) >= 3 and set(bits) == {16} and kind[0] == _RGB and kind[1] in _READABLE


def _tiff(data: bytes, size: tuple[int, int]) -> np.ndarray:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        if sorted((page.imagewidth, page.imagelength)) != sorted(size):
            raise BrokenPhoto("two readers disagree about its size")
        pixels = page.asarray()
        orientation = page.tags.valueof(_ORIENTATION, 1)
        planes_first = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    pixels = np.moveaxis(pixels, 0, -1) if planes_first else pixels
    return _TURNS.get(orientation, _TURNS[1])(pixels[..., :3])
