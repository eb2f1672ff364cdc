"""Trials per hour of a sweep beside the same trials one after another, and what an empty trial costs.

    python -m tests.benchmarks sweep [--trials 8] [--json FILE]

The sweep shares a pretraining, runs trials side by side and stops those that fall behind. The main command trains
each of the same settings to the end, with all cores. A trial that both have finished must have the same metric,
and the sweep must not have stopped the best one: else nothing is reported.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import tyro
from ray import tune

from evaluator.system.environment import usable_cores
from tests import ROOT
from tests.benchmarks.harness import Goal, Refused, at_least, at_most, report
from trainer.config import Config, override
from trainer.config.overrides import checked
from trainer.run_folder import RESULTS_FILE, as_json
from trainer.validation import middle_budget
from tuner.config import Options
from tuner.plan import Plan
from tuner.records import Trial, best, read_trials
from tuner.sweep import Objective, run
from tuner.trial import Setup, run_trial

FASTER, LARGEST_OVERHEAD = 1.5, 2.0
TOLERANCE = 0.3
"""dB between both ways' ab PSNR of a trial: the number of threads changes the order of sums, and four stages of
training make 0.13 dB of that (docs/LOG.md). Another seed moves it about as much."""
LAUNCH = (
    *(sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", str(ROOT / "trainer" / "main.py")),
)
_GUIDE = "editnet-blind"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Compare trials per hour of a sweep with the main command, one trial after another."""

    trials: int = 8
    """Trials of the preset `smoke`."""
    cheap: int = 20
    """Trials that do nothing, to see what Ray and the sweep's records cost for each. What a real trial does before
    its first step (reading photos, building networks, MLflow) is in its own time."""
    seed: int = 0
    """Of the search."""
    set: tuple[str, ...] = ()
    """Settings of the base training, such as recipe.rounds.cycles=4."""
    json: Path | None = None
    """Also write the report to this file."""


@dataclass(frozen=True)
class Way:
    """One way to run the trials."""

    seconds: float
    """From the first command to the last result."""
    values: Mapping[int, float]
    """ab PSNR at the middle budget of the trials that came to their end, by number."""


def compare(sweep: Way, alone: Way, trials: int) -> tuple[list[dict[str, object]], list[Goal]]:
    """Rows and goals.

    Raises:
        Refused: a trial's metric differs between the ways, the sweep missed the best one, or finished none.
    """
    for number, value in sweep.values.items():
        if abs(value - alone.values[number]) > TOLERANCE:
            other = alone.values[number]
            raise Refused(f"trial {number} has {value:.3f} dB in the sweep and {other:.3f} dB alone: not reported")
    if not sweep.values:
        raise Refused("no trial of the sweep came to its end, so there is nothing to compare: give more --trials")
    found, there = max(sweep.values.values()), max(alone.values.values())
    if found < there - TOLERANCE:
        raise Refused(f"the sweep's best has {found:.3f} dB, and one that it stopped {there:.3f} dB: not reported")
    rows = [
        {
            "way": name,
            "trials": trials,
            "trained to the end": len(way.values),
            "seconds": way.seconds,
            "trials/hour": 3600 * trials / way.seconds,
            "best ab PSNR, dB": max(way.values.values()),
        }
        for name, way in (("sweep", sweep), ("main command, one after another", alone))
    ]
    return rows, [at_least("trials/hour, sweep / one after another", FASTER, alone.seconds / sweep.seconds)]


def overhead(fewer: float, more: float, extra_trials: int) -> Goal:
    """Seconds that one more empty trial adds, from two sweeps of trials that do nothing."""
    extra = max(0.0, more - fewer) / extra_trials
    return at_most("overhead of an empty trial, s (at most)", LARGEST_OVERHEAD, extra)


def value_of(folder: Path, config: Config) -> float:
    """The main command's ab PSNR at the middle budget, from a finished run's folder."""
    curve = json.loads((folder / RESULTS_FILE).read_text())["curve"]
    name = {"policy": _GUIDE, "metric": "ab_psnr", "clicks": middle_budget(config.validation.clicks)}
    return [one["value"] for one in curve if name.items() <= one.items()][-1]


def nothing(values: dict[str, Any], setup: Setup) -> None:
    """A trial without a training."""
    rest = {"images_seen": 1, "stage": "none", "seconds": 0.0, "run": "", "folder": ""}
    tune.report({**dict.fromkeys(setup.metrics, 0.0), **rest})


def run_sweep(arguments: Arguments, work: Path, objective: Objective, trials: int, name: str) -> tuple[Plan, Way]:
    """A sweep of so many trials, side by side, from its plan to its report."""
    started = time.perf_counter()
    options = Options(
        preset="smoke",
        work=work,
        name=name,
        budget=f"{trials}",
        seed=arguments.seed,
        set=(arguments.set,),
        metric=(("ab_psnr",),),
    )
    plan = Plan.new(options)
    done = run(plan, objective=objective)
    broken = [trial for trial in done if trial.status == "failed"]
    if broken or best(done, plan.sweep.metric) is None:
        raise Refused(f"{len(broken)} trials failed: {broken[0].error if broken else 'none measured anything'}")
    values = {trial.number: trial.value("ab_psnr") for trial in done if trial.status == "finished"}
    known = {number: value for number, value in values.items() if value is not None}
    return plan, Way(time.perf_counter() - started, known)


def cheap(arguments: Arguments, work: Path, trials: int) -> float:
    """Seconds of a sweep of so many trials that do nothing."""
    return run_sweep(arguments, work, nothing, trials, f"{trials}-trials")[1].seconds


def run_alone(plan: Plan, trials: Sequence[Trial], work: Path) -> Way:
    """The same settings by the main command, one after another, each to its end."""
    started = time.perf_counter()
    values: dict[int, float] = {}
    for trial in trials:
        name = f"alone-{trial.number}"
        config = override(plan.base, {**checked(trial.values, plan.base), "run.work": str(work), "run.name": name})
        file = work / f"{name}.json"
        work.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(as_json(config)))
        done = subprocess.run([*LAUNCH, "--config", str(file)], capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            raise Refused(f"the main command failed on trial {trial.number}: {done.stderr.strip()[-500:]}")
        values[trial.number] = value_of(work / name, config)
    return Way(time.perf_counter() - started, values)


def main(args: Sequence[str]) -> int:
    """Run everything, check, print."""
    arguments = tyro.cli(Arguments, prog="python -m tests.benchmarks sweep", args=args)
    with tempfile.TemporaryDirectory(prefix="bench-tuner-") as folder:
        work = Path(folder)
        try:
            plan, sweep = run_sweep(arguments, work / "sweep", run_trial, arguments.trials, "measured")
            alone = run_alone(plan, read_trials(plan.folder), work / "alone")
            rows, goals = compare(sweep, alone, arguments.trials)
            ray.init(num_cpus=usable_cores(), include_dashboard=False, log_to_driver=False)
            # the first one starts Ray's processes
            _, few, many = (cheap(arguments, work / "cheap", trials) for trials in (2, 3, 3 + arguments.cheap))
        finally:
            ray.shutdown()
    goals.append(overhead(few, many, arguments.cheap))
    report("tuner: trials per hour", rows, goals, arguments.json)
    return 0
