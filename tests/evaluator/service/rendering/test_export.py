import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from skimage.color import lab2rgb, rgb2lab
from torch import Tensor

from evaluator.service.images.decode import Limits, parse
from evaluator.service.images.store import PhotoMissing, PhotoStore, StoredPhoto
from evaluator.service.rendering.export import render
from evaluator.service.rendering.upsample import upsample_ab


def unchecked(function: Callable) -> Callable:
    """Without the type check that tests put in front."""
    return getattr(function, "__wrapped__", function)


def with_exif(data: bytes, orientation: int = 6) -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x013B] = orientation, "Maker", "Ärtist"
    details = exif.get_ifd(0x8769)
    details[0x9003], details[0x829A], details[0x8827] = "2020:02:03 04:05:06", 0.004, 200
    place = exif.get_ifd(0x8825)
    place[1], place[2] = "N", (52.0, 30.0, 15.5)
    file = io.BytesIO()
    Image.open(io.BytesIO(data)).save(file, "PNG", exif=exif.tobytes())
    return file.getvalue()


@pytest.fixture(scope="module")
def stored(picture: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory) -> StoredPhoto:
    """320 x 451 upright."""
    store = PhotoStore(tmp_path_factory.mktemp("store"), 2**24, 64)
    return store.put("0" * 64, parse(with_exif(picture(4, 451, 320, "PNG")), Limits(), False))


def colours(stored: StoredPhoto, strength: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 2, 5, 5, generator=generator) * strength
    return torch.nn.functional.interpolate(coarse, stored.working.shape[-2:], mode="bilinear").clamp(-1, 1)


def full_lab(stored: StoredPhoto, ab: Tensor) -> np.ndarray:
    """CIE Lab that a file should show."""
    lightness = torch.from_numpy(stored.full_lightness().astype(np.float32) / 65535)[None, None]
    large = upsample_ab(ab, stored.working, lightness)
    return torch.cat((lightness * 100, large * 128), dim=1)[0].permute(1, 2, 0).double().numpy()


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.5, 3.0])
def test_tiff_keeps_lightness_bit_by_bit_whatever_the_colors(stored: StoredPhoto, strength: float):
    ab = colours(stored, strength)
    with tifffile.TiffFile(io.BytesIO(render(stored, ab, "tiff"))) as file:
        page = file.pages.first
        assert page.photometric == tifffile.PHOTOMETRIC.CIELAB
        pixels = page.asarray()
    assert np.array_equal(pixels[..., 0], stored.full_lightness())
    read = pixels[..., 1:].view(np.int16) / 256
    assert np.abs(read - np.clip(full_lab(stored, ab)[..., 1:], -128, 32767 / 256)).max() <= 0.5 / 256 + 1e-3


def test_strips_of_a_large_photo_are_the_whole(stored: StoredPhoto, monkeypatch):
    ab = colours(stored, 0.3)
    whole = {format: render(stored, ab, format) for format in ("png", "tiff")}
    monkeypatch.setattr("evaluator.service.rendering.export._STRIP", 7000)
    png = [np.asarray(Image.open(io.BytesIO(data))) for data in (whole["png"], render(stored, ab, "png"))]
    assert np.abs(png[0].astype(int) - png[1]).max() <= 1
    tiff = [tifffile.imread(io.BytesIO(data)) for data in (whole["tiff"], render(stored, ab, "tiff"))]
    assert np.array_equal(tiff[0][..., 0], tiff[1][..., 0])
    assert np.abs(tiff[0].view(np.int16)[..., 1:].astype(int) - tiff[1].view(np.int16)[..., 1:]).max() <= 1


def test_png_is_the_colors_by_scikit_image(stored: StoredPhoto):
    ab = colours(stored, 0.1)
    with Image.open(io.BytesIO(render(stored, ab, "png"))) as image:
        assert image.size == (stored.width, stored.height) == (320, 451)
        rgb = np.asarray(image)
    expected = lab2rgb(full_lab(stored, ab)) * 255
    assert np.abs(rgb - expected).max() <= 0.53  # rounding, and the table of the gamma near black


def test_png_moves_lightness_by_rounding_alone_where_colors_can_be_shown(stored: StoredPhoto):
    lab = full_lab(stored, colours(stored, 0.1))
    shown = np.abs(rgb2lab(lab2rgb(lab)) - lab).max(axis=-1) < 0.01
    assert shown.mean() > 0.8
    rgb = np.asarray(Image.open(io.BytesIO(render(stored, colours(stored, 0.1), "png"))))
    apart = np.abs(rgb2lab(rgb / 255)[..., 0] - lab[..., 0])[shown]
    assert apart.max() < 0.3
    assert apart.mean() < 0.1


def test_a_grey_photo_without_colors_has_exactly_its_grey_levels_again(tmp_path: Path):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    stored = PhotoStore(tmp_path, 2**20, 16).put("1" * 64, parse(file.getvalue(), Limits(), False))
    rgb = np.asarray(Image.open(io.BytesIO(render(stored, torch.zeros(1, 2, 16, 16), "png"))))
    assert np.array_equal(rgb, np.repeat(levels[..., None], 3, axis=2))


def test_jpeg_is_near_the_png_and_obeys_quality(stored: StoredPhoto):
    ab = colours(stored, 0.1)
    png = np.asarray(Image.open(io.BytesIO(render(stored, ab, "png")))).astype(int)
    jpeg = np.asarray(Image.open(io.BytesIO(render(stored, ab, "jpeg", 95))))
    assert np.abs(jpeg - png).mean() < 2
    assert len(render(stored, ab, "jpeg", 20)) < len(render(stored, ab, "jpeg", 95)) / 2


@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_exif_is_kept_and_upright(stored: StoredPhoto, format):
    with Image.open(io.BytesIO(render(stored, colours(stored, 0.1), format))) as image:
        exif = image.getexif()
        assert exif[0x0112] == 1
        assert exif[0x010F] == "Maker"
        assert exif.get_ifd(0x8769)[0x9003] == "2020:02:03 04:05:06"
        assert float(exif.get_ifd(0x8825)[2][2]) == 15.5


def test_exif_is_kept_in_tiff(stored: StoredPhoto):
    with tifffile.TiffFile(io.BytesIO(render(stored, colours(stored, 0.1), "tiff"))) as file:
        tags = file.pages.first.tags
        assert tags.valueof("Orientation") == 1
        assert tags.valueof("Make") == "Maker"
        details, place = tags.valueof("ExifTag"), tags.valueof(34853)
    assert details["DateTimeOriginal"] == "2020:02:03 04:05:06"
    assert details["ExposureTime"] == pytest.approx(0.004)
    assert place["GPSLatitudeRef"] == "N"


@pytest.mark.parametrize("format", ["png", "jpeg", "tiff"])
def test_exif_keeps_its_letters_whatever_their_encoding(picture: Callable[..., bytes], tmp_path: Path, format):
    letters = {
        b"A" * 9: "Jörg Mü".encode(),
        b"B" * 6: "© 2020".encode("latin-1"),
        b"C" * 7: "Öwner".encode() + b".",
    }
    exif = Image.Exif()
    exif[0x013B], exif[0x8298] = "A" * 9, "B" * 6
    exif.get_ifd(0x8769)[42032] = "C" * 7  # the camera's owner
    content = exif.tobytes()
    for placeholder, text in letters.items():  # Pillow would not write them
        content = content.replace(placeholder, text)
    file = io.BytesIO()
    Image.open(io.BytesIO(picture(0))).save(file, "JPEG", exif=content)
    stored = PhotoStore(tmp_path, 2**24, 64).put("4" * 64, parse(file.getvalue(), Limits(), False))
    exported = render(stored, torch.zeros(1, 2, *stored.working.shape[-2:]), format)
    for text in letters.values():
        assert exported.count(text + b"\0") == 1
    if format == "tiff":
        with tifffile.TiffFile(io.BytesIO(exported)) as tiff:
            assert tiff.pages.first.tags["ExifTag"].value["CameraOwnerName"] == "Öwner."
        return
    with Image.open(io.BytesIO(exported)) as image:
        assert image.getexif()[0x013B] == "Jörg Mü".encode().decode("latin-1")  # as Pillow reads it
        assert isinstance(image.getexif().get_ifd(0x8769)[42032], str)


def test_the_service_reads_its_own_tiff(stored: StoredPhoto):
    content = render(stored, colours(stored, 0.1), "tiff")
    again = parse(content, Limits(), True)
    assert np.array_equal(again.lightness, stored.full_lightness())
    assert not again.grey
    assert again.colours is not None
    png = np.asarray(Image.open(io.BytesIO(render(stored, colours(stored, 0.1), "png"))))
    assert np.abs(again.colours.astype(int) - png).max() <= 1
    exif = Image.Exif()
    exif.load(again.exif)
    assert exif[0x010F] == "Maker"
    assert exif.get_ifd(0x8769)[0x9003] == "2020:02:03 04:05:06"


def test_a_photo_without_exif_gets_none(picture: Callable[..., bytes], tmp_path: Path):
    stored = PhotoStore(tmp_path, 2**24, 64).put("2" * 64, parse(picture(0), Limits(), False))
    ab = torch.zeros(1, 2, *stored.working.shape[-2:])
    for format in ("png", "jpeg"):
        assert not Image.open(io.BytesIO(render(stored, ab, format))).getexif()
    with tifffile.TiffFile(io.BytesIO(render(stored, ab, "tiff"))) as file:
        assert "ExifTag" not in file.pages.first.tags


def test_what_cannot_be_rendered_is_told(stored: StoredPhoto, tmp_path: Path, picture):
    ab = colours(stored, 0.1)
    with pytest.raises(ValueError, match="'gif'"):
        unchecked(render)(stored, ab, "gif")
    with pytest.raises(ValueError, match="quality is 0"):
        render(stored, ab, "jpeg", 0)
    gone = PhotoStore(tmp_path, 2**24, 64).put("3" * 64, parse(picture(0), Limits(), False))
    gone.path.unlink()
    with pytest.raises(PhotoMissing):
        render(gone, torch.zeros(1, 2, *gone.working.shape[-2:]))
