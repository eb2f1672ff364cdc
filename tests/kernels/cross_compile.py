"""Compile Triton kernels for GPUs that this machine does not have, as far as machine code.

The interpreter knows nothing of Triton's types and layouts: what it runs may still not compile. `ptxas` comes with
Triton, so all of compiling works without a GPU. It happens in a process of its own, because kernels that were
defined under TRITON_INTERPRET=1 cannot be compiled.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path

from tests import ROOT


@dataclass(frozen=True)
class Job:
    """One kernel for one GPU."""

    kernel: str
    """`package.module:function`."""
    signature: Mapping[str, str]
    """Triton type of each parameter that is no constant, such as `*fp32`, `*u8`, `i32`, `i64` or `fp32`."""
    constants: Mapping[str, int | float | bool | None]
    """Values of the constexpr parameters, and of those that a launch specialises (strides of 1, None)."""
    capability: int = 90
    """Compute capability: 80 is an A100, 90 an H100 or H200."""
    aligned: tuple[str, ...] = ()
    """Parameters that are multiples of 16, as pointers from `torch.empty` are: they allow wide loads."""
    warps: int = 4
    fuse: bool = True
    """Whether a * b + c is one instruction (Triton's `enable_fp_fusion`)."""


@dataclass(frozen=True)
class Compiled:
    """What became of it."""

    registers: int
    """For each thread."""
    stack: int
    """Bytes of memory for each thread; with 0 nothing is spilled from registers."""
    shared: int
    """Bytes of shared memory for each program."""
    ptx: str = field(repr=False)


def cross_compile(jobs: Sequence[Job]) -> list[Compiled]:
    """Compile every job.

    Raises:
        AssertionError: one does not compile; the message ends with the compiler's own.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-m", "tests.kernels.cross_compile"],
            input=json.dumps([asdict(job) for job in jobs]),
            env=environment | {"TRITON_CACHE_DIR": cache},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return [Compiled(**result) for result in json.loads(done.stdout)]


def compile_here(job: Job) -> Compiled:
    """Compile one job in this process."""
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, name = job.kernel.split(":")
    kernel = getattr(import_module(module), name)
    types = {key: "constexpr" if key in job.constants else job.signature[key] for key in kernel.arg_names}
    aligned = [key for key in job.aligned if key not in job.constants]
    hints = {(kernel.arg_names.index(key),): [["tt.divisibility", 16]] for key in aligned}
    source = ASTSource(kernel, types, constexprs=job.constants, attrs=hints)
    options = {"num_warps": job.warps, "enable_fp_fusion": job.fuse}
    built = compile_kernel(source, target=GPUTarget("cuda", job.capability, 32), options=options)
    return Compiled(*resources(built.asm["cubin"]), built.metadata.shared, built.asm["ptx"])


def resources(machine_code: bytes) -> tuple[int, int]:
    """Registers and bytes of stack for each thread."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(machine_code)
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", str(file)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", said)
    assert found is not None, said
    return int(found[1]), int(found[2])


def main() -> None:
    """Read jobs from standard input, write what became of them to standard output."""
    jobs = [Job(**job) for job in json.load(sys.stdin)]
    json.dump([asdict(compile_here(job)) for job in jobs], sys.stdout)


if __name__ == "__main__":
    main()
