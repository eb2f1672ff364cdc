"""Every kernel becomes machine code for GPUs that are not here, with wide loads and without spilling."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from kernels.choose_click import triton_backward, triton_common, triton_forward
from kernels.choose_click.tiling import LARGEST_BLOCK, SMALLEST_BLOCK, cut, power_of_two
from tests.kernels.cross_compile import Compiled, Job, cross_compile

pytestmark = pytest.mark.interpreter

INTEGERS = {"keys": "*i64", "choices": "*i64", "candidates": "*i32"}
FLOATS = (
    *("logits", "clicks", "truth", "target", "placed", "statistics", "partials", "grad", "grad_statistics"),
    *("candidate", "out", "colors", "weights"),
)
KINDS = range(4)
FLAGS = {"HAS_GRAD": True, "HAS_GRAD_STATISTICS": True, "HAS_TARGET": True}
SAMPLES = {triton_backward.GUMBEL_RAO: 8}


def job(kernel: Any, capability: int, warps: int, half: bool = False, **constants: Any) -> Job:
    """Contiguous float32 tensors, sizes that are multiples of 16; `half`: logits and gradient in bfloat16."""
    names: list[str] = kernel.arg_names
    constants = {**{name: 1 for name in names if name.endswith("_p")}, **constants}
    types = {**INTEGERS, **dict.fromkeys(FLOATS, "*fp32"), "temperature": "fp32", "tau": "fp32"}
    if half:
        types |= dict.fromkeys(("logits", "out"), "*bf16")
    aligned = [name for name in names if name in INTEGERS or name in FLOATS or name[-2:] in ("_b", "_c")]
    return Job(
        kernel=f"{kernel.fn.__module__}:{kernel.fn.__name__}",
        signature={name: types.get(name, "i32") for name in names},
        constants=constants,
        capability=capability,
        aligned=tuple(
            name for name in (*aligned, "height", "width", "pixels") if name in names and name not in constants
        ),
        warps=warps,
        fuse=False,
    )


def place_patches(hint_size: int) -> dict[str, Any]:
    return {"HINT_SIZE": hint_size, "PATCH_SIDE": power_of_two(hint_size)}


def forward_jobs(capability: int, block: int, hint_size: int) -> Iterator[Job]:
    """The forward pass over split photos, of every estimator."""
    warps, size = cut(block * 4, block).warps, place_patches(hint_size)
    for sampled, soft in ((False, False), (True, False), (True, True)):
        constants = {"SAMPLED": sampled, "SOFT": soft, "HAS_TARGET": True, "SINGLE": False, "BLOCK": block}
        yield job(triton_forward.reduce_kernel, capability, warps, **constants, **size)
    yield job(triton_forward.weights_kernel, capability, warps, BLOCK=block)
    yield job(triton_forward.spread_kernel, capability, warps, HINT_SIZE=hint_size, BLOCK=block)


def backward_jobs(capability: int, block: int, hint_size: int, kinds: Iterable[int] = KINDS) -> Iterator[Job]:
    """The backward pass over split photos."""
    warps = cut(block * 4, block).warps * (1 if hint_size == 1 else 2)
    for kind in kinds:
        shared: dict[str, Any] = {
            "KIND": kind,
            "SAMPLES": SAMPLES.get(kind, 1),
            "HINT_SIZE": hint_size,
            "BLOCK": block,
        }
        yield job(triton_backward.sums_kernel, capability, warps, **shared)
        yield job(triton_backward.gradient_kernel, capability, warps, **shared, **FLAGS, SINGLE=False, TILES=16)


def single_jobs(hint_size: int, block: int = LARGEST_BLOCK, kinds: Iterable[int] = KINDS) -> Iterator[Job]:
    """Both passes over photos of one tile."""
    constants = {"SAMPLED": True, "SOFT": False, "HAS_TARGET": True, "SINGLE": True, "BLOCK": block}
    yield job(triton_forward.reduce_kernel, 90, 8, **constants, **place_patches(hint_size))
    warps = 8 if hint_size == 1 else 16
    for kind in kinds:
        shared: dict[str, Any] = {
            "KIND": kind,
            "SAMPLES": SAMPLES.get(kind, 1),
            "HINT_SIZE": hint_size,
            "BLOCK": block,
        }
        yield job(triton_backward.gradient_kernel, 90, warps, **shared, **FLAGS, SINGLE=True, TILES=4)


def wide(compiled: Compiled, instruction: str) -> int:
    """Loads or stores of global memory of 16 bytes for each thread."""
    return len(re.findall(rf"\b{instruction}\.global\S*\.v4\.", compiled.ptx))


@pytest.mark.parametrize(("capability", "kinds"), [pytest.param(80, [3], marks=pytest.mark.slow), (90, KINDS)])
def test_hint_size_1_moves_16_bytes_at_a_time_and_spills_nothing(capability: int, kinds: Iterable[int]):
    jobs = [*forward_jobs(capability, LARGEST_BLOCK, 1), *backward_jobs(capability, LARGEST_BLOCK, 1, kinds)]
    for done, compiled in zip(jobs, cross_compile(jobs), strict=True):
        assert compiled.stack == 0, done
        assert wide(compiled, "ld") >= 4, done
        # All but the first pass of the soft estimator write a map.
        assert wide(compiled, "st") >= 4 or done.constants.get("SOFT"), done


@pytest.mark.slow
def test_larger_hint_sizes_spill_four_registers_at_most():
    """16 warps leave each thread 128 registers, and older versions of Triton need a few more."""
    jobs = [*forward_jobs(90, LARGEST_BLOCK, 5), *backward_jobs(90, LARGEST_BLOCK, 5, [0, 3])]
    jobs += single_jobs(5, kinds=[1])
    for done, compiled in zip(jobs, cross_compile(jobs), strict=True):
        assert compiled.stack <= 16, done


@pytest.mark.slow
def test_small_tiles_spill_nothing():
    jobs = [*forward_jobs(80, SMALLEST_BLOCK, 1), *backward_jobs(80, SMALLEST_BLOCK, 1, [1])]
    for done, compiled in zip(jobs, cross_compile(jobs), strict=True):
        assert compiled.stack == 0, done


@pytest.mark.slow
def test_photos_of_one_tile_spill_nothing():
    jobs = list(single_jobs(1, kinds=[0, 2, 3]))
    for done, compiled in zip(jobs, cross_compile(jobs), strict=True):
        assert compiled.stack == 0, done


def test_combining_many_tiles_and_the_noise_alone():
    jobs = [
        job(triton_forward.combine_kernel, 90, 4, SOFT=soft, TILES=tiles, **place_patches(hint_size))
        for soft, tiles, hint_size in ((False, 1024, 31), (True, 16, 1))
    ]
    jobs.append(job(triton_common.gumbel_kernel, 90, 4, BLOCK=1024))
    assert all(compiled.stack == 0 for compiled in cross_compile(jobs))


@pytest.mark.slow
def test_what_a_launch_specialises_compiles_too():
    """A launch makes constants of integers that are 1: sizes, strides, stream, draw; and half precision logits."""
    one_pixel = dict.fromkeys(("height", "width", "tiles", "stream", "draw", "clicks_c", "truth_c"), 1)
    kernels = (triton_forward.reduce_kernel, triton_backward.gradient_kernel)
    jobs = []
    for single in single_jobs(2, block=4, kinds=[0, 3]):
        kernel = kernels[single.kernel.endswith("gradient_kernel")]
        ones: dict[str, Any] = {name: 1 for name in one_pixel if name in kernel.arg_names}
        constants = {name: value for name, value in single.constants.items() if name[-2:] != "_p"}
        jobs.append(job(kernel, 90, 1, half=True, **{**constants, **ones}))
    cross_compile(jobs)
