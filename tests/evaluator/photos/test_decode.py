import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from evaluator.photos import decode
from evaluator.photos.decode import BrokenPhoto, center_crop, decode_rgb


def saved(image: Image.Image, kind: str = "JPEG", **more) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


@pytest.fixture(scope="module")
def photo(jpeg: Callable) -> Image.Image:
    return Image.open(io.BytesIO(jpeg(3, 90, 60)))


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def as_pillow(data: bytes) -> np.ndarray:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    return np.asarray(image.convert("RGB"))


def kinds(photo: Image.Image) -> dict[str, bytes]:
    return {
        "colour": saved(photo),
        "full colour resolution": saved(photo, subsampling=0),
        "progressive": saved(photo, progressive=True),
        "grey": saved(photo.convert("L")),
        "four inks": saved(photo.convert("CMYK")),
        "turned": saved(photo, exif=turned()),
        "png": saved(photo, "PNG"),
        "png with alpha": saved(photo.convert("RGBA"), "PNG"),
        "png with palette": saved(photo.convert("P"), "PNG"),
        "webp": saved(photo, "WEBP"),
    }


@pytest.mark.parametrize("operator", [True, False], ids=["torchvision", "pillow"])
def test_every_kind_of_photo_decodes_to_pillow_s_pixels(
    photo: Image.Image, monkeypatch: pytest.MonkeyPatch, operator: bool
):
    if not operator:
        monkeypatch.setattr(decode, "_torchvision_jpeg", lambda: None)
    for name, data in kinds(photo).items():
        rgb = decode_rgb(data)
        assert rgb.dtype == torch.uint8, name
        assert np.array_equal(rgb.permute(1, 2, 0).numpy(), as_pillow(data)), name


def test_jpegs_go_through_torchvision_s_operator_where_it_exists(photo: Image.Image, monkeypatch):
    operator = decode._torchvision_jpeg()
    if operator is None:
        pytest.skip("this torchvision has no JPEG operator")
    calls = []
    monkeypatch.setattr(decode, "_torchvision_jpeg", lambda: lambda *given: calls.append(1) or operator(*given))
    for name, expected in {"colour": 1, "grey": 1, "four inks": 0, "png": 0}.items():
        calls.clear()
        decode_rgb(kinds(photo)[name], enough=50)
        assert len(calls) == expected, name
    calls.clear()
    decode_rgb(saved(photo), enough=30)  # Pillow alone can decode at half size
    assert not calls


@pytest.mark.parametrize(("size", "enough", "expected"), [((90, 60), 30, (30, 45)), ((90, 60), 31, (60, 90))])
def test_large_jpegs_are_decoded_smaller(photo: Image.Image, size, enough: int, expected):
    assert decode_rgb(saved(photo), enough).shape[1:] == expected


@pytest.mark.parametrize("cut", [3, 100, 1000, -2])
def test_a_photo_cut_short_is_broken(photo: Image.Image, cut: int):
    with pytest.raises(BrokenPhoto, match=r"\w"):
        decode_rgb(saved(photo)[:cut])


def test_what_is_no_photo_is_broken():
    with pytest.raises(BrokenPhoto, match="no image in a format that Pillow reads"):
        decode_rgb(b"no photo")


def test_small_photos_are_enlarged(photo: Image.Image):
    assert center_crop(decode_rgb(saved(photo)), 128).shape == (3, 128, 128)
