from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import lab2rgb, rgb2lab

from evaluator.service.inference.gamut import ab_of, hex_of, in_gamut

bytes_ = st.integers(0, 255)


@given(bytes_, bytes_, bytes_)
def test_a_color_is_the_same_as_hex_as_rgb_and_by_scikit_image(red, green, blue):
    expected = rgb2lab(np.array([[[red, green, blue]]]) / 255)[0, 0]
    for colour in ({"hex": f"#{red:02x}{green:02X}{blue:02x}"}, {"rgb": [red, green, blue]}):
        assert ab_of(colour) == pytest.approx(expected[1:] / 128, abs=1e-5)


@given(bytes_, bytes_, bytes_)
def test_hex_and_back_is_the_same(red, green, blue):
    code = f"#{red:02x}{green:02x}{blue:02x}"
    lightness = float(rgb2lab(np.array([[[red, green, blue]]]) / 255)[0, 0, 0])
    assert hex_of(lightness, ab_of({"hex": code})) == code


def test_lab_is_taken_as_it_is():
    assert ab_of({"lab": [3.0, -64.0, 32.0]}) == (-0.5, 0.25)


def test_an_object_with_such_an_attribute_is_a_color_too():
    @dataclass
    class Named:
        lab: list[float]

    assert ab_of(Named([50.0, 12.8, 0.0])) == (0.1, 0.0)


@pytest.mark.parametrize(
    ("colour", "what"),
    [
        ({}, "none of hex, rgb, lab"),
        ({"hex": "#112233", "rgb": [1, 2, 3]}, "exactly one"),
        ({"hex": "#12345"}, "'#12345'"),
        ({"hex": "#12345g"}, "'#12345g'"),
        ({"hex": "#+1 2_3"}, "#b5651d"),
        ({"rgb": [1, 2]}, r"\[1, 2\]"),
        ({"rgb": [0, 256, 0]}, "256"),
        ({"rgb": [float("nan"), 0, 0]}, "nan"),
        ({"lab": [50, 200, 0]}, "200"),
        ({"lab": [50, float("nan"), 0]}, "nan"),
    ],
)
def test_what_is_no_color_is_told(colour, what):
    with pytest.raises(ValueError, match=what):
        ab_of(colour)


@pytest.mark.filterwarnings("ignore:.*negative Z values:UserWarning")  # scikit-image about colors out of gamut
@settings(deadline=None)
@given(st.integers(0, 1000), st.sampled_from([8, 16, 32]))
def test_the_palette_is_what_srgb_gives_back(tenths, step):
    lightness = tenths / 10
    side = np.arange(-(128 // step), 128 // step + 1) * step
    a, b = np.meshgrid(side, side, indexing="ij")
    lab = np.stack([np.full(a.shape, lightness), a, b], axis=-1).astype(float)
    apart = np.linalg.norm(rgb2lab(lab2rgb(lab)) - lab, axis=-1)
    found = {(a, b) for a, b, _ in in_gamut(lightness, step)}
    assert found >= {(a, b) for _, a, b in lab[apart < 0.99]}
    assert not found & {(a, b) for _, a, b in lab[apart > 1.01]}


def test_every_palette_holds_grey_and_its_codes_are_shown_colors():
    for lightness in (0.0, 0.3, 50.0, 99.0, 100.0):
        palette = {(a, b): code for a, b, code in in_gamut(lightness, 8)}
        red, green, blue = bytes.fromhex(palette[0.0, 0.0][1:])
        assert max(red, green, blue) - min(red, green, blue) <= 1
    for a, b, code in in_gamut(50.0, 16):
        lab = rgb2lab(np.array([[list(bytes.fromhex(code[1:]))]]) / 255)[0, 0]
        assert np.abs(lab - [50, a, b]).max() < 1.5  # rounding to 8 bits, and what counts as in gamut


@pytest.mark.parametrize(("lightness", "step"), [(-1, 8), (101, 8), (float("nan"), 8), (50, 0), (50, 129)])
def test_a_palette_of_nothing_is_told(lightness, step):
    with pytest.raises(ValueError, match="give"):
        in_gamut(lightness, step)
