"""Photos/s of one, two and more processes, what communication costs, and the model of it on paper.

    python -m tests.benchmarks scaling [--preset tiny] [--processes 1 2] [--photos 8] [--repeats 5] [--json FILE]
    python -m tests.benchmarks scaling --model [--costs FILE] [--document docs/scaling.md --measured FILE]

Jobs of every size are started at once, by `accelerate launch` as in `launch/`, and take turns step by step: A B A
B. Weak scaling: the same photos per process. Strong scaling: the same photos over all processes. The gradients'
share of a step is the difference to steps in which DDP reduces nothing; the share of all collectives, which
includes waiting for the slower process, comes from the profiler. `docs/scaling.md` has the model that this is
compared with.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
import tyro

from tests.benchmarks.harness import Goal, Refused, at_most, interleave, quantiles, report
from tests.benchmarks.trainer.scaling_job import RunningJob, started
from tests.benchmarks.trainer.scaling_model import Fabric, Link, Sharing, show_model, step_time
from tests.benchmarks.trainer.step_costs import PhaseCost, count_stages
from trainer.config import override
from trainer.config.presets import PRESETS

ERROR_GOAL = 0.25
SMALL = 16
"""Bytes of the all-reduce whose time is taken for latency."""


SHOWN = {
    "phase": "stage",
    "processes": "n",
    "p50 ms": "ms",
    "weak photos/s": "weak /s",
    "weak efficiency": "eff.",
    "strong photos/s": "strong /s",
    "strong efficiency": "eff. ",
    "no-sync ms": "no-sync ms",
    "communication share": "gradients",
    "collectives share": "collectives",
    "collectives per step": "calls",
    "predicted ms": "model",
    "predicted from no-sync ms": "from no-sync",
    "MB/s": "MB/s",
    "latency, µs": "latency, µs",
}
"""Columns as they are printed; the JSON has longer names, and quantiles."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure how training scales with processes, or print what a model says about many GPUs."""

    preset: Literal["tiny", "small", "paper"] = "tiny"
    """Networks and photo size that are measured."""
    processes: tuple[int, ...] = (1, 2)
    """Sizes of the jobs that take turns; 1 must be among them, the others are compared with it."""
    photos: int = 8
    """Photos per process (weak scaling); times the largest job: photos over all processes (strong scaling)."""
    threads: int = 1
    """CPU threads per process."""
    repeats: int = 5
    """Timed steps of each kind."""
    json: Path | None = None
    """Also write the report to this file."""
    model: bool = False
    """Measure nothing: count the paper preset's operations and print predictions for 8, 64 and 256 GPUs."""
    costs: Path | None = None
    """With --model: a file of counts. Where it exists they are read from it, else it is written."""
    document: Path | None = None
    """With --model: write the tables between this document's markers."""
    measured: Path | None = None
    """With --document: a report that --json has written, shown beside the prediction."""

    def __post_init__(self) -> None:
        sizes = self.processes
        if 1 not in sizes or len(set(sizes)) < len(sizes) or min(sizes) < 1:
            raise ValueError(f"--processes is {sizes}; give different sizes with 1 among them, such as 1 2")
        if self.photos < 2 or self.repeats < 1 or self.threads < 1:
            raise ValueError(
                f"--photos {self.photos} --repeats {self.repeats} --threads {self.threads}: give at least 2 1 1"
            )
        uneven = [size for size in sizes if self.all_photos % size]
        if uneven:
            raise ValueError(f"{self.all_photos} photos do not divide over {uneven[0]} processes; change --photos")
        cards = torch.cuda.device_count()
        if cards and max(sizes) > cards and not self.model:
            raise ValueError(f"--processes is {sizes}, but there are {cards} GPUs; ask for at most {cards}")
        if not self.model and (self.costs or self.document):
            raise ValueError("--costs and --document are for --model; give it too")
        if self.model and self.json:
            raise ValueError("--json is for a measurement; --model prints, and writes into --document")
        if self.measured and not self.document:
            raise ValueError("--measured is for --document; say which document it goes to")

    @property
    def all_photos(self) -> int:
        """Photos of a step in strong scaling, over all processes."""
        return self.photos * max(self.processes)


def check(jobs: Mapping[int, RunningJob]) -> None:
    """Refuse to time steps that do not train, or whose gradients are not shared as they should be.

    Raises:
        Refused: it says what is wrong.
    """
    problems = {
        "trained": "a step does not change the weights",
        "alike": "weights differ between processes after steps that share gradients",
        "apart": "weights are alike after a step that should share nothing",
        "sound": "a step was skipped because its loss was not finite",
    }
    for processes, job in jobs.items():
        for name, held in job.ask("check").items():
            if not held:
                raise Refused(f"{processes} processes: {problems[name]}; nothing is timed")


@dataclass(frozen=True)
class Kind:
    """One kind of step that is timed."""

    processes: int
    photos: int
    """Per process."""
    silent: bool = False
    """Gradients are not shared."""


def kinds(arguments: Arguments) -> list[Kind]:
    """Weak and strong scaling of each job, and steps without the gradients' all-reduce; each once."""
    found: dict[Kind, None] = {}
    for processes in arguments.processes:
        found[Kind(processes, arguments.photos)] = None
        found[Kind(processes, arguments.all_photos // processes)] = None
        if processes > 1:
            found[Kind(processes, arguments.photos, silent=True)] = None
    return list(found)


def measure(jobs: Mapping[int, RunningJob], stage: int, arguments: Arguments) -> dict[Kind, dict[str, float]]:
    """Quantiles of the seconds of every kind of step of a stage."""

    def path(kind: Kind) -> Callable[[], float]:
        ask = jobs[kind.processes].ask
        return lambda: ask("step", stage=stage, photos=kind.photos, silent=kind.silent)

    wanted = {str(kind): kind for kind in kinds(arguments)}
    measured = interleave({name: path(kind) for name, kind in wanted.items()}, arguments.repeats)
    return {wanted[name]: quantiles(values) for name, values in measured.items()}


def link_of(job: RunningJob, size: int, repeats: int) -> Link:
    """The ring that explains an all-reduce of a few bytes and one of `size` bytes, medians."""
    small, large = (median(job.ask("reduce", size=bytes_) for _ in range(repeats)) for bytes_ in (SMALL, size))
    hops = 2 * (job.processes - 1)
    return Link(bandwidth=hops / job.processes * size / max(large - small, 1e-9), latency=small / hops)


def predict(costs: Sequence[PhaseCost], compute: float, processes: int, link: Link, *, overlap: bool) -> float:
    """Seconds of a stage's step: its compute, and for each update what the model says is not hidden."""
    fabric = Fabric(name="here", node=processes, inside=link, between=link)
    flops = sum(cost.flops for cost in costs)
    return sum(
        step_time(cost, compute * cost.flops / flops, processes, fabric, Sharing(overlap=overlap)).seconds
        for cost in costs
    )


def row(
    stage: str,
    job: RunningJob,
    seconds: Mapping[Kind, Mapping[str, float]],
    arguments: Arguments,
    predicted: Callable[[float], float],
    collectives: Mapping[str, float] | None,
) -> dict[str, object]:
    """What one job did in one stage, beside one process."""
    processes, photos, everything = job.processes, arguments.photos, arguments.all_photos
    weak = seconds[Kind(processes, photos)]
    strong = seconds[Kind(processes, everything // processes)]["p50"]
    alone, alone_strong = (seconds[Kind(1, number)]["p50"] for number in (photos, everything))
    found: dict[str, object] = {
        "phase": stage,
        "processes": processes,
        **{f"{quantile} ms": value * 1e3 for quantile, value in weak.items()},
        "weak photos/s": processes * photos / weak["p50"],
        "weak efficiency": alone / weak["p50"],
        "strong photos/s": everything / strong,
        "strong efficiency": alone_strong / strong / processes,
    }
    if collectives is None:
        return found
    silent = seconds[Kind(processes, photos, silent=True)]["p50"]
    return found | {
        "no-sync ms": silent * 1e3,
        "communication share": 1 - silent / weak["p50"],
        "collectives share": collectives["busy"] / collectives["seconds"],
        "collectives per step": collectives["calls"],
        "predicted ms": predicted(alone) * 1e3,
        "predicted from no-sync ms": predicted(silent) * 1e3,
    }


def run(arguments: Arguments) -> None:
    """Start the jobs, check them, let them take turns, and report."""
    config = override(PRESETS[arguments.preset](), {"recipe.loss.perceptual": "off"})
    rows: list[dict[str, object]] = []
    most = arguments.all_photos // min(arguments.processes)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        jobs = {
            processes: stack.enter_context(
                started(processes, arguments.preset, most, arguments.threads, Path(folder))
            )
            for processes in arguments.processes
        }
        about = jobs[1].ask("describe")
        check(jobs)
        costs = count_stages(config, perceptual=False, fake=arguments.preset == "paper")
        largest = max(cost.gradient_bytes for phases in costs.values() for cost in phases)
        several = {processes: job for processes, job in jobs.items() if processes > 1}
        links = {processes: link_of(job, largest, arguments.repeats) for processes, job in several.items()}
        for index, stage in enumerate(about["stages"]):
            seconds = measure(jobs, index, arguments)
            for processes, job in jobs.items():
                predicted = partial(
                    predict,
                    costs[stage],
                    processes=processes,
                    link=links.get(processes, Link(bandwidth=1.0, latency=0.0)),
                    # On a CPU the cores that would go on computing are those that reduce.
                    overlap=about["device"] == "cuda",
                )
                asked = {"stage": index, "photos": arguments.photos}
                shares = job.ask("collectives", **asked) if processes > 1 else None
                rows.append(row(stage, job, seconds, arguments, predicted, shares))
    for processes, link in links.items():
        rows.append(
            {
                "phase": "all-reduce alone",
                "processes": processes,
                "MB/s": link.bandwidth / 1e6,
                "latency, µs": link.latency * 1e6,
            }
        )
    report(
        f"scaling, preset {arguments.preset}: {arguments.photos} photos of {about['image_size']} px per process "
        f"(weak) or {arguments.all_photos} over all (strong), {about['device']}, {about['precision']}, "
        f"{about['threads']} thread(s) per process",
        rows,
        goals(rows),
        arguments.json,
        [{SHOWN[key]: value for key, value in found.items() if key in SHOWN} for found in rows],
    )


def goals(rows: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """How far the model is from the measurement, where there is more than one process."""

    def worst(name: str) -> float | None:
        found = [abs(row[name] / row["p50 ms"] - 1) for row in rows if name in row]
        return max(found) if found else None

    return [
        at_most("model: largest error, from one process alone", ERROR_GOAL, worst("predicted ms")),
        at_most(
            "model: largest error, from steps without all-reduce", ERROR_GOAL, worst("predicted from no-sync ms")
        ),
    ]


def main(args: Sequence[str]) -> int:
    """Measure, or print what the model says."""
    arguments = tyro.cli(Arguments, prog="python -m tests.benchmarks scaling", args=args)
    if arguments.model:
        show_model(arguments.costs, arguments.document, arguments.measured)
    else:
        run(arguments)
    return 0
