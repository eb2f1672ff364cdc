import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from trainer.data import worker
from trainer.data.worker import random_crop


@pytest.fixture
def photo() -> Tensor:
    """A photo of 60 x 90 pixels."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 60, 90), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("draws", [(0.0, 0.0, 0.0), (0.999, 0.999, 0.999), (0.5, 0.2, 0.7)])
def test_a_random_crop_is_pillow_s_resize_of_the_same_window(photo: Tensor, draws):
    size, jitter = 40, 20
    side = round(60 * size / (size + int(draws[0] * (jitter + 1))))
    top, left = int(draws[1] * (60 - side + 1)), int(draws[2] * (90 - side + 1))
    found = random_crop(photo, size, jitter, draws)
    window = Image.fromarray(photo.permute(1, 2, 0).numpy()[top : top + side, left : left + side])
    expected = np.asarray(window.resize((size, size), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(found.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 2


def test_the_scale_covers_exactly_its_range(photo: Tensor, monkeypatch: pytest.MonkeyPatch):
    """With size 60 and a jitter of 20, windows are 60 ... 45 pixels of a photo whose short side is 60."""
    sides = set()
    monkeypatch.setattr(worker, "resized", lambda window, size: sides.add(window.shape[1]) or window)
    for step in range(21):
        random_crop(photo, 60, 20, ((step + 0.5) / 21, 0.0, 0.0))
    assert (min(sides), max(sides)) == (45, 60)


def test_small_photos_are_enlarged(photo: Tensor):
    assert random_crop(photo, 128, 20, (0.3, 0.3, 0.3)).shape == (3, 128, 128)
