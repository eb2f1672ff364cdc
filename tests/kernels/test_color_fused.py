import os
import shutil

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from kernels.color import _cube_root, _power_08, photo_to_lab


def every_third_color() -> torch.Tensor:
    """The 8-bit cube at every third value, corners included: (1,3,86,7396)."""
    values = torch.arange(0, 256, 3, dtype=torch.uint8)
    return torch.cartesian_prod(values, values, values).T.reshape(1, 3, 86, -1)


def largest_difference(lab: tuple[torch.Tensor, torch.Tensor], rgb: torch.Tensor) -> float:
    """In CIE units, from scikit-image in float64."""
    lightness, ab = lab
    ours = torch.cat((lightness * 100, ab * 128), dim=1).permute(0, 2, 3, 1).double().numpy()
    return float(np.abs(ours - rgb2lab(rgb.permute(0, 2, 3, 1).numpy())).max())


def test_lab_is_scikit_image_s_over_the_whole_cube():
    rgb = every_third_color()
    assert largest_difference(photo_to_lab(rgb), rgb) < 1e-4


@pytest.mark.parametrize(("function", "power", "least"), [(_cube_root, 1 / 3, 0.0088), (_power_08, 0.8, 0.3008)])
def test_powers_are_nearly_exact(function, power: float, least: float):
    x = torch.linspace(least, 1.0, 100_001)
    exact = x.double() ** power
    assert ((function(x).double() - exact) / exact).abs().max() < 8e-7


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="compiling for the CPU needs a C++ compiler"
)
@pytest.mark.training
def test_the_compiled_function_is_as_exact():
    rgb = every_third_color()
    assert largest_difference(torch.compile(photo_to_lab)(rgb), rgb) < 1e-4
