"""The benchmark of photos to Lab, and the Triton kernel that it decides about."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from torch import Tensor

from kernels.color import photo_to_lab, rgb_to_lab
from tests.benchmarks.__main__ import main
from tests.benchmarks.kernels import color, color_triton
from tests.benchmarks.kernels.color import mirrored
from tests.kernels.cross_compile import Job, cross_compile

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def eager(rgb: Tensor, flip: Tensor) -> tuple[Tensor, Tensor]:
    return rgb_to_lab(mirrored(rgb, flip))


def fused(rgb: Tensor, flip: Tensor) -> tuple[Tensor, Tensor]:
    return photo_to_lab(mirrored(rgb, flip))


def not_mirrored(rgb: Tensor, flip: Tensor) -> tuple[Tensor, Tensor]:
    return rgb_to_lab(rgb)


def one_pixel_forgotten(rgb: Tensor, flip: Tensor) -> tuple[Tensor, Tensor]:
    lightness, ab = eager(rgb, flip)
    ab[-1, -1, -1, -1] = torch.nan
    return lightness, ab


def slightly_off(rgb: Tensor, flip: Tensor) -> tuple[Tensor, Tensor]:
    lightness, ab = eager(rgb, flip)
    return lightness + 2e-6, ab


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_without_a_gpu_the_others_are_timed_and_the_goal_is_open(
    report_of: Callable, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(color, "make_paths", lambda device: {"eager": eager, "compiled": fused})
    content = report_of("color", "--photos", 2, "--size", 16, 24, "--repeats", 1)
    assert [row["path"] for row in content["rows"]] == ["eager", "compiled", "copy", "triton: needs a GPU"] * 2
    assert content["rows"][0]["MB moved"] == pytest.approx(2 * 16 * 16 * 15 / 1e6)
    assert [(goal["measured"], goal["met"]) for goal in content["goals"]] == [(None, None)]


@pytest.mark.parametrize("path", [not_mirrored, one_pixel_forgotten, slightly_off])
def test_nothing_is_timed_when_a_path_is_wrong(
    path: color.ToLab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(color, "make_paths", lambda device: {"eager": eager, "ours": path})
    assert main(["color", "--photos", "2", "--size", "16"]) == 1
    assert "ours is " in capsys.readouterr().err


@pytest.mark.parametrize("size", [(1, 1), (33, 1), (5, 63), (3, 1025)])
def test_the_kernel_writes_every_pixel_as_scikit_image_has_it(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
):
    generator = torch.Generator().manual_seed(sum(size))
    rgb = torch.randint(0, 256, (4, 3, *size), dtype=torch.uint8, generator=generator).transpose(2, 3)
    flip = torch.arange(4) % 3 == 1
    # A pixel that the kernel forgets is NaN.
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: torch.full(shape, torch.nan, **options))
    lightness, ab = (part.cpu() for part in color_triton.photo_to_lab(rgb.to(DEVICE), flip.to(DEVICE)))
    ours = torch.cat((lightness * 100, ab * 128), dim=1).permute(0, 2, 3, 1).double().numpy()
    pixels = rgb.permute(0, 2, 3, 1).numpy()
    pixels = np.where(flip.numpy()[:, None, None, None], pixels[:, :, ::-1], pixels)
    np.testing.assert_allclose(ours, rgb2lab(pixels), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_kernel_compiles_for_gpus_without_spilling():
    pointers = {"rgb": "*u8", "flip": "*u8", "linear": "*fp32", "lightness": "*fp32", "ab": "*fp32"}
    numbers = dict.fromkeys(("height", "width", "photo_stride", "plane_stride", "row_stride"), "i32")
    constants = {"col_stride": 1, "ROWS": 4, "COLS": 256}
    kernel = "tests.benchmarks.kernels.color_triton:photo_to_lab_kernel"
    aligned = (*pointers, *numbers)
    jobs = [Job(kernel, pointers | numbers, constants, capability=gpu, aligned=aligned) for gpu in (80, 90)]
    for result in cross_compile(jobs):
        assert result.stack == 0
        assert result.registers <= 64, "more would halve the programs that run at once"
        assert "st.global.v4.b32" in result.ptx, "Lab is written in wide stores"
