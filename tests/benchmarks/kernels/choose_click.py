"""Choosing and placing a click: the eager chain, the compiled chain and `choose_click`, side by side.

    python -m tests.benchmarks choose_click [--estimators NAME ...] [--cases 64x256 ...] [--json FILE]
    python -m tests.benchmarks choose_click --figures FILE --document docs/results/kernels.md
    python -m tests.benchmarks choose_click --traffic [--json FILE]

Nothing is timed before `tests.benchmarks.kernels.choose_click_paths.check` has passed on this device, for all
estimators. The second form writes a report that --json has kept into a document. The third one times nothing: it
counts passes over the pixels and bytes (`tests.benchmarks.kernels.choose_click_traffic`).
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.choose_click import Click, choose_click, implementation
from kernels.choose_click.reference import choose_click_chain
from kernels.estimators import ESTIMATORS, NEEDS_NOISE
from tests.benchmarks.harness import (
    Goal,
    at_least,
    at_most,
    copier,
    interleave,
    peak_memory,
    quantiles,
    report,
    seconds,
)
from tests.benchmarks.kernels.choose_click_paths import (
    PASSES,
    Inputs,
    Operation,
    backward,
    check,
    compulsory_bytes,
    forward,
    make_inputs,
)
from tests.benchmarks.kernels.choose_click_tables import pivot, write_figures
from tests.benchmarks.kernels.choose_click_traffic import report_traffic

EAGER, OTHER_NOISE, OURS, COPY = "eager", "eager, torch's noise", "ours", "copy"
COMPILED, COMPILED_OTHER_NOISE = "compiled", "compiled, torch's noise"
AS_CALLED = ", as called"
"""Of a path on a GPU whose launches count."""
GOAL_ESTIMATORS = ("argmax_ste", "gumbel_softmax")
GPU_CASES = tuple((photos, size) for size in (256, 512) for photos in (1, 16, 64, 256))
CPU_CASES = ((1, 256), (16, 256), (64, 64))
FILLINGS = 100
"""Of a GPU's cache before each run: some 7 ms in which the CPU gets ahead, as it does in training."""
GPU_GOAL, CPU_GOAL = (64, 256), (16, 256)
"""Photos and their side in pixels."""

Row = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Time choosing and placing a click, forward and backward."""

    estimators: tuple[str, ...] = GOAL_ESTIMATORS
    """Keys of `kernels.estimators.ESTIMATORS`."""
    cases: tuple[tuple[int, int], ...]
    """Photos in a batch, and their side in pixels."""
    threads: tuple[int, ...]
    """Of the CPU."""
    repeats: int
    """Timed rounds."""
    compiled: bool = True
    """Whether to compile the chain, too."""
    traffic: bool = False
    """Count passes over the pixels instead."""
    figures: Path | None = None
    """A report to take instead of measuring."""
    document: Path | None = None
    """Where to write the figures between the lines for this device."""
    json: Path | None = None
    """Also write the report to this file."""


class Case(NamedTuple):
    """What is timed together, in turns."""

    estimator: str
    photos: int
    size: int
    threads: int


class Measured(NamedTuple):
    """What a case found."""

    seconds: dict[str, dict[str, dict[str, float]]]
    """Quantiles by pass and path."""
    peaks: dict[str, int]
    """Bytes of a forward and a backward pass, by path."""
    failures: dict[str, str]
    """Why a path could not run."""


def torch_noise(keys: Tensor, stream: int, count: int, draw: int) -> Tensor:
    """Gumbel noise of torch's own generator: quicker on a GPU, but not a function of the keys."""
    return torch.empty(len(keys), count, device=keys.device).exponential_().log_().neg_()


def make_paths(case: Case, *, compiled: bool) -> dict[str, Operation]:
    """The ways to do it that are compared."""
    paths: dict[str, Operation] = {EAGER: choose_click_chain}
    if case.estimator in NEEDS_NOISE:
        paths[OTHER_NOISE] = partial(choose_click_chain, noise=torch_noise)
    if compiled:
        compiled_names = {EAGER: COMPILED, OTHER_NOISE: COMPILED_OTHER_NOISE}
        paths |= {
            compiled_names[name]: torch.compile(path, fullgraph=True, dynamic=False)
            for name, path in paths.items()
        }
    return paths | {OURS: choose_click}


def measure(case: Case, arguments: Arguments, device: torch.device) -> Measured:
    """Time every path of a case that can run."""
    torch.set_num_threads(case.threads)
    # Every shape is compiled for itself, and there is a limit to what the compiler keeps.
    torch.compiler.reset()
    inputs = make_inputs(case.photos, case.size, case.size, device)
    paths = make_paths(case, compiled=arguments.compiled)
    failures = {name: found for name, path in paths.items() if (found := failure(name, path, inputs, case))}
    paths = {name: path for name, path in paths.items() if name not in failures}
    peaks = {
        name: peak_memory(lambda path=path: both(path, inputs, case.estimator), device)
        for name, path in paths.items()
    }
    taken = {}
    for which in PASSES:
        timers = {name: partial(timed, which, path, inputs, case.estimator) for name, path in paths.items()}
        if device.type == "cuda":
            timers |= {name + AS_CALLED: partial(timer, fillings=1) for name, timer in timers.items()}
        moved = compulsory_bytes(case.estimator, which) * case.photos * case.size**2
        timers[COPY] = partial(seconds, copier(moved, device), device, FILLINGS)
        found = interleave(timers, arguments.repeats, warmup=2)
        taken[which] = {name: quantiles(values) for name, values in found.items()}
    return Measured(taken, peaks, failures)


def failure(name: str, path: Operation, inputs: Inputs, case: Case) -> str | None:
    """Run a path once, which also compiles it; why that is not possible on this machine, or None.

    Only memory and the compiler may fail; everything else is an error of ours.
    """
    try:
        both(path, inputs, case.estimator)
    except torch.OutOfMemoryError:
        return "does not fit in memory"
    except RuntimeError as error:
        if name not in (COMPILED, COMPILED_OTHER_NOISE):
            raise
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:120]}"
    return None


def both(path: Operation, inputs: Inputs, estimator: str) -> tuple[Click, Tensor]:
    """Forward and backward."""
    logits, click = start(path, inputs, estimator)
    return click, backward(click, logits, inputs, estimator)


def start(path: Operation, inputs: Inputs, estimator: str) -> tuple[Tensor, Click]:
    """The forward pass, and the logits that its gradient is asked at."""
    logits = inputs.logits.detach().requires_grad_()
    return logits, forward(path, logits, inputs, estimator)


def timed(which: str, path: Operation, inputs: Inputs, estimator: str, fillings: int = FILLINGS) -> float:
    """Seconds of one pass. Each backward pass gets a new graph, as in training, so nothing has to be retained."""
    device = inputs.logits.device
    if which == "backward":
        logits, click = start(path, inputs, estimator)
        return seconds(lambda: backward(click, logits, inputs, estimator), device, fillings)
    run: Callable[..., object] = start if which == "forward" else both
    return seconds(lambda: run(path, inputs, estimator), device, fillings)


def make_rows(case: Case, found: Measured) -> Iterator[Row]:
    """One row for each pass and path; a path that could not run says why."""
    for which in PASSES:
        megabytes = compulsory_bytes(case.estimator, which) * case.photos * case.size**2 / 1e6
        taken = found.seconds[which]
        for name, quantile in taken.items():
            if name.endswith(AS_CALLED):
                continue
            eager, called = taken.get(EAGER), taken.get(name + AS_CALLED)
            yield {
                **case._asdict(),
                "pass": which,
                "path": name,
                **{f"{key} ms": 1e3 * value for key, value in quantile.items()},
                "as called ms": 1e3 * called["p50"] if called else None,
                "times eager": eager["p50"] / quantile["p50"] if eager else None,
                "MB to move": megabytes,
                "of a copy": taken[COPY]["p50"] / quantile["p50"],
                "peak MiB": found.peaks[name] / 2**20 if which == "both" and name in found.peaks else None,
            }
    for name, reason in found.failures.items():
        yield {**case._asdict(), "pass": "both", "path": f"{name}: {reason}"}


def make_goals(measured: dict[Case, Measured], device: torch.device) -> list[Goal]:
    """The goals; open where this machine or this run does not measure them."""
    goals = []
    for estimator in GOAL_ESTIMATORS:
        gpu = _found(measured, (estimator, *GPU_GOAL)) if device.type == "cuda" else None
        cpu = _found(measured, (estimator, *CPU_GOAL)) if device.type == "cpu" else None
        where = f"{estimator}, forward and backward, 64 photos of 256 px on a GPU"
        goals += [
            at_least(f"times faster than eager: {where}", 5.0, _ratio(gpu, EAGER, OTHER_NOISE)),
            at_least(f"times faster than compiled: {where}", 1.5, _ratio(gpu, COMPILED, COMPILED_OTHER_NOISE)),
            at_least(f"share of a copy's bandwidth: {where}", 0.7, _ratio(gpu, COPY)),
            at_most(f"peak memory, at most this part of eager's: {where}", 0.25, _part_of_peak(gpu)),
            at_least(
                f"times faster than eager: {estimator}, forward and backward, 16 photos of 256 px on a CPU",
                1.5,
                _ratio(cpu, EAGER),
            ),
        ]
    return goals


def _found(measured: dict[Case, Measured], wanted: tuple[str, int, int]) -> Measured | None:
    """The case's measurement with the most threads."""
    cases = [case for case in measured if case[:3] == wanted]
    return measured[max(cases, key=lambda case: case.threads)] if cases else None


def _ratio(found: Measured | None, *paths: str) -> float | None:
    """How many times as long the fastest of these paths takes as ours, or None."""
    taken = found.seconds["both"] if found else {}
    times = [taken[path]["p50"] for path in paths if path in taken]
    return min(times) / taken[OURS]["p50"] if times and OURS in taken else None


def _part_of_peak(found: Measured | None) -> float | None:
    peaks = found.peaks if found else {}
    return peaks[OURS] / peaks[EAGER] if OURS in peaks and EAGER in peaks else None


def run(arguments: Arguments, device: torch.device) -> dict[str, object]:
    """Check, time, report."""
    check(device, choose_click)
    measured: dict[Case, Measured] = {}
    rows: list[Row] = []
    for estimator, size, threads in product(arguments.estimators, arguments.cases, arguments.threads):
        case = Case(estimator, *size, threads)
        try:
            measured[case] = measure(case, arguments, device)
        except torch.OutOfMemoryError:
            rows.append({**case._asdict(), "pass": "both", "path": "all: do not fit in memory"})
        else:
            rows.extend(make_rows(case, measured[case]))
    title = f"choose and place a click; ours is the {implementation(device.type)} path on {device.type}"
    return report(title, rows, make_goals(measured, device), arguments.json, shown=pivot(rows))


def parse(device: torch.device, args: Sequence[str]) -> Arguments:
    """The command line. By argparse: a machine with a GPU may have little more than torch."""
    on_gpu = device.type == "cuda"
    parser = argparse.ArgumentParser("python -m tests.benchmarks choose_click", description=Arguments.__doc__)
    parser.add_argument("--estimators", nargs="+", choices=list(ESTIMATORS), default=GOAL_ESTIMATORS)
    parser.add_argument(
        "--cases", nargs="+", type=_case, default=GPU_CASES if on_gpu else CPU_CASES, metavar="PHOTOSxPIXELS"
    )
    parser.add_argument("--threads", nargs="+", type=int, default=[torch.get_num_threads()], help="of the CPU")
    parser.add_argument("--repeats", type=int, default=50 if on_gpu else 15, help="timed rounds")
    parser.add_argument("--no-compiled", action="store_false", dest="compiled", help="leave out torch.compile")
    parser.add_argument("--traffic", action="store_true", help="count passes over the pixels instead")
    parser.add_argument("--figures", type=Path, help="measure nothing, take a report that --json has written")
    parser.add_argument("--document", type=Path, help="write the figures into this document")
    parser.add_argument("--json", type=Path, help="also write the report to this file")
    values = parser.parse_args(args)
    if values.repeats < 1:
        parser.error(f"--repeats is {values.repeats}; give at least 1")
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in vars(values).items()
    }
    return Arguments(**given)


def _case(text: str) -> tuple[int, int]:
    photos, _, size = text.partition("x")
    return int(photos), int(size)


def main(args: Sequence[str]) -> int:
    """Check, time and report; or count; or write what was measured into a document."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arguments = parse(device, args)
    if arguments.traffic:
        report_traffic(arguments.json)
        return 0
    content = json.loads(arguments.figures.read_text()) if arguments.figures else run(arguments, device)
    if arguments.document:
        write_figures(content, arguments.document)
    return 0
