import contextlib
import io
import random
import struct
import zlib
from collections.abc import Callable
from typing import Literal

import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image, ImageOps
from skimage.color import rgb2lab

from evaluator.service.images.decode import Broken, Limits, NotAPhoto, TooLarge, parse

LIMITS = Limits()


def saved(image: Image.Image, kind: str = "PNG", **more) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


def as_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
        through = "RGBA" if image.mode == "P" else "RGB"  # Pillow warns of the short way
        return np.asarray(upright.convert(through).convert("RGB"))


def expected_lightness(rgb: np.ndarray) -> np.ndarray:
    """By scikit-image, from uint8, or uint16 out of 65535."""
    most = 255 if rgb.dtype == np.uint8 else 65535
    rgb = rgb if rgb.ndim == 3 else np.repeat(rgb[..., None], 3, axis=2)
    return rgb2lab(rgb / most)[..., 0] / 100 * 65535


def assert_lightness(data: bytes, rgb: np.ndarray, name: str = "") -> None:
    photo = parse(data, LIMITS, False)
    assert photo.lightness.dtype == np.uint16
    assert photo.lightness.shape == rgb.shape[:2], name
    assert np.abs(photo.lightness - expected_lightness(rgb)).max() <= 0.6, name  # 0.5 of it is rounding


@pytest.fixture(scope="module")
def photo(picture: Callable[..., bytes]) -> Image.Image:
    return Image.open(io.BytesIO(picture(3, 90, 60, "PNG")))


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769)[0x9003] = "2020:02:03 04:05:06"
    exif.get_ifd(0x8825)[1] = "N"
    return exif


def kinds(photo: Image.Image) -> dict[str, bytes]:
    heic = io.BytesIO()
    pillow_heif.from_pillow(photo).save(heic, quality=90)
    alpha = photo.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(photo.size))
    return {
        "jpeg": saved(photo, "JPEG"),
        "progressive jpeg": saved(photo, "JPEG", progressive=True),
        "jpeg in four inks": saved(photo.convert("CMYK"), "JPEG"),
        "grey jpeg": saved(photo.convert("L"), "JPEG"),
        "png": saved(photo),
        "png with alpha": saved(alpha),
        "png with palette": saved(photo.convert("P")),
        "palette with transparency": saved(photo.convert("P"), transparency=b"\x00\x80"),
        "grey png with alpha": saved(photo.convert("LA")),
        "black and white png": saved(photo.convert("1")),
        "webp": saved(photo, "WEBP"),
        "webp with alpha": saved(alpha, "WEBP"),
        "tiff": saved(photo, "TIFF"),
        "tiff, lzw": saved(photo, "TIFF", compression="tiff_lzw"),
        "tiff in four inks": saved(photo.convert("CMYK"), "TIFF"),
        "heic": heic.getvalue(),
        "two pictures (MPO)": saved(photo, "MPO", save_all=True, append_images=[photo.rotate(180)]),
    }


def test_every_kind_of_photo_has_the_lightness_of_scikit_image(photo: Image.Image):
    for name, data in kinds(photo).items():
        assert_lightness(data, as_pillow(data), name)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_photos_are_upright_and_their_exif_says_so(photo: Image.Image, kind: str, orientation: int):
    data = saved(photo, kind, exif=turned(orientation).tobytes())
    assert_lightness(data, as_pillow(data))
    exif = Image.Exif()
    exif.load(parse(data, LIMITS, False).exif)
    assert exif[0x0112] == 1
    assert exif[0x010F] == "Maker"
    assert exif.get_ifd(0x8769)[0x9003] == "2020:02:03 04:05:06"
    assert exif.get_ifd(0x8825)[1] == "N"


def test_a_photo_without_exif_has_none(photo: Image.Image):
    assert parse(saved(photo), LIMITS, False).exif == b""
    assert parse(saved(photo, "TIFF"), LIMITS, False).exif == b""


def deep_png(pixels: np.ndarray) -> bytes:
    """By hand: Pillow cannot write 16-bit color."""
    height, width = pixels.shape[:2]

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    kind = {1: 0, 2: 4, 3: 2, 4: 6}[pixels[0, 0].size]
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.fixture(scope="module")
def deep() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 65536, (31, 47, 3), dtype=np.uint16)


def test_16_bit_pngs_keep_their_depth(deep: np.ndarray):
    assert_lightness(deep_png(deep), deep)
    assert_lightness(deep_png(deep[..., 0]), deep[..., 0])
    alpha = deep[..., :1]
    assert_lightness(deep_png(np.concatenate([deep, alpha], axis=-1)), deep)
    assert_lightness(deep_png(deep[..., 1::-1]), deep[..., 1])  # grey with alpha
    assert parse(deep_png(deep[..., :2]), LIMITS, True).grey


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_16_bit_tiffs_keep_their_depth(deep: np.ndarray, byteorder, compression, planar):
    file = io.BytesIO()
    pixels = deep if planar == "contig" else np.ascontiguousarray(np.moveaxis(deep, -1, 0))
    more = {"planarconfig": planar, "byteorder": byteorder, "compression": compression}
    tifffile.imwrite(file, pixels, photometric="rgb", **more)
    assert_lightness(file.getvalue(), deep)


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_16_bit_grey_tiffs_keep_their_depth(deep: np.ndarray, byteorder):
    file = io.BytesIO()
    tifffile.imwrite(file, deep[..., 1], photometric="minisblack", byteorder=byteorder)
    assert_lightness(file.getvalue(), deep[..., 1])
    if byteorder == ">":  # Pillow knows no negative of this order
        return
    file = io.BytesIO()
    tifffile.imwrite(file, deep[..., 1], photometric="miniswhite", byteorder=byteorder)
    assert_lightness(file.getvalue(), 65535 - deep[..., 1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_tiffs_are_upright(deep: np.ndarray, orientation: int):
    file = io.BytesIO()
    tifffile.imwrite(file, deep, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    eight = Image.fromarray((deep >> 8).astype(np.uint8))
    eight.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(eight))
    lightness = parse(file.getvalue(), LIMITS, False).lightness
    assert lightness.shape == upright.shape[:2]
    # The same pixels with 8 bits less.
    assert np.abs(lightness - expected_lightness(upright)).max() < 0.02 * 65535


def test_32_bit_pixels_are_refused():
    with pytest.raises(Broken, match="32-bit"):
        parse(saved(Image.new("F", (8, 8)), "TIFF"), LIMITS, False)


@pytest.mark.parametrize(
    ("dtype", "photometric", "kind"),
    [
        (np.float32, "rgb", "3 x 32 bits, RGB"),
        (np.float32, "cielab", "3 x 32 bits, CIELAB"),
        (">u2", "miniswhite", "1 x 16 bits, MINISWHITE"),
    ],
)
def test_a_kind_of_tiff_that_is_not_read_is_named_and_not_called_damaged(dtype, photometric: str, kind: str):
    file = io.BytesIO()
    pixels = np.zeros((9, 8) if photometric == "miniswhite" else (9, 8, 3), dtype)
    tifffile.imwrite(file, pixels, photometric=photometric, byteorder=">")
    with pytest.raises(Broken, match=f"a TIFF with {kind}, is not read here; save it with 8 or 16 bits"):
        parse(file.getvalue(), LIMITS, False)


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_a_lab_tiff_gives_its_lightness_bit_by_bit_and_its_colors(
    photo: Image.Image, byteorder: Literal["<", ">"]
):
    lab = rgb2lab(np.asarray(photo))
    stored = np.empty(lab.shape, np.uint16)
    stored[..., 0] = (lab[..., 0] * 655.35).round()
    stored[..., 1:] = (lab[..., 1:] * 256).round().astype(np.int16).view(np.uint16)
    file = io.BytesIO()
    tifffile.imwrite(file, stored.astype(f"{byteorder}u2"), photometric="cielab", byteorder=byteorder)
    parsed = parse(file.getvalue(), LIMITS, True)
    assert np.array_equal(parsed.lightness, stored[..., 0])
    assert not parsed.grey
    assert parsed.colours is not None
    assert np.abs(parsed.colours.astype(int) - np.asarray(photo)).max() <= 1


def test_a_lab_tiff_obeys_limits_and_may_be_damaged():
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((40, 30, 3), np.uint16), photometric="cielab", compression="zlib")
    with pytest.raises(TooLarge, match="30 x 40"):
        parse(file.getvalue(), Limits(most_pixels=1199), False)
    for cut in range(9, len(file.getvalue()), 7):
        with pytest.raises((Broken, NotAPhoto)):
            parse(file.getvalue()[:cut], LIMITS, False)


def test_near_grey_is_told(photo: Image.Image):
    assert not parse(saved(photo), LIMITS, False).grey
    assert parse(saved(photo.convert("L")), LIMITS, False).grey
    faint = Image.blend(photo.convert("L").convert("RGB"), photo, 0.02)
    assert parse(saved(faint), LIMITS, False).grey


def test_colors_are_kept_only_if_asked_and_small(picture: Callable[..., bytes]):
    data = picture(1, 1500, 900, "PNG")
    assert parse(data, LIMITS, False).colours is None
    colours = parse(data, LIMITS, True).colours
    assert colours is not None
    assert colours.shape == (614, 1024, 3)
    expected = np.asarray(Image.open(io.BytesIO(data)).resize((1024, 614), Image.Resampling.BOX))
    assert np.abs(colours.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("size", [(2, 2), (1, 1), (1, 300), (3, 2)])
def test_tiny_photos_are_taken(size):
    image = Image.effect_noise(size, 50).convert("RGB")
    assert_lightness(saved(image), np.asarray(image))


def test_what_is_no_photo_is_told():
    for data in (
        b"",
        b"hello",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        saved(Image.new("L", (4, 4)), "GIF"),
    ):
        with pytest.raises(NotAPhoto, match="send JPEG, PNG, WebP, TIFF or HEIC"):
            parse(data, LIMITS, False)


def test_a_file_that_is_cut_short_is_broken(photo: Image.Image):
    for name, data in kinds(photo).items():
        if name == "two pictures (MPO)":
            continue
        with pytest.raises((Broken, NotAPhoto)):
            parse(data[: len(data) // 2], LIMITS, False)


def test_damaged_files_end_in_one_of_the_three_errors(photo: Image.Image):
    draw = random.Random(7)
    for data in kinds(photo).values():
        for _ in range(30):
            broken = bytearray(data)
            for _ in range(draw.randint(1, 20)):
                broken[draw.randrange(len(broken))] = draw.randrange(256)
            with contextlib.suppress(TooLarge, NotAPhoto, Broken):
                assert parse(bytes(broken), LIMITS, True).lightness.ndim == 2


def test_files_and_photos_over_the_limits_are_refused(photo: Image.Image):
    data = saved(photo)
    with pytest.raises(TooLarge, match=r"at most 0\.0 MiB"):
        parse(data, Limits(most_bytes=100), False)
    with pytest.raises(TooLarge, match=r"90 x 60 = 0\.0 million pixels"):
        parse(data, Limits(most_pixels=90 * 60 - 1), False)
    parse(data, Limits(most_bytes=len(data), most_pixels=90 * 60), False)


def test_memory_is_enough_for_the_largest_photo_that_is_taken():
    assert Limits().most_memory > 22 * Limits().most_pixels + 3 * Limits().most_bytes
    assert Limits(most_pixels=10**8).most_memory - Limits(most_pixels=10**6).most_memory > 22 * 99 * 10**6


@pytest.mark.parametrize("size", [(30_000, 30_000), (9_000, 9_000)])
def test_a_decompression_bomb_is_refused_from_its_header(size, monkeypatch):
    data = bytearray(saved(Image.new("L", (8, 8))))
    data[16:24] = struct.pack(">II", *size)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(TooLarge, match=r"million pixels|too many pixels"):
        parse(bytes(data), LIMITS, False)


def test_a_photo_as_thin_as_a_thread_is_refused():
    with pytest.raises(TooLarge, match="a side of 70000"):
        parse(saved(Image.new("L", (70_000, 1))), LIMITS, False)


def test_damaged_exif_does_not_cost_the_photo(photo: Image.Image):
    data = saved(photo, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert parse(data, LIMITS, False).exif == b""


def test_long_exif_loses_the_maker_s_note_only(photo: Image.Image):
    exif = turned(1)
    exif.get_ifd(0x8769)[0x927C] = bytes(70_000)
    kept = parse(saved(photo, "PNG", exif=exif), LIMITS, False).exif
    assert len(kept) < 1000
    assert b"2020:02:03" in kept
