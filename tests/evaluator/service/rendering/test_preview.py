import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import lab2rgb

from evaluator.service.images.decode import Limits, parse
from evaluator.service.images.store import PhotoStore, StoredPhoto
from evaluator.service.rendering.preview import encode_grey, encode_heatmap, encode_preview, encode_reference


def unchecked(function: Callable) -> Callable:
    """Without the type check that tests put in front."""
    return getattr(function, "__wrapped__", function)


@pytest.fixture(scope="module")
def stored(picture: Callable[..., bytes], tmp_path_factory: pytest.TempPathFactory) -> StoredPhoto:
    store = PhotoStore(tmp_path_factory.mktemp("store"), 2**24, 64)
    return store.put("0" * 64, parse(picture(4, 300, 200, "PNG"), Limits(), True))


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize(("long_side", "size"), [(150, (150, 100)), (300, (300, 200)), (1024, (300, 200))])
def test_a_preview_has_its_format_size_and_color(stored: StoredPhoto, format, long_side, size):
    ab = torch.full((1, 2, *stored.working.shape[-2:]), 0.1)
    image = opened(encode_preview(stored, ab, long_side, format))
    assert (image.format, image.size) == (format.upper(), size)
    lightness = stored.lightness_at(long_side)[0, 0].double().numpy() * 100
    lab = np.stack((lightness, np.full_like(lightness, 12.8), np.full_like(lightness, 12.8)), axis=-1)
    apart = np.abs(np.asarray(image) - lab2rgb(lab) * 255)
    assert apart.max() < 1 if format == "png" else apart.mean() < 3


def test_the_default_preview_is_a_jpeg(stored: StoredPhoto):
    assert opened(encode_preview(stored, torch.zeros(1, 2, *stored.working.shape[-2:]), 512)).format == "JPEG"


def test_an_unknown_format_is_told(stored: StoredPhoto):
    with pytest.raises(ValueError, match="'gif'"):
        unchecked(encode_preview)(stored, torch.zeros(1, 2, *stored.working.shape[-2:]), 512, "gif")


def test_the_grey_photo_is_grey(stored: StoredPhoto):
    image = opened(encode_grey(stored, 100))
    assert (image.mode, image.size) == ("L", (100, 67))
    expected = lab2rgb(stored.lightness_at(100)[0, 0].double().numpy()[..., None] * [100, 0, 0])[..., 0] * 255
    assert np.abs(np.asarray(image) - expected).mean() < 3


def test_the_reference_is_the_photo_s_own_colors(stored: StoredPhoto):
    image = opened(encode_reference(stored, 1024))
    assert image.size == (300, 200)
    assert np.abs(np.asarray(image).astype(int) - stored.reference()).mean() < 3
    assert opened(encode_reference(stored, 30)).size == (30, 20)


def test_a_heat_map_is_opaque_where_it_is_hottest(stored: StoredPhoto):
    height, width = stored.working.shape[-2:]
    heat = torch.zeros(1, height, width)
    heat[0, 10:20, 30:40] = 1e-3
    image = opened(encode_heatmap(stored, heat, 150))
    pixels = np.asarray(image)
    assert (image.format, image.mode, image.size) == ("PNG", "RGBA", (150, 100))
    assert pixels[35, 82, 3] == 255
    assert pixels[90, 10, 3] == 0
    assert len(np.unique(pixels[..., :3].reshape(-1, 3), axis=0)) == 1


def test_an_empty_heat_map_is_transparent(stored: StoredPhoto, tmp_path: Path):
    heat = torch.zeros(1, *stored.working.shape[-2:])
    assert np.asarray(opened(encode_heatmap(stored, heat, 64)))[..., 3].max() == 0
