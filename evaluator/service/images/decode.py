"""Decoding of uploaded files to grey photos in full size: lightness with 16 bits, and kept metadata."""

import io
import warnings
from dataclasses import dataclass

import numpy as np
import pillow_heif
import tifffile
import torch
from jaxtyping import UInt8, UInt16
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION

from evaluator.photos.grey import NEAR_GREY_CHROMA
from evaluator.photos.reading import BrokenPhoto, as_rgb, explained
from evaluator.service.images.decode_16bit import TIFF_BEGINNINGS, deep_pixels, lab_pixels, lab_size
from evaluator.service.images.exif import exif_of_tiff, kept_exif, to_bytes, turn_upright
from kernels.color import AB_SCALE, lab_to_uint8, rgb_to_lab

Image.init()  # Pillow loads the rarer formats only when it is told to
pillow_heif.register_heif_opener()

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "HEIF")
"""What is taken, by Pillow's names; JPEG includes the MPO of phones."""
REFERENCE_SIDE = 1024
"""Long side of colors that are kept, in pixels."""
GREY_SHARE = 0.99
"""A photo is near grey when at least this share of its pixels is."""
FULL = 65535
"""Stored lightness of white, L* = 100."""
MAX_SIDE = 65_500
"""Longest side of a photo, in pixels: what a JPEG can have."""
_LIBRARIES = 2**28
"""Bytes for what is imported when it is first needed, and for strips."""
_STRIP = 2**20
"""Pixels that are converted at once: 40 MB in float32."""
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", *TIFF_BEGINNINGS, b"RIFF")
_WHITE_IS_ZERO = 0
_PLAIN_MEANINGS = (_WHITE_IS_ZERO, 1, 2, 3, 5, 6)
"""Of a TIFF's pixels: grey, RGB, palette, inks, YCbCr."""


class TooLarge(BrokenPhoto):
    """Raised for a file of too many bytes, or a photo of too many pixels."""


class NotAPhoto(BrokenPhoto):
    """Raised for a file that is no photo of a known format."""


class Broken(BrokenPhoto):
    """Raised for a photo that cannot be decoded."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on an upload."""

    most_bytes: int = 64 * 2**20
    """Of the file."""
    most_pixels: int = 50_000_000
    """Of the photo."""
    seconds: float = 30.0
    """For parsing."""

    @property
    def most_memory(self) -> int:
        """Bytes that a parser may take beyond its start-up memory; WebP needs 22 for each pixel."""
        return _LIBRARIES + 4 * self.most_bytes + 24 * self.most_pixels


@dataclass(frozen=True, kw_only=True, eq=False)
class GreyPhoto:
    """A photo without its colors, upright."""

    lightness: UInt16[np.ndarray, "h w"]
    """L* / 100 * 65535, rounded."""
    exif: bytes
    """As it goes into a file, its orientation 1; empty where there is none."""
    grey: bool
    """Whether the file was grey, or nearly."""
    colours: UInt8[np.ndarray, "small_h small_w 3"] | None
    """The file's colors, long side at most 1024 pixels, where they are to be kept."""


def parse(data: bytes, limits: Limits, keep_colours: bool) -> GreyPhoto:
    """Read a JPEG, PNG, WebP, TIFF or HEIC file: any palette, inks or bit depth; alpha dropped, upright.

    16-bit PNGs keep 16 bits, and so do TIFFs, uncompressed or deflated, that are grey, RGB or CIELab: the
    lightness of the service's own files comes back bit by bit. Others are read with 8. Of a file with several
    pictures the first one is taken.
    Colors count as sRGB: there is no color management.

    Raises:
        TooLarge: over `limits`.
        NotAPhoto: of no kind that is known.
        Broken: cut short, damaged, or a TIFF of a rare kind, such as with 32-bit pixels.
    """
    if len(data) > limits.most_bytes:
        raise TooLarge(f"the file has {_mib(len(data))}; send one of at most {_mib(limits.most_bytes)}")
    try:
        # Pillow warns of odd metadata; what matters of it is raised.
        with warnings.catch_warnings(action="ignore"), explained():
            return _parsed(data, limits, keep_colours)
    except (TooLarge, NotAPhoto, Broken):
        raise
    except BrokenPhoto as error:
        raise Broken(f"the photo cannot be read ({error}); save it again, and send that") from error


def _parsed(data: bytes, limits: Limits, keep_colours: bool) -> GreyPhoto:
    if size := lab_size(data):
        _check_size(size, limits)
        return _of_lab(data, size, keep_colours)
    with _opened(data) as image:
        _check_size(image.size, limits)
        exif = kept_exif(image)
        pixels = deep_pixels(image, data)
        if pixels is None:
            negative = _is_deep_negative(image)
            image.load()
            turn_upright(image)  # in place: two copies of a large photo are too many
            pixels = np.asarray(_plain(image))
            pixels = FULL - pixels if negative else pixels
        elif pixels.shape[0] * pixels.shape[1] > limits.most_pixels:
            raise BrokenPhoto("its header and its pixels disagree about its size")
    lightness, share = _lightness(pixels)
    colours = _reference(pixels) if keep_colours else None
    height, width = lightness.shape
    written = to_bytes(exif, width, height)
    return GreyPhoto(lightness=lightness, exif=written, grey=share >= GREY_SHARE, colours=colours)


def _of_lab(data: bytes, size: tuple[int, int], keep_colours: bool) -> GreyPhoto:
    lightness, ab = lab_pixels(data, size)
    height, width = lightness.shape
    rows = max(1, _STRIP // width)
    rgb = np.empty((height, width, 3), np.uint8) if keep_colours else None
    grey = 0
    for top in range(0, height, rows):
        strip = torch.from_numpy(ab[top : top + rows].astype(np.float32)).movedim(-1, 0)[None] / (256 * AB_SCALE)
        grey += _near_grey(strip)
        if rgb is not None:
            light = torch.from_numpy(lightness[top : top + rows].astype(np.float32))[None, None] / FULL
            rgb[top : top + rows] = lab_to_uint8(light, strip)[0].movedim(0, -1).numpy()
    exif = to_bytes(exif_of_tiff(data), width, height)
    colours = None if rgb is None else _reference(rgb)
    share = grey / (height * width)
    return GreyPhoto(
        lightness=np.ascontiguousarray(lightness), exif=exif, grey=share >= GREY_SHARE, colours=colours
    )


def _is_deep_negative(image: Image.Image) -> bool:
    """Whether 0 is white, which Pillow inverts for 8 bits only."""
    tags = getattr(image, "tag_v2", {})
    return image.mode.startswith("I;16") and tags.get(PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        if data.startswith(_BEGINNINGS):
            _refuse_rare_tiff(data)
            raise BrokenPhoto("its header is damaged") from error
        raise NotAPhoto("the file is no photo that is known here; send JPEG, PNG, WebP, TIFF or HEIC") from error
    except Image.DecompressionBombError as error:
        raise TooLarge("the photo has far too many pixels; send a smaller one") from error


def _refuse_rare_tiff(data: bytes) -> None:
    """Raise Broken, with a description, for a TIFF whose only trouble is that Pillow does not know its kind."""
    if not data.startswith(TIFF_BEGINNINGS):
        return
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages.first
            bits, meaning = page.bitspersample, page.photometric
    except Exception:  # damaged indeed, and then tifffile raises anything
        return
    if bits not in (1, 8, 16) or meaning not in _PLAIN_MEANINGS or (bits, meaning) == (16, _WHITE_IS_ZERO):
        name = getattr(meaning, "name", meaning)
        kind = f"a TIFF with {page.samplesperpixel} x {bits} bits, {name},"
        raise Broken(f"{kind} is not read here; save it with 8 or 16 bits, RGB or grey, and send that")


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    """Check the stated size before decoding: a small file may claim to be a huge photo."""
    width, height = size
    pixels = width * height
    if pixels > limits.most_pixels:
        told = f"{width} x {height} = {pixels / 1e6:.1f} million pixels"
        raise TooLarge(f"the photo has {told}; send one of at most {limits.most_pixels / 1e6:g} million")
    if max(size) > MAX_SIDE:
        raise TooLarge(f"the photo has a side of {max(size)} pixels; send one of at most {MAX_SIDE}")


def _plain(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB with 8 bits, or grey with 16."""
    if image.mode in ("L", "RGB") or image.mode.startswith("I;16"):
        return image
    if image.mode in ("1", "LA", "La"):
        return image.convert("LA").getchannel("L") if image.mode == "La" else image.convert("L")
    return as_rgb(image)


def _lightness(pixels: np.ndarray) -> tuple[UInt16[np.ndarray, "h w"], float]:
    """Lightness, and the share of pixels that are near grey, of (h, w) or (h, w, 3), 8 or 16 bits."""
    if pixels.ndim == 2:
        return _grey_table(pixels.dtype)[pixels], 1.0
    height, width = pixels.shape[:2]
    lightness = np.empty((height, width), np.uint16)
    grey = 0
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        strip, near = _strip_lightness(pixels[top : top + rows])
        lightness[top : top + rows] = strip
        grey += near
    return lightness, grey / (height * width)


def _strip_lightness(pixels: np.ndarray) -> tuple[np.ndarray, int]:
    rgb = torch.from_numpy(np.ascontiguousarray(np.moveaxis(_native(pixels), -1, 0)))[None]
    lightness, ab = rgb_to_lab(rgb if rgb.dtype == torch.uint8 else rgb.float() / FULL)
    return to_stored(lightness[0, 0]), _near_grey(ab)


def _near_grey(ab: torch.Tensor) -> int:
    """Number of nearly colorless pixels."""
    return int((ab.square().sum(1) < (NEAR_GREY_CHROMA / AB_SCALE) ** 2).sum())


def _grey_table(dtype: np.dtype) -> UInt16[np.ndarray, " levels"]:
    """Stored lightness of every grey level."""
    levels = 256 if dtype == np.uint8 else 65536
    grey = torch.linspace(0, 1, levels, dtype=torch.float64).expand(1, 3, 1, -1)
    return to_stored(rgb_to_lab(grey)[0][0, 0, 0])


def to_stored(lightness: torch.Tensor) -> np.ndarray:
    """L* / 100 in its stored form, 0 to 65535."""
    return (lightness * FULL).round().clamp(0, FULL).to(torch.int32).numpy().astype(np.uint16)


def _reference(pixels: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    eight = pixels if pixels.dtype == np.uint8 else (pixels // 257).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(eight))
    image.thumbnail((REFERENCE_SIDE, REFERENCE_SIDE), Image.Resampling.BOX, reducing_gap=None)
    return np.array(image.convert("RGB"))


def _native(pixels: np.ndarray) -> np.ndarray:
    """The array in this machine's byte order, which torch needs."""
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _mib(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
