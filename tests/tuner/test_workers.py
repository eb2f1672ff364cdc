"""What the end of a trial or of one of its workers means: tried again, or recorded as the trial's own failure."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError

from trainer.config.presets import tiny
from tuner import sweep
from tuner.processes import WorkerDied, worker_error
from tuner.records import ERROR, POINT
from tuner.search.space import Domain, Space
from tuner.trial import Setup, worker_resources

DEAD = WorkerHealthCheckFailedError("A worker health check failed.", RuntimeError("The actor died"))
SPACE = Space((Domain(path="recipe.loss.entropy", kind="choice", values=(0.0, 1.0)),), tiny())


def own(error: Exception) -> UserExceptionWithTraceback:
    return UserExceptionWithTraceback(error, f"Traceback\n  line\n{type(error).__name__}: {error}")


@pytest.mark.parametrize(
    ("failures", "kind", "message"),
    [
        ({0: own(RuntimeError("connection closed by peer")), 1: DEAD}, WorkerDied, "worker 1: The actor died"),
        ({1: own(RuntimeError("peer")), 0: own(ValueError("bad"))}, RuntimeError, "worker 0: ValueError: bad"),
        ({0: own(ConnectionError("no answer")), 1: own(RuntimeError("peer"))}, ConnectionError, "no answer"),
    ],
)
def test_a_dead_worker_is_told_from_one_that_failed(failures: dict, kind: type, message: str):
    found = worker_error(WorkerGroupError("all", failures))
    assert type(found) is kind
    assert message in str(found)


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """`attempt` without Ray."""
    told: list[dict[str, Any]] = []
    context = SimpleNamespace(get_trial_id=lambda: "t1")
    monkeypatch.setattr(sweep, "tune", SimpleNamespace(get_context=lambda: context, report=told.append))
    monkeypatch.setattr(sweep, "end_with_parent", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    return told


def attempt(folder: Path, error: Exception | None = None, **changes: Any) -> None:
    (folder / "errors").mkdir(exist_ok=True)
    options: dict[str, Any] = {"base": tiny(), "sweep_folder": folder, "parent_run": "", "tracking_uri": ""}
    setup = Setup(**{**options, "metrics": ("ab_psnr",), **changes})

    def objective(values: dict[str, Any], setup: Setup) -> None:
        if error:
            raise error

    sweep.attempt({POINT: {"recipe.loss.entropy": 1.0}}, objective=objective, setup=setup, space=SPACE)


@pytest.mark.parametrize("error", [ConnectionError("MLflow does not answer"), TimeoutError("t"), WorkerDied("w")])
def test_what_may_be_over_soon_is_raised_so_that_ray_tries_again(error: Exception, tmp_path: Path, reports: list):
    with pytest.raises(type(error)):
        attempt(tmp_path, error)
    assert not reports
    assert str(error) in (tmp_path / "errors" / "t1.txt").read_text()


def test_a_trials_own_error_is_its_last_report(tmp_path: Path, reports: list):
    attempt(tmp_path, ValueError("no\nnor tomorrow"))
    assert reports == [{"ab_psnr": None, "images_seen": 0, ERROR: "no"}]


def test_a_trial_without_gpus_sees_none_and_one_with_gpus_its_own(tmp_path: Path, reports: list):
    attempt(tmp_path, gpus=0.5)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    attempt(tmp_path)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not reports


def test_several_workers_are_given_the_gpus_that_were_asked_for(tmp_path: Path):
    setup = Setup(base=tiny(), sweep_folder=tmp_path, parent_run="", tracking_uri="", metrics=(), threads=2)
    assert set(worker_resources(setup)) == {"CPU"}
    assert worker_resources(Setup(**{**vars(setup), "gpus": 1.0}))["GPU"] == 1
