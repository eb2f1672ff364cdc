import numpy as np
import pytest
import skimage.color
import skimage.transform
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.synthetic import scene


def small(picture: np.ndarray) -> np.ndarray:
    """8x8 means of a (3,s,s) picture, free of fine texture."""
    side = picture.shape[1] // 8
    return picture.reshape(3, 8, side, 8, side).mean(axis=(2, 4))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**64 - 1), st.integers(8, 96))
def test_any_key_and_size_gives_the_same_picture_twice(key: int, size: int):
    picture = scene(key, size)
    assert picture.shape == (3, size, size)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, scene(key, size))


def test_keys_give_different_pictures():
    assert len({scene(key, 32).tobytes() for key in range(200)}) == 200


def test_sizes_show_the_same_scene():
    """Up to textures and clouds: much closer than two scenes are to each other."""
    ours = np.stack([small(scene(key, 32)) for key in range(60)])
    larger = np.stack([small(scene(key, 128)) for key in range(60)])
    same = np.abs(ours - larger).mean(axis=(1, 2, 3))
    different = np.abs(ours - np.roll(larger, 1, axis=0)).mean()
    assert same.mean() < different / 5
    assert same.max() < different / 2


def test_scenes_are_colorful_and_have_light_and_dark():
    pictures = np.stack([scene(key, 32) for key in range(200)])
    lab = skimage.color.rgb2lab(pictures.transpose(0, 2, 3, 1))
    chroma = np.hypot(lab[..., 1], lab[..., 2])
    assert 20 < chroma.mean() < 50, "photographs of COCO have about 15, a colour wheel 60"
    assert (lab[..., 0].std(axis=(1, 2)) > 5).mean() > 0.95


def test_hue_is_partly_predictable_and_partly_not():
    """The top of a picture is mostly sky (blue or red); a place in the middle may have any hue."""
    pictures = np.stack([small(scene(key, 32)) for key in range(400)])
    lab = skimage.color.rgb2lab(pictures.transpose(0, 2, 3, 1) / 255)
    hue = np.arctan2(lab[..., 2], lab[..., 1])
    in_the_middle = np.histogram(hue[:, 3:6], bins=8, range=(-np.pi, np.pi))[0] / hue[:, 3:6].size
    assert in_the_middle.min() > 0.015, "every eighth of the hue circle occurs"
    green_or_blue_share = (lab[:, 7, :, 1] < 0).mean()
    assert 0.4 < green_or_blue_share < 0.95, "the ground is green more often than not"


@pytest.mark.parametrize(("key", "size"), [(-1, 32), (2**64, 32), (0, 7), (0, 513)])
def test_what_is_out_of_range_is_refused(key: int, size: int):
    with pytest.raises(ValueError, match=r"it must be in .* \.\.\. "):
        scene(key, size)
