import itertools
import warnings

import numpy as np
import pytest
import skimage.color
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kernels.color import lab_to_rgb, rgb_to_lab, to_uint8

CORNERS = torch.tensor(list(itertools.product((0, 255), repeat=3)), dtype=torch.uint8)


def as_images(colors: Tensor) -> Tensor:
    """(N,3) colors -> one image (1,3,1,N)."""
    return colors.T.reshape(1, 3, 1, -1).contiguous()


def cube(steps: int) -> Tensor:
    """A regular sample of the 8-bit cube, with every value near black, where the curves have their knees."""
    levels = torch.linspace(0, 255, steps).round().to(torch.uint8)
    levels = torch.unique(torch.cat((levels, torch.arange(14, dtype=torch.uint8))))
    return as_images(torch.cartesian_prod(levels, levels, levels))


def cie(lightness: Tensor, ab: Tensor) -> np.ndarray:
    """Our scales -> (B,H,W,3) in CIE units, float64."""
    return torch.cat((lightness * 100, ab * 128), dim=1).permute(0, 2, 3, 1).double().numpy()


def reference_lab(rgb: Tensor) -> np.ndarray:
    unit = rgb.double() / 255 if rgb.dtype == torch.uint8 else rgb.double()
    return skimage.color.rgb2lab(unit.permute(0, 2, 3, 1).numpy())


def reference_rgb(lightness: Tensor, ab: Tensor) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Conversion from CIE-LAB.*negative Z values")
        return skimage.color.lab2rgb(cie(lightness, ab))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_lab_is_within_1e_4_of_scikit_image_over_the_cube(dtype: torch.dtype):
    rgb = cube(20)
    given_rgb = rgb if dtype == torch.uint8 else rgb.to(dtype) / 255
    np.testing.assert_allclose(cie(*rgb_to_lab(given_rgb)), reference_lab(rgb), rtol=0, atol=1e-4)


def test_float64_stays_float64_and_agrees_closely():
    rgb = cube(12).double() / 255
    lightness, ab = rgb_to_lab(rgb)
    assert lightness.dtype == ab.dtype == lab_to_rgb(lightness, ab).dtype == torch.float64
    np.testing.assert_allclose(cie(lightness, ab), reference_lab(rgb), rtol=0, atol=1e-10)


def test_corners_are_exact():
    corners = as_images(CORNERS)
    lab = rgb_to_lab(corners.double() / 255)
    np.testing.assert_allclose(cie(*lab), reference_lab(corners), rtol=0, atol=1e-5)
    assert torch.equal(to_uint8(lab_to_rgb(*lab)), corners)
    assert torch.equal(to_uint8(lab_to_rgb(*rgb_to_lab(corners))), corners)


def test_every_sampled_color_survives_the_round_trip():
    rgb = cube(24)
    assert torch.equal(to_uint8(lab_to_rgb(*rgb_to_lab(rgb))), rgb)


def test_rgb_agrees_with_scikit_image_in_and_out_of_the_gamut():
    steps = torch.linspace(-1, 1, 33, dtype=torch.float64)
    lab = torch.cartesian_prod(torch.linspace(0, 1, 21, dtype=torch.float64), steps, steps)
    lightness, ab = as_images(lab)[:, :1], as_images(lab)[:, 1:]
    expected = reference_rgb(lightness, ab)
    outside = ((expected == 0) | (expected == 1)).any(axis=-1).mean()
    assert outside > 0.5, "the grid must test clipping"
    ours = lab_to_rgb(lightness, ab).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-10)
    single = lab_to_rgb(lightness.float(), ab.float()).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(single, expected, rtol=0, atol=2e-5)
    assert ours.min() >= 0
    assert ours.max() <= 1


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=8))
def test_any_colors_match_the_reference_and_return(colors: list[tuple[int, int, int]]):
    rgb = as_images(torch.tensor(colors, dtype=torch.uint8))
    lightness, ab = rgb_to_lab(rgb)
    np.testing.assert_allclose(cie(lightness, ab), reference_lab(rgb), rtol=0, atol=1e-4)
    assert ab.abs().max() <= 1
    assert lightness.min() >= -1e-6
    assert lightness.max() <= 1 + 1e-6
    assert torch.equal(to_uint8(lab_to_rgb(lightness, ab)), rgb)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 254))
def test_greys_have_no_color_and_rise_in_lightness(level: int):
    greys = torch.tensor([level, level + 1], dtype=torch.uint8).expand(1, 3, 1, 2)
    lightness, ab = rgb_to_lab(greys)
    assert ab.abs().max() * 128 < 0.01, "scikit-image's own white is 0.006 units off neutral"
    assert lightness[..., 0] < lightness[..., 1]


def test_gradients_are_right_in_float64():
    generator = torch.Generator().manual_seed(0)
    rgb = torch.rand(1, 3, 3, 4, generator=generator, dtype=torch.float64)
    rgb[..., 0] *= 0.03  # below both knees
    lightness, ab = (part.detach().requires_grad_() for part in rgb_to_lab(rgb))
    torch.autograd.gradcheck(rgb_to_lab, rgb.requires_grad_())
    torch.autograd.gradcheck(lab_to_rgb, (lightness, ab))


def test_gradients_are_finite_at_black_at_white_and_where_clipped():
    corners = (as_images(CORNERS).float() / 255).requires_grad_()
    torch.cat(rgb_to_lab(corners), dim=1).sum().backward()
    assert corners.grad is not None
    assert corners.grad.isfinite().all()
    lightness = torch.linspace(0, 1, 50).view(1, 1, 5, 10).requires_grad_()
    ab = torch.cat([torch.full((1, 1, 5, 10), v) for v in (-1.0, 1.0)], dim=1).requires_grad_()
    rgb = lab_to_rgb(lightness, ab)
    rgb.sum().backward()
    assert lightness.grad is not None
    assert ab.grad is not None
    assert lightness.grad.isfinite().all()
    assert ab.grad.isfinite().all()


def test_a_channel_clipped_by_the_gamut_has_no_gradient():
    lightness, ab = torch.full((1, 1, 1, 1), 0.5), torch.tensor([1.0, 1.0]).view(1, 2, 1, 1).requires_grad_()
    rgb = lab_to_rgb(lightness, ab)
    assert rgb[0, 0] == 1
    assert rgb[0, 1] == 0
    (gradient,) = torch.autograd.grad(rgb[0, 0].sum() + rgb[0, 1].sum(), ab)
    assert (gradient == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32_with_and_without_autocast(dtype: torch.dtype):
    rgb = (cube(9).float() / 255).to(dtype)
    plain = rgb_to_lab(rgb.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lab, back = rgb_to_lab(rgb), lab_to_rgb(*plain)
    assert lab[0].dtype == lab[1].dtype == back.dtype == torch.float32
    assert torch.equal(lab[0], plain[0])
    assert torch.equal(lab[1], plain[1])
    assert torch.equal(back, lab_to_rgb(*plain))


def test_memory_layout_does_not_matter():
    rgb = torch.randint(0, 256, (3, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    lightness, ab = rgb_to_lab(rgb)
    other_lightness, other_ab = rgb_to_lab(rgb.contiguous(memory_format=torch.channels_last))
    assert torch.equal(lightness, other_lightness)
    assert torch.equal(ab, other_ab)
    flipped_lightness, _ = rgb_to_lab(rgb.flip(-1))
    torch.testing.assert_close(flipped_lightness, lightness.flip(-1), rtol=0, atol=1e-6)


def test_to_uint8_rounds_to_nearest_and_clips():
    levels = torch.arange(256).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    for offset in (-0.49, 0.0, 0.49):
        assert torch.equal(to_uint8((levels + offset) / 255), levels.to(torch.uint8))
    assert to_uint8(torch.full((1, 3, 1, 1), 1.7)).unique().tolist() == [255]
    assert to_uint8(torch.full((1, 3, 1, 1), -0.3)).unique().tolist() == [0]


class _ThereAndBack(torch.nn.Module):
    def forward(self, rgb: Tensor) -> Tensor:
        return lab_to_rgb(*rgb_to_lab(rgb))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_graph_exports(dtype: torch.dtype):
    rgb = torch.randint(0, 256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(2))
    rgb = rgb.to(torch.uint8) if dtype == torch.uint8 else rgb / 255
    graph = torch.export.export(_ThereAndBack(), (rgb,)).module()
    torch.testing.assert_close(graph(rgb), _ThereAndBack()(rgb), rtol=0, atol=1e-6)


def test_wrong_input_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"\(1, 4, 2, 2\).*pass \(batch, 3, height, width\)"):
        _unchecked(rgb_to_lab)(torch.zeros(1, 4, 2, 2))
    with pytest.raises(ValueError, match=r"int64.*uint8"):
        _unchecked(rgb_to_lab)(torch.zeros(1, 3, 2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="ab has shape"):
        _unchecked(lab_to_rgb)(torch.zeros(1, 1, 2, 2), torch.zeros(1, 3, 2, 2))


def _unchecked(function):
    """The function without the test run's shape checker, as a person calls it."""
    return getattr(function, "__wrapped__", function)
