import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import skimage.color
import torch
from PIL import Image
from torch import Tensor

from trainer.data import embedded
from trainer.data.embedded import TRAIN, VALIDATION, EmbeddedLoader, Pyramid, photographs, validation_photos


def first_batches(count: int, images_seen: int = 0, **settings) -> list[Tensor]:
    loader = EmbeddedLoader(**{"image_size": 32, "batch_size": 6, "seed": 3, **settings})
    batches = [batch.rgb for batch in itertools.islice(loader.batches(images_seen), count)]
    loader.close()
    return batches


def test_photographs_are_real_color_photographs():
    for name, image in photographs().items():
        lab = skimage.color.rgb2lab(np.asarray(image))
        chroma = np.hypot(lab[..., 1], lab[..., 2])
        assert image.mode == "RGB"
        assert min(image.size) >= 256, name
        assert np.mean(chroma > 10) > 0.2, f"{name} is nearly grey"


def test_validation_photographs_are_never_trained_on(monkeypatch: pytest.MonkeyPatch):
    assert not set(TRAIN) & set(VALIDATION)
    opened: list[str] = []
    monkeypatch.setattr(embedded, "_open", lambda path: opened.append(path.name) or Image.new("RGB", (300, 300)))
    first_batches(1)
    assert opened == list(TRAIN)
    opened.clear()
    validation_photos(32, count=4)
    assert opened == list(VALIDATION)


def test_photographs_come_from_the_installed_wheel_without_the_fetcher(monkeypatch: pytest.MonkeyPatch):
    folder = Path(skimage.__file__).parent / "data"
    opened: list[Path] = []
    original = embedded._open
    monkeypatch.setattr(embedded, "_open", lambda path: opened.append(path) or original(path))
    photographs()
    assert opened == [folder / name for name in TRAIN + VALIDATION]


def test_a_missing_photograph_says_what_to_do():
    with pytest.raises(FileNotFoundError, match=r"sunflower\.png is missing.*reinstall.*--data\.train"):
        photographs(["sunflower.png"])


def test_batches_are_contiguous_uint8_on_the_cpu():
    loader = EmbeddedLoader(image_size=64, batch_size=5)
    batch = next(iter(loader.batches(0)))
    assert batch.rgb.shape == (5, 3, 64, 64)
    assert batch.rgb.dtype == torch.uint8
    assert batch.rgb.device.type == "cpu"
    assert batch.rgb.is_contiguous()
    assert batch.skipped == 0
    assert loader.samples_per_epoch > 0


def test_the_stream_can_be_entered_anywhere():
    whole = torch.cat(first_batches(6))
    later = torch.cat(first_batches(3, images_seen=18))
    assert torch.equal(later, whole[18:])
    assert torch.equal(torch.cat(first_batches(2, images_seen=7)), whole[7:19])


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_stream_of_one_process(world_size: int):
    alone = torch.cat(first_batches(4, batch_size=6))
    ranks = [
        first_batches(4, batch_size=6 // world_size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    together = torch.cat([part for step in zip(*ranks, strict=True) for part in step])
    assert torch.equal(together, alone)


def test_seeds_give_different_streams():
    assert not torch.equal(first_batches(1, seed=0)[0], first_batches(1, seed=1)[0])


def test_photo_share_says_how_many_are_photographs(monkeypatch: pytest.MonkeyPatch):
    scenes: list[int] = []

    def counted(key: int, size: int) -> np.ndarray:
        scenes.append(key)
        return np.zeros((3, size, size), np.uint8)

    monkeypatch.setattr(embedded, "scene", counted)
    first_batches(1, batch_size=400, photo_share=0.75, image_size=8)
    assert 70 < len(scenes) < 130
    scenes.clear()
    first_batches(1, batch_size=50, photo_share=1.0, image_size=8)
    assert not scenes


def test_scenes_to_train_and_to_validate_on_are_different(monkeypatch: pytest.MonkeyPatch):
    keys: list[int] = []

    def recorded(key: int, size: int) -> np.ndarray:
        keys.append(key)
        return np.zeros((3, size, size), np.uint8)

    monkeypatch.setattr(embedded, "scene", recorded)
    validation_photos(8, count=40)
    held_out = set(keys)
    keys.clear()
    first_batches(10, photo_share=0.0, image_size=8)
    assert len(held_out) == 20
    assert not held_out & set(keys)
    assert {key % 2 for key in held_out} == {1}
    assert {key % 2 for key in keys} == {0}


def ramp(width: int, height: int) -> Image.Image:
    """Red says which column, green which row."""
    row, col = np.mgrid[:height, :width]
    return Image.fromarray(
        np.stack([col * 255 / (width - 1), row * 255 / (height - 1), 0 * row], axis=-1).round().astype(np.uint8)
    )


@pytest.mark.parametrize("image_size", [16, 50, 64])
def test_a_crop_shows_the_place_that_was_asked_for(image_size: int):
    pyramid = Pyramid(ramp(401, 301))
    for side, x, y in ((100.0, 0.0, 0.0), (150.0, 1.0, 1.0), (301.0, 0.5, 0.0), (80.0, 0.3, 0.6)):
        crop = pyramid.crop(side, x, y, image_size).astype(float)
        left, top = x * (401 - side), y * (301 - side)
        centers = (np.arange(image_size) + 0.5) * side / image_size - 0.5
        inner = slice(2, -2)  # at a border antialiasing can only look inwards
        np.testing.assert_allclose(crop[5, inner, 0], ((left + centers) * 255 / 400)[inner], atol=2)
        np.testing.assert_allclose(crop[inner, 5, 1], ((top + centers) * 255 / 300)[inner], atol=2)


def test_a_crop_is_antialiased():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = Pyramid(Image.fromarray(stripes)).crop(250.0, 0.37, 0.0, 32)
    np.testing.assert_allclose(crop, 127.5, atol=2)


def test_crops_are_not_enlarged_where_the_photograph_allows_it(monkeypatch: pytest.MonkeyPatch):
    sides: list[float] = []
    original = Pyramid.crop

    def recorded(self: Pyramid, side: float, x: float, y: float, image_size: int) -> np.ndarray:
        sides.append(side / self.short_side)
        assert side >= min(image_size, self.short_side)
        return original(self, side, x, y, image_size)

    monkeypatch.setattr(Pyramid, "crop", recorded)
    first_batches(40, image_size=16, photo_share=1.0)
    assert min(sides) < 0.3
    assert max(sides) > 0.95
    assert all(0.25 <= side <= 1 for side in sides)
    first_batches(3, image_size=256, photo_share=1.0)


def test_validation_is_fixed_named_and_extends():
    photos, names = validation_photos(32, count=12)
    assert names[:5] == ["coffee 0", "scene 0", "chelsea 0", "scene 1", "coffee 1"]
    assert len(set(names)) == 12 == len(photos)
    again, _ = validation_photos(32, count=7)
    assert torch.equal(again, photos[:7])
    assert len({photo.numpy().tobytes() for photo in photos}) == 12


def test_the_first_validation_photo_is_the_middle_of_the_coffee():
    image = photographs(["coffee.png"])["coffee.png"]
    middle = image.crop(((image.width - image.height) // 2, 0, (image.width + image.height) // 2, image.height))
    expected = np.asarray(middle.resize((50, 50), Image.Resampling.BOX), dtype=float)
    photos, _ = validation_photos(50, count=1)
    assert np.abs(photos[0].permute(1, 2, 0).numpy() - expected).mean() < 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rank": 2, "world_size": 2}, r"rank is 2 of 2; it must be in 0 \.\.\. 1"),
        ({"photo_share": 1.5}, r"photo_share is 1\.5"),
        ({"image_size": 4}, r"image_size is 4.*8 \.\.\. 512"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        first_batches(1, **settings)
    with pytest.raises(ValueError, match="count is 0"):
        validation_photos(32, count=0)


def test_batches_are_an_iterator():
    assert isinstance(EmbeddedLoader(image_size=16, batch_size=1).batches(0), Iterator)
