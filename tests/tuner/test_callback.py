"""The recorder's own troubles: early deaths, an MLflow that does not answer, trials that Ray forgot."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Trial as RayTrial

from evaluator.system.locks import alone
from tests.tuner.test_plan import new
from tuner import callback as recorder_module
from tuner.callback import Recorder, Spending, is_hopeless
from tuner.plan import Plan
from tuner.records import LEGS, POINT, Leg, Report, Trial, read_trials, write_trials
from tuner.report.console import conclusion


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


def test_the_run_of_a_trial_that_never_reported_is_ended_too(folder: Path, monkeypatch):
    ended: list[tuple[str, str]] = []
    client = SimpleNamespace(set_terminated=lambda run, status: ended.append((run, status)))
    monkeypatch.setattr(recorder_module, "new_client", lambda uri: client)
    (folder / "trials").mkdir()
    (folder / "trials" / "one.json").write_text('{"run": "its run", "seconds": 1.0}')
    watching = recorder(folder)
    watching.on_trial_start(0, [], ray_trial("one"))
    watching.on_trial_error(0, [], ray_trial("one"))
    assert ended == [("its run", "FAILED")]
    assert read_trials(folder)[0].run == "its run"


def failed(number: int, error: str = "no shards") -> Trial:
    return Trial(id=f"t{number}", number=number, status="failed", values={}, error=error)


def test_a_sweep_whose_trials_all_fail_gives_up(folder: Path):
    stopper = Spending(folder)
    write_trials(folder, [failed(number) for number in range(4)])
    assert not stopper.stop_all()
    write_trials(folder, [*map(failed, range(4)), failed(4, "other")])
    os.utime(folder / "trials.json", ns=(0, 1))
    assert stopper.stop_all()
    watching = recorder(folder)
    watching._put(Trial(id="t5", number=5, status="running", values={}))
    watching.on_experiment_end([ray_trial(f"t{number}") for number in range(6)])
    trials = read_trials(folder)
    assert trials[5].status == "stopped", "or the sweep would wait to be resumed"
    words = conclusion(watching._plan.sweep, trials, folder)
    assert "5 of 6 trials failed, 4 of them with: no shards" in words


def test_one_trial_that_measured_something_is_hope(folder: Path):
    report = Report(1100, "ping-1", 1.0, {"ab_psnr": 20.0})
    trials = [*map(failed, range(9)), Trial("t9", 9, "running", {}, (report,))]
    plan = Plan.read(folder)
    assert not is_hopeless(plan, trials)
    assert is_hopeless(plan, trials[:9])
    never = replace(plan, options=replace(plan.options, give_up=0))
    assert not is_hopeless(never, trials[:9])


def test_the_error_of_a_trial_that_ray_gave_up_is_what_its_traceback_ends_with(folder: Path, tmp_path: Path):
    file = tmp_path / "error.txt"
    file.write_text(
        "Failure # 1 (occurred at 2026)\nThe actor died\nFailure # 2 (occurred at 2026)\n"
        'ray::train()\n  File "x.py", line 1\n    raise it\nConnectionError: MLflow does not answer\nreally\n'
    )
    watching, trial = recorder(folder), ray_trial("one")
    trial.error_file = str(file)
    watching.on_trial_error(0, [], trial)
    assert read_trials(folder)[0].error == "ConnectionError: MLflow does not answer"


def test_legs_of_a_trial_are_recorded_with_what_had_an_effect(folder: Path):
    watching, trial = recorder(folder), ray_trial("one")
    values = {"recipe.choice.temperature.shape": "constant", "recipe.choice.temperature.end": 0.5}
    trial.config |= {POINT: values, LEGS: [{"images_seen": 0, "values": values, "trial": "two"}]}
    watching.on_trial_start(0, [], trial)
    (entry,) = read_trials(folder)
    assert entry.legs == (Leg(0, {"recipe.choice.temperature.shape": "constant"}, "two"),)


def test_a_trial_that_ray_has_forgotten_keeps_no_sweep_open(folder: Path, monkeypatch: pytest.MonkeyPatch):
    write_trials(
        folder, [Trial(id=name, number=number, status="running", values={}) for number, name in enumerate("ab")]
    )
    (folder / "trials").mkdir()
    (folder / "trials" / "a.json").write_text('{"run": "of a", "seconds": 1.0}')
    ended = []
    client = SimpleNamespace(set_terminated=lambda run, status: ended.append((run, status)))
    monkeypatch.setattr(recorder_module, "new_client", lambda uri: client)
    watching = recorder(folder)
    watching.on_experiment_end([ray_trial("b", RayTrial.ERROR)])
    assert [(trial.id, trial.status) for trial in read_trials(folder)] == [("b", "failed")]
    assert ended == [("of a", "KILLED")]
    later = recorder(folder)
    later.on_trial_start(0, [], ray_trial("c"))
    assert [trial.number for trial in read_trials(folder)] == [1, 2], "no number is given twice"


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
