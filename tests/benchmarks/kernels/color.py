"""Photos mirrored and turned to Lab: eager, compiled, and by the Triton kernel that is a candidate for GPUs.

    python -m tests.benchmarks color [--photos 16 64] [--size 256 512] [--json FILE]

All paths must agree with `kernels.color` in float64 before anything is timed. The kernel stays only if it is 1.3
times as fast as the better compiled path; a machine without a GPU times the others and leaves that goal open.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from kernels import color
from kernels.color import AB_SCALE, LIGHTNESS_SCALE, rgb_to_lab
from kernels.noise import random_words, sample_keys, uniform
from tests.benchmarks.harness import Goal, Refused, at_least, copier, interleave, quantiles, report, seconds

TOLERANCE = 1e-4
"""Largest difference from float64 in CIE units, as in the tests of `kernels.color`."""
BYTES_PER_PIXEL = 3 + 12
"""Three bytes read, three float32 written."""
GOAL, GOAL_CASE = 1.3, (64, 256)
"""Times faster than the better compiled path, for so many photos of so many pixels square."""

ToLab = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""`to_lab(rgb, flip) -> (lightness, ab)`."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Time every way to mirror photos and convert them to Lab."""

    photos: tuple[int, ...] = field(default_factory=lambda: (16, 64, 256) if torch.cuda.is_available() else (16,))
    """Photos in a batch."""
    size: tuple[int, ...] = field(default_factory=lambda: (256, 512) if torch.cuda.is_available() else (256,))
    """Height and width in pixels."""
    repeats: int = 50
    """Timed rounds."""
    json: Path | None = None
    """Also write the report to this file."""


def mirrored(rgb: UInt8[Tensor, "b 3 h w"], flip: Bool[Tensor, " b"]) -> UInt8[Tensor, "b 3 h w"]:
    """The photos, left to right where `flip` is set, as `trainer.recipes.lab_batch` does it."""
    return torch.where(flip.view(-1, 1, 1, 1), rgb.flip(-1), rgb)


def make_paths(device: torch.device) -> dict[str, ToLab]:
    """All ways to do it on this device. The trainer does the first, or the second where it compiles."""
    compiled_alone = torch.compile(color.photo_to_lab, dynamic=False)
    paths: dict[str, ToLab] = {
        "eager": lambda rgb, flip: rgb_to_lab(mirrored(rgb, flip)),
        "flip, compiled fused": lambda rgb, flip: compiled_alone(mirrored(rgb, flip)),
        "compiled fused": torch.compile(_mirror_and_fused, dynamic=False),
        "compiled color": torch.compile(_mirror_and_color, dynamic=False),
    }
    if device.type == "cuda":
        from tests.benchmarks.kernels import color_triton

        paths["triton"] = color_triton.photo_to_lab
    return paths


def _mirror_and_fused(rgb: Tensor, flip: Tensor) -> tuple[Tensor, Tensor]:
    return color.photo_to_lab(mirrored(rgb, flip))


def _mirror_and_color(rgb: Tensor, flip: Tensor) -> tuple[Tensor, Tensor]:
    return rgb_to_lab(mirrored(rgb, flip))


def check(paths: dict[str, ToLab], device: torch.device) -> None:
    """Compare all paths with float64 on every third color, as it is and mirrored.

    Raises:
        Refused: it names a path that differs and by how much.
    """
    values = torch.arange(0, 256, 3, dtype=torch.uint8, device=device)
    rgb = torch.cartesian_prod(values, values, values).T.reshape(1, 3, 86, -1).repeat(2, 1, 1, 1)
    flip = torch.tensor([False, True], device=device)
    expected = _cie(rgb_to_lab(mirrored(rgb, flip).double() / 255))
    for name, to_lab in paths.items():
        difference = (_cie(to_lab(rgb, flip)) - expected).abs().max().item()
        if not difference <= TOLERANCE:
            raise Refused(
                f"{name} is {difference:.3g} CIE units off; at most {TOLERANCE} is right, nothing is timed"
            )


def _cie(lab: tuple[Tensor, Tensor]) -> Tensor:
    lightness, ab = lab
    return torch.cat((lightness.double() * LIGHTNESS_SCALE, ab.double() * AB_SCALE), dim=1)


def measure(
    paths: dict[str, ToLab], photos: int, size: int, repeats: int, device: torch.device
) -> dict[str, dict]:
    """Quantiles of each path's seconds on noise, and of a copy that moves as many bytes."""
    keys = sample_keys(0, 0, photos, device)
    rgb = (random_words(keys, 0, 3 * size * size) & 255).to(torch.uint8).view(photos, 3, size, size)
    flip = uniform(keys, 1, 1)[:, 0] < 0.5
    runs: dict[str, Callable[[], object]] = {name: partial(to_lab, rgb, flip) for name, to_lab in paths.items()}
    runs["copy"] = copier(BYTES_PER_PIXEL * photos * size * size, device)
    timed = interleave({name: partial(seconds, run, device) for name, run in runs.items()}, repeats, warmup=3)
    return {name: quantiles(values) for name, values in timed.items()}


def make_rows(found: dict[str, dict], photos: int, size: int) -> list[dict[str, object]]:
    """One row for each path."""
    moved = BYTES_PER_PIXEL * photos * size * size
    rows: list[dict[str, object]] = [
        {
            "photos": photos,
            "px": size,
            "path": name,
            **{f"{quantile} ms": 1000 * value for quantile, value in taken.items()},
            "MB moved": moved / 1e6,
            "GB/s": moved / 1e9 / taken["p50"],
            "of a copy's": found["copy"]["p50"] / taken["p50"],
            "times eager": found["eager"]["p50"] / taken["p50"],
        }
        for name, taken in found.items()
    ]
    return rows if "triton" in found else [*rows, {"photos": photos, "px": size, "path": "triton: needs a GPU"}]


def make_goal(cases: dict[tuple[int, int], dict[str, dict]]) -> Goal:
    """The kernel beside the better compiled path; open where either was not timed."""
    found = cases.get(GOAL_CASE, {})
    photos, size = GOAL_CASE
    name = f"triton, times faster than the better compiled path, {photos} photos of {size} px on a GPU"
    if "triton" not in found:
        return at_least(name, GOAL, None)
    compiled = min(taken["p50"] for path, taken in found.items() if "compiled" in path)
    return at_least(name, GOAL, compiled / found["triton"]["p50"])


def main(args: Sequence[str]) -> int:
    """Check, time, report."""
    arguments = parse(args)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    paths = make_paths(device)
    check(paths, device)
    cases = {}
    for photos, size in product(arguments.photos, arguments.size):
        # Every shape is compiled for itself, and there is a limit to what the compiler keeps.
        torch.compiler.reset()
        cases[photos, size] = measure(paths, photos, size, arguments.repeats, device)
    rows = [row for (photos, size), found in cases.items() for row in make_rows(found, photos, size)]
    report(f"uint8 RGB, mirrored, to Lab on {device.type}", rows, [make_goal(cases)], arguments.json)
    return 0


def parse(args: Sequence[str]) -> Arguments:
    """The command line. By argparse: a machine with a GPU may have little more than torch."""
    usual = Arguments()
    parser = argparse.ArgumentParser("python -m tests.benchmarks color", description=Arguments.__doc__)
    parser.add_argument("--photos", type=int, nargs="+", default=usual.photos, help="photos in a batch")
    parser.add_argument("--size", type=int, nargs="+", default=usual.size, help="height and width in pixels")
    parser.add_argument("--repeats", type=int, default=usual.repeats, help="timed rounds")
    parser.add_argument("--json", type=Path, help="also write the report to this file")
    given = parser.parse_args(args)
    return Arguments(photos=tuple(given.photos), size=tuple(given.size), repeats=given.repeats, json=given.json)
