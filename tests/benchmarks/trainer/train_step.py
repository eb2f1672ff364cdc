"""One training step of each phase beside a plain reference of the same arithmetic: time and peak memory.

    python -m tests.benchmarks train_step [--preset small] [--repeats 10] [--json FILE]
    python -m tests.benchmarks train_step --ablate [--preset paper] [--photos 32] [--json FILE]

The second form adds what makes a step fast part by part (`tests.benchmarks.trainer.train_step_parts`). In the
first, plain is float32 in contiguous memory, with Lab computed on the CPU; ours is what the trainer does on this
machine. Both show the same batches to the same networks with the same draws. The losses must agree before
anything is timed.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from evaluator.system.interrupts import StopRequest
from tests import ROOT
from tests.benchmarks.harness import Refused, at_least, interleave, quantiles, report
from tests.benchmarks.trainer.train_step_parts import ablate
from tests.benchmarks.trainer.trainings import LOSS_TOLERANCE, NOTHING, PROGRESS, PlainTraining, build, one_of_each
from trainer.config import override
from trainer.config.presets import PRESETS
from trainer.data.batch import Batch
from trainer.engines import Cluster
from trainer.loop import Training
from trainer.recipes.base import Stage

CPU_GOAL, GPU_GOAL = 1.5, 2.5


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Time one training step of each phase, ours beside a plain reference."""

    preset: Literal["tiny", "small", "serving", "paper"] = "small"
    """Networks, photo size and batch size."""
    repeats: int = 10
    """Timed steps of each path and phase, in turn."""
    ours: Literal["auto", "fp32"] = "auto"
    """Precision of our path; fp32 tells what is won without half precision."""
    json: Path | None = None
    """Also write the report to this file."""
    ablate: bool = False
    """Add the parts of the fast path one by one, and say what each is worth."""
    photos: int = 0
    """With --ablate: photos per step; 0: the preset's."""
    memory_limit: float = 0.0
    """With --ablate: MiB beyond the weights to search the largest batch for; 0: all of the GPU's."""
    memory_of: str = ""
    """Used by the program itself: print the peak memory of one path, then end."""


def make_path(name: str, arguments: Arguments, scratch: Path) -> Training:
    """The plain training, or ours."""
    config = override(PRESETS[arguments.preset](), {"recipe.loss.perceptual": "off"})
    if name == "plain":
        config = override(config, NOTHING)
        return build(config, Cluster(config.engine), PlainTraining, scratch)
    config = override(config, {"engine.precision": arguments.ours})
    return build(config, Cluster(config.engine), Training, scratch)


def timed_step(training: Training, stage: Stage, batch: Batch) -> Callable[[], float]:
    """A function that takes one step and returns its seconds."""

    def run() -> float:
        started = time.perf_counter()
        training.step(stage, PROGRESS, batch, StopRequest())
        if training.cluster.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return run


def check(paths: dict[str, Training], batch: Batch) -> None:
    """Refuse to time paths whose losses differ.

    Raises:
        Refused: it names phase and losses.
    """
    for stages in zip(*(one_of_each(training) for training in paths.values()), strict=True):
        losses = [
            training.step(stage, PROGRESS, batch, StopRequest())[0]
            for training, stage in zip(paths.values(), stages, strict=True)
        ]
        for name, value in losses[0].items():
            other = losses[1][name]
            if "gradient" not in name and abs(value - other) > LOSS_TOLERANCE * max(abs(value), 1e-3):
                raise Refused(f"{stages[0].name}: {name} is {value} plain and {other} ours; nothing is timed")


def peak_memory(arguments: Arguments, path: str) -> float:
    """MiB that one path needs at most, measured in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks", "train_step", "--preset", arguments.preset]
    command += ["--ours", arguments.ours, "--memory-of", path]
    done = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def print_memory(arguments: Arguments, scratch: Path) -> None:
    """Take two steps of each phase and print the peak: of the GPU's memory, or of the process on a CPU."""
    training = make_path(arguments.memory_of, arguments, scratch)
    batch = next(iter(training.loader.batches(0)))
    for stage in one_of_each(training):
        for _ in range(2):
            training.step(stage, PROGRESS, batch, StopRequest())
    if training.cluster.device.type == "cuda":
        print(torch.cuda.max_memory_allocated() / 2**20)
    else:
        print(process_peak())


def process_peak() -> float:
    """The largest memory that this program had, in MiB; getrusage would count the program that started it."""
    status = Path("/proc/self/status").read_text()
    return float(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # pyright: ignore[reportOptionalSubscript]: Linux has it


def measure(paths: Mapping[str, Training], batch: Batch, repeats: int) -> tuple[list[dict[str, object]], float]:
    """Milliseconds of both paths in each phase, and how many times faster ours is in the slowest one."""
    rows: list[dict[str, object]] = []
    ratios = []
    for index, stage in enumerate(one_of_each(paths["ours"])):
        steps = {
            name: timed_step(training, one_of_each(training)[index], batch) for name, training in paths.items()
        }
        seconds = {name: quantiles(values) for name, values in interleave(steps, repeats).items()}
        ratios.append(seconds["plain"]["p50"] / seconds["ours"]["p50"])
        rows += [
            {
                "phase": stage.name,
                "path": name,
                **{f"{quantile} ms": value * 1000 for quantile, value in found.items()},
                "photos/s": len(batch.rgb) / found["p50"],
                "times faster": ratios[-1] if name == "ours" else None,
            }
            for name, found in seconds.items()
        ]
    return rows, min(ratios)


def compare(arguments: Arguments, scratch: Path) -> None:
    """Check both paths, time them in turns, and report."""
    paths = {name: make_path(name, arguments, scratch) for name in ("plain", "ours")}
    ours = paths["ours"]
    batch = next(iter(ours.loader.batches(0)))
    check(paths, batch)
    rows, slowest = measure(paths, batch, arguments.repeats)
    for name in paths:
        rows.append({"phase": "all, peak memory", "path": name, "MiB": peak_memory(arguments, name)})
    on_gpu = ours.cluster.device.type == "cuda"
    report(
        f"training step, preset {arguments.preset}: {ours.config.data.batch_size} photos of "
        f"{ours.config.data.image_size} px, {ours.cluster.precision}, {ours.cluster.threads} threads",
        rows,
        [
            at_least("slowest phase, times faster than plain on a CPU", CPU_GOAL, None if on_gpu else slowest),
            at_least("slowest phase, times faster than plain on a GPU", GPU_GOAL, slowest if on_gpu else None),
        ],
        arguments.json,
    )


def main(args: Sequence[str]) -> int:
    """Time both paths, or all parts; or, in a process of its own, see what one path needs."""
    arguments = tyro.cli(Arguments, prog="python -m tests.benchmarks train_step", args=args)
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.memory_of:
            print_memory(arguments, Path(scratch))
        elif arguments.ablate:
            config = PRESETS[arguments.preset]()
            config = override(config, {"data.batch_size": arguments.photos or config.data.batch_size})
            limit = arguments.memory_limit
            ablate(config, repeats=arguments.repeats, limit_mib=limit, json_file=arguments.json)
        else:
            compare(arguments, Path(scratch))
    return 0
