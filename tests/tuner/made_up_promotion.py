"""A sweep that never ran, over trainings of seconds."""

from pathlib import Path
from typing import Any

from evaluator.registry.mlflow_registry import default_tracking_uri
from tests.trainer.small_training import small_config
from trainer.config import override
from trainer.run_folder import as_json
from tuner.plan import SWEEPS
from tuner.records import Measure, Report, Sweep, Trial, write_trials


def made_up_sweep(work: Path, **settings: Any) -> Path:
    """Its folder: two finished trials, the second one of which is the best, and a failed one."""
    base = override(small_config(work, **settings), {"run.name": ""})
    folder = work / SWEEPS / "made-up"
    folder.mkdir(parents=True)
    Sweep(
        name="made-up",
        started="2026-11-26T12:00:00+00:00",
        commit="abc",
        machine={"cpu": "one"},
        versions={"python": "3.11"},
        seed=3,
        search="random",
        scheduler="none",
        budget="3",
        metrics=(Measure("ab_psnr", "max", "ab PSNR, dB"),),
        space=({"path": "recipe.loss.entropy", "kind": "log_uniform", "low": 1e-3, "high": 0.1},),
        base=as_json(base),
        tracking_uri=default_tracking_uri(work),
    ).write(folder)
    write_trials(folder, [trial(0, 20.0, 0.01), trial(1, 21.0, 0.02), trial(2, None, 0.03)])
    return folder


def trial(number: int, psnr: float | None, entropy: float) -> Trial:
    """With one report where there is a value."""
    return Trial(
        id=f"t{number}",
        number=number,
        status="failed" if psnr is None else "finished",
        values={"recipe.loss.entropy": entropy},
        reports=() if psnr is None else (Report(100, "ping 1", 1.0, {"ab_psnr": psnr}),),
    )
