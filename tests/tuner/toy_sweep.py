"""A sweep of toy trials as a program, to be killed: `python -m tests.tuner.toy_sweep WORK new|resume`."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import ray
from ray import tune

from tests.tuner.toy import climb
from tuner.config import Options
from tuner.plan import Plan
from tuner.records import Trial
from tuner.sweep import run
from tuner.trial import Setup

NAME = "toy"


def options(work: Path, **changes: Any) -> Options:
    """Of a small sweep in this work folder."""
    return Options(**{"preset": "smoke", "work": work, "name": NAME, "budget": "12", "seed": 3, **changes})


def sometimes_wrong(values: dict[str, Any], setup: Setup) -> None:
    """Like `climb`, but one of the estimators fails."""
    if values.get("recipe.choice.estimator") == "gumbel_softmax_soft":
        raise ValueError(f"no {values['recipe.choice.estimator']} today\nnor tomorrow")
    climb(values, setup)


def mortal(values: dict[str, Any], setup: Setup) -> None:
    """Like `climb`, but the process is killed once in each trial, as by a node that is lost."""
    died = setup.sweep_folder / f"died-{tune.get_context().get_trial_id()}"
    if not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    climb(values, setup)


def noted(values: dict[str, Any], setup: Setup) -> None:
    """Like `climb`; leaves a line for each start."""
    with (setup.sweep_folder / "starts.txt").open("a") as file:
        file.write(f"{tune.get_context().get_trial_id()}\n")
    climb(values, setup)


def main(work: Path, how: str) -> list[Trial]:
    """Run it or go on with it."""
    plan = Plan.new(options(work, parallel=1)) if how == "new" else Plan.resumed(Options(work=work, name=NAME))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    return run(plan, objective=noted)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
