"""Photos that cameras and programs make, but benchmarks often break on."""

import io
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from evaluator.photos import decode
from evaluator.photos.decode import BrokenPhoto, center_crop, decode_rgb, decode_square, size_of


def saved(image: Image.Image, kind: str = "PNG", **more) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


def pixels(data: bytes) -> np.ndarray:
    return decode_rgb(data).permute(1, 2, 0).numpy()


def test_sixteen_bits_are_scaled_and_not_clipped(noise: np.ndarray):
    grey = noise[..., 0]
    deep = grey.astype(np.uint16) * 257
    assert np.array_equal(pixels(saved(Image.fromarray(deep)))[..., 1], grey)


def test_alpha_is_dropped_and_a_transparent_palette_makes_no_noise(noise: np.ndarray):
    alpha = np.dstack([noise, np.full(noise.shape[:2], 7, np.uint8)])
    assert np.array_equal(pixels(saved(Image.fromarray(alpha))), noise)
    palette = Image.fromarray(noise).quantize(64)
    expected = np.asarray(palette.convert("RGB"))
    assert np.array_equal(pixels(saved(palette, transparency=bytes(range(64)))), expected)


def test_pixels_without_a_known_range_are_named():
    with pytest.raises(BrokenPhoto, match="32-bit pixels"):
        decode_rgb(saved(Image.new("F", (20, 20)), "TIFF"))


def test_too_many_pixels_are_named_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch):
    data = saved(Image.new("L", (200, 100)))
    monkeypatch.setattr(decode, "MAX_PIXELS", 19_999)
    with pytest.raises(BrokenPhoto, match=r"200 x 100 pixels are more than .* decompression bomb"):
        size_of(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9_000)  # Pillow's own check raises at twice as many
    with pytest.raises(BrokenPhoto, match="decompression bomb"):
        decode_rgb(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_a_large_photo_is_shrunk_to_nearly_the_same_square(kind: str, mode: str, monkeypatch: pytest.MonkeyPatch):
    rows, cols = np.mgrid[0:300, 0:400]
    ramp = np.stack([rows * 255 / 300, cols * 255 / 400, 128 + 0 * rows], axis=-1).astype(np.uint8)
    image = Image.fromarray(ramp).convert(mode)
    data = saved(image.convert("RGB") if mode == "P" and kind == "JPEG" else image, kind)
    whole = decode_square(data, 16)
    assert torch.equal(whole, center_crop(decode_rgb(data), 16))
    monkeypatch.setattr(decode, "LARGE_PIXELS", 100_000)
    sizes = []
    cut = decode.center_crop
    monkeypatch.setattr(decode, "center_crop", lambda rgb, size: sizes.append(rgb.shape) or cut(rgb, size))
    shrunk = decode_square(data, 16)
    assert 64 <= min(sizes[0][1:]) < 130
    assert (whole.int() - shrunk.int()).abs().max() <= 6


def test_twelve_thousand_pixels_a_side_take_little_memory():
    """A JPEG is decoded at an eighth; NumPy and Python never hold the 432 MB of the whole."""
    data = saved(Image.new("RGB", (12_000, 12_000), (200, 30, 60)), "JPEG")
    tracemalloc.start()
    square = decode_square(data, 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6
    assert (square.float().mean((1, 2)) - torch.tensor([200.0, 30.0, 60.0])).abs().max() < 3
