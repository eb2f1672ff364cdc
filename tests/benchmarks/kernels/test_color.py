import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kernels.color import photo_to_lab, rgb_to_lab
from tests.benchmarks.kernels import color
from tests.benchmarks.kernels.color import GOAL_CASE, Arguments, check, main, make_goal, mirrored

CPU = torch.device("cpu")


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


def quantiles_of(p50: float) -> dict[str, float]:
    return {"p20": p50, "p50": p50, "p80": p50}


def test_exact_paths_pass():
    check({"eager": eager, "fused": fused}, CPU)


@pytest.mark.parametrize("path", [not_mirrored, one_pixel_forgotten, slightly_off])
def test_nothing_is_timed_when_a_path_is_wrong(path: color.ToLab):
    with pytest.raises(SystemExit, match=r"ours is .* CIE units off"):
        check({"eager": eager, "ours": path}, CPU)


def test_the_kernel_is_held_against_the_better_compiled_path():
    found = {"eager": 9.0, "compiled color": 3.0, "flip, compiled fused": 2.0, "triton": 1.0, "copy": 0.5}
    cases = {GOAL_CASE: {name: quantiles_of(p50) for name, p50 in found.items()}}
    assert make_goal(cases).measured == 2.0
    assert make_goal(cases).met


def test_without_a_gpu_the_goal_is_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(color, "make_paths", lambda device: {"eager": eager, "compiled": fused})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    main(Arguments(photos=(2,), size=(16, 24), repeats=1, json=tmp_path / "color.json"))
    written = json.loads((tmp_path / "color.json").read_text())
    assert [row["path"] for row in written["rows"]] == ["eager", "compiled", "copy", "triton: needs a GPU"] * 2
    assert written["rows"][0]["MB moved"] == pytest.approx(2 * 16 * 16 * 15 / 1e6)
    assert written["goals"][0]["measured"] is None
    assert written["goals"][0]["met"] is None
