"""The Triton kernel: under the interpreter where there is no GPU, and compiled for GPUs that are not here."""

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from torch import Tensor

from tests.benchmarks.kernels.color_triton import photo_to_lab
from tests.kernels.cross_compile import Job, cross_compile

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
POINTERS = {"rgb": "*u8", "flip": "*u8", "linear": "*fp32", "lightness": "*fp32", "ab": "*fp32"}
NUMBERS = ("height", "width", "photo_stride", "plane_stride", "row_stride", "col_stride")


def photos(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch + height + width)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


def flips(batch: int) -> Tensor:
    return torch.arange(batch) % 3 == 1


def check(rgb: Tensor, flip: Tensor) -> None:
    """Compare with mirroring in NumPy and scikit-image in float64, in CIE units."""
    lightness, ab = (part.cpu() for part in photo_to_lab(rgb.to(DEVICE), flip.to(DEVICE)))
    ours = torch.cat((lightness * 100, ab * 128), dim=1).permute(0, 2, 3, 1).double().numpy()
    pixels = rgb.permute(0, 2, 3, 1).numpy()
    pixels = np.where(flip.numpy()[:, None, None, None], pixels[:, :, ::-1], pixels)
    np.testing.assert_allclose(ours, rgb2lab(pixels), rtol=0, atol=1e-4)


@pytest.fixture(autouse=True)
def _poisoned_outputs(monkeypatch: pytest.MonkeyPatch):
    """A pixel that the kernel forgets is NaN."""
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: torch.full(shape, torch.nan, **options))


def test_lab_is_scikit_image_s_over_the_cube():
    values = torch.cat((torch.arange(14), torch.arange(15, 256, 8))).to(torch.uint8)
    check(torch.cartesian_prod(values, values, values).T.reshape(1, 3, 45, -1), torch.tensor([False]))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (33, 1), (5, 63), (3, 1025), (16, 64)])
def test_every_pixel_of_any_size_is_written_and_mirrored(size: tuple[int, int]):
    check(photos(4, *size), flips(4))


@pytest.mark.parametrize("layout", ["channels last", "transposed", "every second photo", "expanded"])
def test_memory_layout_does_not_matter(layout: str):
    whole = photos(6, 9, 20)
    rgb = {
        "channels last": whole.contiguous(memory_format=torch.channels_last),
        "transposed": whole.transpose(2, 3),
        "every second photo": whole[::2, :, 1:, 3:],
        "expanded": whole[:1].expand(4, -1, -1, -1),
    }[layout]
    check(rgb, flips(12)[::2][: len(rgb)])


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4)])
def test_nothing_becomes_nothing(shape: tuple[int, int, int, int]):
    rgb = torch.zeros(shape, dtype=torch.uint8, device=DEVICE)
    lightness, ab = photo_to_lab(rgb, torch.zeros(len(rgb), dtype=torch.bool, device=DEVICE))
    assert lightness.numel() == ab.numel() == 0


def job(capability: int, **constants: int) -> Job:
    numbers = {name: "i32" for name in NUMBERS if name not in constants}
    aligned = (*POINTERS, *numbers)
    kernel = "tests.benchmarks.kernels.color_triton:photo_to_lab_kernel"
    return Job(kernel, POINTERS | numbers, constants, capability=capability, aligned=aligned)


@pytest.mark.slow
def test_it_compiles_for_gpus_without_spilling():
    """A photo of one pixel too: a launch makes constants of arguments that are 1."""
    ones = {name: 1 for name in NUMBERS if name != "photo_stride"}
    jobs = [job(capability, col_stride=1, ROWS=4, COLS=256) for capability in (80, 90)]
    jobs.append(job(90, **ones, ROWS=1, COLS=1))
    compiled = cross_compile(jobs)
    for result in compiled:
        assert result.stack == 0
        assert result.registers <= 64, "more would halve the programs that run at once"
    for result in compiled[:2]:
        assert "st.global.v4.b32" in result.ptx, "Lab is written in wide stores"
