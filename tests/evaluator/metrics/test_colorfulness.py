import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from evaluator.metrics.color import colourfulness


def by_the_paper(rgb: np.ndarray) -> float:
    """Pixel by pixel, as section 6 of the paper writes it."""
    red_green, yellow_blue = [], []
    for row in rgb.transpose(1, 2, 0).astype(float):
        for red, green, blue in row:
            red_green.append(red - green)
            yellow_blue.append(0.5 * (red + green) - blue)
    sigma = math.hypot(np.std(red_green), np.std(yellow_blue))
    mu = math.hypot(np.mean(red_green), np.mean(yellow_blue))
    return sigma + 0.3 * mu


@given(arrays.arrays(np.uint8, st.tuples(st.just(3), st.integers(1, 5), st.integers(1, 7))))
def test_it_is_the_papers_formula(rgb):
    assert colourfulness(torch.from_numpy(rgb)[None]).item() == pytest.approx(by_the_paper(rgb), abs=1e-6)


def test_opponents_keep_their_signs():
    """Half red, half green: their mean difference is 0. Absolute values would make it 255, and its spread 0."""
    rgb = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    rgb[0, 0, 0], rgb[0, 1, 1] = 255, 255
    assert colourfulness(rgb).item() == pytest.approx(255 + 0.3 * 127.5)


@pytest.mark.parametrize("level", [0, 1, 100, 255])
def test_grey_has_none(level):
    assert colourfulness(torch.full((2, 3, 5, 4), level, dtype=torch.uint8)).tolist() == [0.0, 0.0]


def test_a_single_colored_photo_has_no_spread():
    rgb = torch.tensor([250, 10, 3], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 31, 17)
    assert colourfulness(rgb).item() == pytest.approx(0.3 * math.hypot(240, 127))
