import numpy as np
import pytest
import torch
from skimage.color import lab2rgb

from kernels.color import lab_to_uint8, rgb_to_lab


def test_every_third_color_comes_back_exactly():
    values = torch.arange(0, 256, 3, dtype=torch.uint8)
    rgb = torch.cartesian_prod(values, values, values).T.reshape(1, 3, 86, -1)
    assert torch.equal(lab_to_uint8(*rgb_to_lab(rgb)), rgb)


@pytest.mark.filterwarnings("ignore:.*negative Z values:UserWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_colors_in_and_out_of_gamut_are_scikit_image_s_within_rounding(dtype):
    generator = torch.Generator().manual_seed(0)
    lightness = torch.rand(2, 1, 50, 70, generator=generator, dtype=dtype)
    ab = torch.rand(2, 2, 50, 70, generator=generator, dtype=dtype) * 2 - 1
    lab = torch.cat((lightness * 100, ab * 128), dim=1).permute(0, 2, 3, 1).double().numpy()
    found = lab_to_uint8(lightness, ab).permute(0, 2, 3, 1).numpy()
    assert np.abs(found - lab2rgb(lab) * 255).max() < 0.6


def test_wrong_channels_and_types_are_told():
    unchecked = getattr(lab_to_uint8, "__wrapped__", lab_to_uint8)  # tests put a type check in front
    with pytest.raises(ValueError, match="lightness has shape"):
        unchecked(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match="dtype"):
        unchecked(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.zeros(1, 2, 4, 4))
