"""EXIF that is kept in colored photos."""

import logging
import struct
from collections.abc import Callable, Mapping
from typing import Any

from PIL import ExifTags, Image, ImageOps

MAX_BYTES = 65_000
"""What fits into a JPEG."""
_BASE, _IFD = ExifTags.Base, ExifTags.IFD
_KEPT = (
    *(_BASE.ImageDescription, _BASE.Make, _BASE.Model, _BASE.Software, _BASE.DateTime, _BASE.Artist),
    *(_BASE.HostComputer, _BASE.Copyright, _BASE.XResolution, _BASE.YResolution, _BASE.ResolutionUnit),
    *(_BASE.Rating, _BASE.XPTitle, _BASE.XPComment, _BASE.XPAuthor, _BASE.XPKeywords, _BASE.XPSubject),
)
"""Tags of the main directory; its others say how the pixels of the uploaded file were laid out."""
_SRGB = 1
_DAMAGED = (ValueError, SyntaxError, OSError, struct.error, KeyError, TypeError, IndexError, AttributeError)
"""What Pillow raises for damaged EXIF."""
_log = logging.getLogger("chromaclick")


class AsRead(str):
    """EXIF text that keeps its bytes: Pillow reads it as Latin-1 and would write other characters as ?."""

    def encode(self, encoding: str = "latin-1", errors: str = "strict") -> bytes:
        """The original bytes."""
        return super().encode("latin-1", "replace")


def as_read(tags: Mapping[int, Any]) -> dict[int, Any]:
    """Tags with `AsRead` texts, which are written back as they were read."""
    return {tag: AsRead(value) if isinstance(value, str) else value for tag, value in tags.items()}


def turn_upright(image: Image.Image) -> None:
    """Rotate a decoded photo as its EXIF says; leave it where its EXIF is damaged."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except _DAMAGED as error:
        _log.warning("a photo's EXIF is damaged, so it may lie on its side: %s", error)


def kept_exif(image: Image.Image) -> Image.Exif:
    """Kept EXIF of a photo that is not decoded yet: Pillow may close the file when it decodes.

    Camera, lens, exposure, time, place, author and the like are kept, and the maker's own notes where they fit
    into a JPEG. Not kept: the thumbnail, which shows the uploaded photo, and the layout of the file.
    """
    return _kept(image.getexif)


def exif_of_tiff(data: bytes) -> Image.Exif:
    """`kept_exif` of a TIFF that Pillow does not open."""

    def read() -> Image.Exif:
        exif = Image.Exif()
        exif.load(data)
        return exif

    return _kept(read)


def _kept(read: Callable[[], Image.Exif]) -> Image.Exif:
    kept = Image.Exif()
    try:
        given = read()
        details, place = (as_read(given.get_ifd(number)) for number in (_IFD.Exif, _IFD.GPSInfo))
        kept.update(as_read({tag: given[tag] for tag in _KEPT if tag in given}))
    except _DAMAGED as error:
        _log.warning("a photo's EXIF is damaged and is not kept: %s", error)
        return Image.Exif()
    details.pop(_IFD.Interop, None)
    kept.get_ifd(_IFD.Exif).update(details)
    kept.get_ifd(_IFD.GPSInfo).update(place)
    return kept


def to_bytes(exif: Image.Exif, width: int, height: int) -> bytes:
    """EXIF for an upright sRGB picture of this size; empty where there is none."""
    details = exif.get_ifd(_IFD.Exif)
    if not (len(exif) or details or exif.get_ifd(_IFD.GPSInfo)):
        return b""
    fixed = {_BASE.ExifImageWidth: width, _BASE.ExifImageHeight: height, _BASE.ColorSpace: _SRGB}
    details.update({tag: value for tag, value in fixed.items() if tag in details})
    exif[_BASE.Orientation] = 1
    try:
        return _short(exif)
    except _DAMAGED as error:
        _log.warning("a photo's EXIF is damaged and is not kept: %s", error)
        return b""


def _short(exif: Image.Exif) -> bytes:
    content = exif.tobytes()
    if len(content) > MAX_BYTES:
        exif.get_ifd(_IFD.Exif).pop(_IFD.MakerNote, None)
        content = exif.tobytes()
    if len(content) > MAX_BYTES:
        _log.warning("a photo's EXIF of %d bytes is longer than a JPEG can hold and is not kept", len(content))
        return b""
    return content
