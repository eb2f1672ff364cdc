"""The recorder's own troubles: early deaths, an MLflow that does not answer, trials that Ray forgot."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Trial as RayTrial

from tests.tuner.test_plan import new
from tuner import recorder as recorder_module
from tuner.alone import alone
from tuner.record import Trial, read_trials, write_trials
from tuner.recorder import Recorder
from tuner.search import POINT


def ray_trial(name: str, status: str = RayTrial.RUNNING) -> Any:
    return SimpleNamespace(trial_id=name, config={POINT: {}}, error_file=None, status=status)


def recorder(folder: Path) -> Recorder:
    made = Recorder(folder)
    made.setup()
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return new(tmp_path, name="a").folder


def test_a_process_that_dies_before_its_trial_started_is_recorded(folder: Path):
    watching = recorder(folder)
    watching.on_trial_recover(0, [], ray_trial("early"))
    watching.on_trial_error(0, [], ray_trial("early"))
    (entry,) = read_trials(folder)
    assert (entry.status, entry.error) == ("failed", "its process died")


def test_an_mlflow_that_fails_at_a_trials_end_ends_no_sweep(folder: Path, monkeypatch, capsys):
    def unreachable(uri: str) -> None:
        raise ConnectionError("no answer")

    monkeypatch.setattr(recorder_module, "new_client", unreachable)
    watching = recorder(folder)
    watching.on_trial_start(0, [], ray_trial("one"))
    watching._trials["one"] = replace(watching._trials["one"], run="abc")
    watching.on_trial_complete(0, [], ray_trial("one"))
    assert read_trials(folder)[0].status == "finished"
    assert "run stays open in MLflow (no answer)" in capsys.readouterr().out


def test_a_trial_that_ray_has_forgotten_keeps_no_sweep_open(folder: Path):
    write_trials(
        folder, [Trial(id=name, number=number, status="running", values={}) for number, name in enumerate("ab")]
    )
    watching = recorder(folder)
    watching.on_experiment_end([ray_trial("b", RayTrial.ERROR)])
    assert [(trial.id, trial.status) for trial in read_trials(folder)] == [("b", "failed")]


def test_a_trial_that_goes_on_after_an_error_shows_it_no_more(folder: Path):
    watching = recorder(folder)
    watching.on_trial_error(0, [], ray_trial("one"))
    watching.on_trial_start(0, [], ray_trial("one"))
    assert read_trials(folder)[0].error is None


def test_a_sweep_has_one_driver(folder: Path):
    with (
        alone(folder, ""),
        pytest.raises(ValueError, match="running elsewhere"),
        alone(folder, "running elsewhere"),
    ):
        pass
