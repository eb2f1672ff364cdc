"""What the fused operation's kernels become on GPUs that this machine does not have, as a Markdown table.

    python -m tests.kernels.choose_click.compiled docs/results/kernels.md

writes it between the lines `<!-- begin compiled -->` and `<!-- end compiled -->`.
Float32 in contiguous memory, sizes that are multiples of 16, tiles of 4096 pixels, as large batches are launched.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from kernels.choose_click.tiling import LARGEST_BLOCK, Plan
from tests.benchmarks.harness import markdown, put
from tests.kernels.cross_compile import Compiled, Job, cross_compile

FORWARD, BACKWARD = "kernels.choose_click.triton_forward:", "kernels.choose_click.triton_backward:"
POINTERS = {
    "keys": "*i64",
    "choices": "*i64",
    "candidates": "*i32",
    **dict.fromkeys(
        ("logits", "clicks", "truth", "target", "placed", "statistics", "partials", "grad", "grad_statistics"),
        "*fp32",
    ),
    **dict.fromkeys(("candidate", "out", "colors", "weights"), "*fp32"),
}
WHOLE = ("stream", "draw", "height", "width", "tiles", "pixels")
STRIDES = tuple(
    f"{name}_{axis}" for name in ("logits", "clicks", "truth", "target", "grad", "colors") for axis in "bc"
)
SIGNATURE = POINTERS | {"temperature": "fp32", "tau": "fp32"} | dict.fromkeys((*WHOLE, *STRIDES), "i32")
PIXEL_STRIDES = {f"{name}_p": 1 for name in ("logits", "clicks", "truth", "target", "grad", "colors")}
KINDS = ("argmax_ste", "gumbel_softmax", "reinmax", "gumbel_rao")


class Case(NamedTuple):
    """One kernel as it is launched for something."""

    name: str
    kernel: str
    constants: Mapping[str, Any]
    warps: int


def cases(hint_size: int = 1, block: int = LARGEST_BLOCK) -> Iterator[Case]:
    """The kernels of a forward and a backward pass, photos of 16 tiles, as `cuda` launches them."""
    warps = Plan(block, 16).warps
    sides = {"HINT_SIZE": hint_size, "PATCH_SIDE": max(4, 1 << (hint_size - 1).bit_length())}
    tile = {"BLOCK": block, "SINGLE": False, "HAS_TARGET": False}
    for name, sampled in (("argmax_ste", False), ("sampled", True)):
        constants = {"SAMPLED": sampled, "SOFT": False, **tile, **sides}
        yield Case(f"reduce, {name}", FORWARD + "reduce_kernel", constants, warps)
    yield Case("combine", FORWARD + "combine_kernel", {"SOFT": False, "TILES": 16, **sides}, 4)
    warps = warps if hint_size == 1 else min(16, 2 * warps)
    for kind, name in enumerate(KINDS):
        shared = {"KIND": kind, "SAMPLES": 1, "HINT_SIZE": hint_size}
        yield Case(f"sums, {name}", BACKWARD + "sums_kernel", shared | {"BLOCK": block}, warps)
        flags = {"HAS_GRAD": True, "HAS_GRAD_STATISTICS": True, "TILES": 16}
        yield Case(f"gradient, {name}", BACKWARD + "gradient_kernel", shared | tile | flags, warps)


def job(case: Case, capability: int) -> Job:
    """One case for one GPU."""
    module, function = case.kernel.split(":")
    names = getattr(import_module(module), function).arg_names
    constants = {**{key: value for key, value in PIXEL_STRIDES.items() if key in names}, **case.constants}
    aligned = tuple(key for key in names if key in (*POINTERS, *STRIDES, "height", "width"))
    return Job(case.kernel, SIGNATURE, constants, capability, aligned, case.warps, fuse=False)


def table() -> str:
    """A line for each kernel: two values are those of sm_80 (A100) and sm_90 (H100, H200)."""
    # The forward kernels do the same for every hint size.
    wanted = [(1, case) for case in cases(1)]
    wanted += [(5, case) for case in cases(5) if case.kernel.startswith(BACKWARD)]
    older, newer = (cross_compile([job(case, gpu) for _, case in wanted]) for gpu in (80, 90))
    lines = [
        {"kernel": case.name, "hint size": str(size)}
        | {name: f"{getattr(first, name)} / {getattr(second, name)}" for name in ("registers", "stack", "shared")}
        | {"wide loads": wide(second, "ld"), "wide stores": wide(second, "st")}
        for (size, case), first, second in zip(wanted, older, newer, strict=True)
    ]
    return markdown(list(lines[0]), [list(line.values()) for line in lines])


def wide(found: Compiled, instruction: str) -> str:
    """How many of the loads or stores of global memory move 16 bytes for each thread."""
    accesses = re.findall(rf"\b{instruction}\.global[\w.:]*", found.ptx)
    return f"{sum('.v4.b32' in access for access in accesses)} of {len(accesses)}"


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(put(document.read_text(), "compiled", table()))
