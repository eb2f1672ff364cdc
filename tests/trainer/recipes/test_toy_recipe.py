"""A system that the house has never seen trains, resumes, is published and tuned by its own two files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evaluator.registry.mlflow_registry import load_colorizer
from evaluator.system.interrupts import StopRequest
from tests.trainer.recipes.toy_recipe import Toy, toy
from tests.trainer.small_training import Recorder, build
from trainer import main as trainer_main
from trainer.config import Config, flatten, override
from trainer.config.overrides import config_of
from trainer.config.presets import PRESETS
from trainer.monitoring.tracker import NullTracker
from trainer.recipes import RECIPES
from trainer.recipes.base import Optimizer, Phase, Published, Recipe, Stage
from trainer.run_folder import as_json
from trainer.session import Hooks
from tuner.objectives import measures_of
from tuner.plan import Course
from tuner.search.space import Domain, Space
from tuner.trial import Leg, Setup, _train, trial_config


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, Toy.name, Toy)
    monkeypatch.setitem(PRESETS, "toy", toy)


def config(folder: Path, **settings: Any) -> Config:
    return override(toy(), {"run.work": str(folder), "run.name": "run", **settings})


def weights(training: Any) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, engine in training.engines.items()
        for key, value in engine.module.state_dict().items()
    }


def assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_it_resumes_bit_by_bit_and_validates_inside_a_stage(tmp_path: Path):
    whole = build(config(tmp_path / "whole"), tmp_path / "whole")
    assert whole.run(StopRequest())
    assert sorted({point["images_seen"] for point in whole.progress.curve}) == [8, 24, 48]

    class Stopping(StopRequest):
        """Asked after so many questions."""

        def __init__(self, after: int) -> None:
            self.left = after

        @property
        def signal_name(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
            self.left -= 1
            return "SIGTERM" if self.left < 0 else None

    half = build(config(tmp_path / "half"), tmp_path / "half")
    assert not half.run(Stopping(6))
    assert 0 < half.progress.images_seen < 48
    rest = build(config(tmp_path / "half"), tmp_path / "half")
    assert rest.progress.images_seen == half.progress.images_seen
    assert rest.run(StopRequest())
    assert_same(weights(whole), weights(rest))
    assert rest.progress.curve == whole.progress.curve


def test_a_phase_takes_one_in_so_many_batches_and_the_rate_falls_over_the_span(tmp_path: Path):
    training = build(config(tmp_path), tmp_path)
    assert training.run(StopRequest())
    assert isinstance(training.metrics, Recorder)
    logged = [(step, values) for step, values in training.metrics.logged if "tint/lr" in values]
    assert [step for step, values in logged if "judge/judged" in values] == [8, 24, 32, 48]
    rates = [values["tint/lr"] for _, values in logged]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-2, 1e-2, 1e-2 * 2 / 3, 1e-2 / 3])


@pytest.mark.training
def test_the_command_trains_and_publishes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["toy", "--run.work", str(tmp_path), "--run.name", "run", "--recipe.strength", "0.2"]
    assert trainer_main.main([*words, "--run.no-system-metrics"]) == 0
    assert "Registered tinter version 1" in capsys.readouterr().out
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["recipe.strength"] == 0.2
    colorizer = load_colorizer(tmp_path / "run" / "networks" / "tinter")
    assert not colorizer.contract.follows_clicks
    lightness = torch.rand(1, 1, 20, 12, generator=torch.Generator().manual_seed(0))
    clicks = torch.zeros(1, 3, 20, 12)
    with torch.no_grad():
        before = colorizer(lightness, clicks)
        clicks[:, 0, 5, 5] = 1.0
        assert torch.equal(before, colorizer(lightness, clicks))


def test_the_tuner_searches_its_settings_and_reports_its_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """All of a trial but Ray, whose workers know only the recipes that are installed."""
    monkeypatch.setattr("trainer.session.open_tracker", lambda *_, **__: NullTracker())
    monkeypatch.setattr("trainer.session.conclude", lambda *_: None)
    base = config(tmp_path)
    space = Space((Domain(path="recipe.strength", kind="choice", values=(0.1, 0.3)),), base)
    assert [point["recipe.strength"] for point in space.grid()] == [0.1, 0.3]
    with pytest.raises(ValueError, match=r"did you mean recipe\.strength"):
        Space((Domain(path="recipe.stren", kind="choice", values=(0.1,)),), base)
    assert Course.of(base, share_pretraining=True).ends == (24, 48)
    assert measures_of(base)["ab_psnr"].label.endswith("guide random")
    assert config_of(as_json(base)) == base
    setup = Setup(
        base=base, sweep_folder=tmp_path / "sweep", parent_run="", tracking_uri="nowhere", metrics=("ab_psnr",)
    )
    reports: list[dict[str, Any]] = []
    leg = Leg(config=trial_config({"recipe.strength": 0.3}, setup, "t1"), trial="t1", hooks=Hooks(quiet=True))
    _train(leg, lambda numbers, folder: reports.append(numbers))
    assert [(report["stage"], report["images_seen"]) for report in reports] == [("first", 24), ("second", 48)]
    assert reports[-1]["ab_psnr"] > 0
    assert reports[-1]["dispersion"] is None


def test_its_settings_are_checked_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "config.json"
    file.write_text('{"preset": "toy", "recipe.stren": 0.2}')
    assert trainer_main.main(["--config", str(file)]) == 2
    assert "did you mean recipe.strength?" in capsys.readouterr().err
    assert "recipe.loss.entropy" not in flatten(toy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip": 1.0}, "phases one and two step a with"),
        ({"betas": (0.5, 0.9)}, "phases one and two step a with"),
    ],
)
def test_phases_that_step_a_network_in_different_ways_are_refused(change: dict[str, Any], message: str):
    def phase(name: str, optimizer: Optimizer) -> Phase:
        return Phase(name=name, trains=("a",), loss=lambda step: {}, optimizer=optimizer)

    other = Optimizer(**{"lr": 0.5, "clip": 2.0, **change})
    phases = (phase("one", Optimizer(lr=1.0, clip=2.0)), phase("two", other))
    with pytest.raises(ValueError, match=message):
        Recipe(
            name="t",
            networks={"a": lambda: torch.nn.Identity()},
            stages=[Stage(name="s", phases=phases, rounds=1.0)],
            published=(Published(name="a", kind="colorizer", network="a"),),
        )


def test_a_recipe_publishes_one_colorizer():
    with pytest.raises(ValueError, match="give one colorizer"):
        Recipe(name="t", networks={}, stages=[], published=())
