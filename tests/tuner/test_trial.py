"""A trial as a training: its config, where it begins and goes on, what it reports, how it ends. Without Ray."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.small_training import small_config
from trainer.checkpoint import Checkpoints
from trainer.config import flatten
from trainer.config.presets import tiny
from trainer.loop import Training
from trainer.monitoring.tracker import NullTracker
from trainer.run_folder import start_run
from trainer.session import Hooks
from trainer.step import TrainingBroke
from tuner.objectives import measures_of
from tuner.trial import TRIALS, Leg, Setup, _train, next_leg, trial_config

STEP = 8 / 4096
MEASURES = measures_of(tiny())


class Ended(NullTracker):
    """Remembers how runs ended."""

    ends: list[str]
    logged: list[Mapping[str, float]]

    def __init__(self, place: Any, run_id: str | None = None, resumed_at_step: int = 0) -> None:
        super().__init__()
        self.place, self.run_id = place, run_id or f"run of {place.name}"

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.logged.append(metrics)

    def finish(self, status: str = "FINISHED") -> None:
        self.ends.append(status)


@pytest.fixture(autouse=True)
def tracking(monkeypatch: pytest.MonkeyPatch) -> type[Ended]:
    monkeypatch.setattr(Ended, "ends", [], raising=False)
    monkeypatch.setattr(Ended, "logged", [], raising=False)
    monkeypatch.setattr("trainer.session.open_tracker", Ended)
    monkeypatch.setattr("trainer.session.conclude", lambda *_: None)
    return Ended


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    rounds = {f"recipe__rounds__{name}": STEP for name in ("pretrain_color", "pretrain_edit", "ping")} | {
        "recipe__rounds__pong": 0.0
    }
    return Setup(
        base=small_config(tmp_path, run__checkpoint_every=1000, recipe__clicks__interactions=1, **rounds),
        sweep_folder=tmp_path / "sweeps" / "one",
        parent_run="parent",
        tracking_uri="nowhere",
        metrics=("ab_psnr",),
    )


class Reports(list[dict[str, Any]]):
    """Gets reports; may end the training at one, as Ray does."""

    def __init__(self, end_at: str = "") -> None:
        self.end_at = end_at

    def __call__(self, numbers: dict[str, Any], checkpoints: Path) -> None:
        assert Checkpoints(checkpoints, keep=1).list(), "a report has a checkpoint"
        self.append(numbers)
        if numbers["stage"] == self.end_at:
            raise SystemExit(0)


def first_leg(setup: Setup, values: dict[str, Any] | None = None, trial: str = "t1") -> Leg:
    hooks = Hooks(quiet=True, parent_run=setup.parent_run)
    return Leg(config=trial_config(values or {}, setup, trial), trial=trial, hooks=hooks)


def test_a_trial_s_config_is_the_base_with_its_values_in_the_sweep_s_folder(setup: Setup):
    values = {"recipe.loss.entropy": 0, "recipe.choice.hint_size": [1, 2]}
    found, base = flatten(trial_config(values, replace(setup, threads=3), "t1")), flatten(setup.base)
    assert {name: value for name, value in found.items() if base[name] != value} == {
        "recipe.loss.entropy": 0.0, "recipe.choice.hint_size": (1, 2), "engine.threads": 3, "run.name": "t1",
        "run.work": str(setup.sweep_folder / TRIALS),
    }  # fmt: skip
    assert found["run.publish"] is False


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"recipe.choice.estimator": "reinforce", "recipe.choice.samples": 1}, "reinforce needs at least 2"),
        ({"recipe.loss.entropi": 1}, "did you mean recipe.loss.entropy"),
        ({"data.image_size": 18}, "multiple of 4"),
    ],
)
def test_values_that_do_not_go_together_are_one_message(setup: Setup, values: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        trial_config(values, setup, "t1")


def test_a_trial_reports_after_each_stage_with_a_guide_and_tells_mlflow(
    setup: Setup, tracking: type[Ended], tmp_path: Path
):
    leg = next_leg(first_leg(setup), None, {}, tmp_path / "pretrained")
    reports = Reports()
    _train(leg, reports)
    assert [(report["stage"], report["images_seen"]) for report in reports] == [
        ("pretrain-edit", 16), ("ping-1", 24)
    ]  # fmt: skip
    last = reports[-1]
    assert set(last) == {*MEASURES, "images_seen", "stage", "seconds", "run", "folder"}
    assert (last["run"], last["folder"]) == ("run of t1", str(setup.sweep_folder / TRIALS / "t1"))
    assert last["ab_psnr"] > 0
    assert [found["ab_psnr"] for found in tracking.logged if "ab_psnr" in found] == [r["ab_psnr"] for r in reports]
    assert tracking.ends[0] == "FINISHED"
    assert list((tmp_path / "pretrained").glob("*/state.pt"))


def test_a_trial_that_is_stopped_at_a_report_ends_its_run(setup: Setup, tracking: type[Ended]):
    with pytest.raises(SystemExit):
        _train(next_leg(first_leg(setup), None, {}, None), Reports(end_at="pretrain-edit"))
    assert tracking.ends[-1] == "KILLED"


def test_a_trial_that_diverges_ends_with_its_message(
    setup: Setup, tracking: type[Ended], monkeypatch: pytest.MonkeyPatch
):
    def broken(self: Training, *_: Any) -> Any:
        raise TrainingBroke("l1 was not finite in 5 steps in a row")

    monkeypatch.setattr(Training, "step", broken)
    with pytest.raises(TrainingBroke, match="not finite in 5 steps"):
        _train(next_leg(first_leg(setup), None, {}, None), Reports())
    assert tracking.ends[0] == "FAILED"


@pytest.mark.training
def test_an_interrupted_trial_goes_on_in_its_folder_and_run_to_the_same_end(setup: Setup):
    whole, before, after = Reports(), Reports(end_at="pretrain-edit"), Reports()
    _train(next_leg(first_leg(setup, trial="whole"), None, {}, None), whole)
    with pytest.raises(SystemExit):
        _train(next_leg(first_leg(setup), None, {}, None), before)
    leg = next_leg(first_leg(setup), None, {"trial": "t1", "seconds": 100.0, "reported": 16}, None)
    assert leg.resume
    assert leg.hooks.run_id == "run of t1"
    _train(leg, after)
    numbers = [{name: report[name] for name in (*MEASURES, "images_seen")} for report in whole]
    assert [{name: report[name] for name in numbers[0]} for report in (*before, *after)] == numbers
    assert {report["run"] for report in after} == {"run of t1"}
    assert after[0]["seconds"] > 100


@pytest.mark.training
def test_a_trial_that_had_ended_unnoticed_reports_its_end_again(setup: Setup, tracking: type[Ended]):
    first, again = Reports(), Reports()
    _train(next_leg(first_leg(setup), None, {}, None), first)
    (setup.sweep_folder / TRIALS / "t1" / "results.json").write_text(json.dumps({}))
    _train(next_leg(first_leg(setup), None, {}, None), again)
    assert [report["stage"] for report in again] == ["ping-1"]
    assert again[0]["ab_psnr"] == first[-1]["ab_psnr"]


@pytest.mark.training
def test_a_report_lost_between_checkpoint_and_report_is_made_up_for(setup: Setup):
    whole, before, after = Reports(), Reports(end_at="pretrain-edit"), Reports()
    _train(next_leg(first_leg(setup, trial="whole"), None, {}, None), whole)
    with pytest.raises(SystemExit):
        _train(next_leg(first_leg(setup), None, {}, None), before)
    leg = next_leg(first_leg(setup), None, {"trial": "t1", "reported": 8}, None)
    _train(leg, after)
    numbers = [{name: report[name] for name in (*MEASURES, "images_seen", "stage")} for report in whole]
    assert [{name: report[name] for name in numbers[0]} for report in after] == numbers


@pytest.mark.training
def test_another_trial_s_weights_begin_a_new_folder_in_the_same_run(setup: Setup, tmp_path: Path):
    better, own, after = Reports(), Reports(end_at="pretrain-edit"), Reports()
    with pytest.raises(SystemExit):
        _train(next_leg(first_leg(setup, trial="better"), None, {}, None), Reports(end_at="pretrain-edit"))
    with pytest.raises(SystemExit):
        _train(next_leg(first_leg(setup), None, {}, None), own)
    latest = Checkpoints(setup.sweep_folder / TRIALS / "better" / "checkpoints", keep=2).list()[-1]
    taken = Path(shutil.copytree(latest, tmp_path / "kept by Ray"))
    _train(next_leg(first_leg(setup, trial="better"), None, {}, None), better)
    leg = next_leg(first_leg(setup, {"recipe.loss.entropy": 0.01}), taken, {"trial": "better"}, None)
    assert (leg.resume, leg.config.run.name, leg.hooks.start) == (False, "t1-2", taken)
    _train(leg, after)
    assert [report["stage"] for report in after] == ["ping-1"]
    assert after[0]["run"] == "run of t1"
    assert after[0]["folder"].endswith("t1-2")
    assert after[0]["seconds"] > own[0]["seconds"] > 0
    assert after[0]["ab_psnr"] == better[-1]["ab_psnr"], "the same weights under the same settings"


def test_a_trial_that_died_before_its_first_checkpoint_begins_again(setup: Setup, tmp_path: Path):
    start_run(trial_config({}, setup, "t1"))
    (setup.sweep_folder / TRIALS / "t1.json").write_text(json.dumps({"run": "its run", "seconds": 7.0}))
    leg = next_leg(first_leg(setup), None, {}, tmp_path / "pretrained")
    assert (leg.resume, leg.config.run.name, leg.hooks.run_id) == (False, "t1", "its run")
    assert leg.seconds == 7
    assert leg.hooks.pretrained == tmp_path / "pretrained"
    assert not (setup.sweep_folder / TRIALS / "t1").exists()


def test_a_trial_moves_to_a_machine_without_its_folder(setup: Setup, tmp_path: Path):
    leg = next_leg(first_leg(setup), tmp_path, {"trial": "t1", "seconds": 9.0}, tmp_path / "pretrained")
    assert (leg.resume, leg.config.run.name, leg.hooks.start, leg.seconds) == (False, "t1", tmp_path, 9.0)
    assert leg.hooks.pretrained is None
