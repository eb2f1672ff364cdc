"""Who becomes champion after a sweep: with benchmarks that are made up, and once with everything real."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluator.registry import mlflow_registry
from evaluator.registry.contract import Variant
from evaluator.system.interrupts import StopRequest
from tests.evaluator.made_up_run import made_up_rows, write_run
from tests.trainer.small_training import own, small_config
from tests.tuner.made_up_promotion import made_up_sweep
from trainer import export
from trainer.monitoring.mlflow_tracker import Place, Tracker
from trainer.networks import ColorNet, EditNet
from tuner.__main__ import main
from tuner.promote import Contest, Retraining, promote

pytestmark = pytest.mark.training

COLORIZER, GUIDE = "colornet", "editnet-blind"
METRICS = ["ab_psnr", "ab_ssim", "rgb_psnr"]


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


class MadeUp(Contest):
    """Its benchmarks are made up: `gains[name]` is what version 2 has over version 1 there."""

    gains: dict[str, float]
    described: dict[str, dict[str, Any]]
    measured: list[tuple[str, str]]

    def _measure(self, colorizer: tuple[str, str], guides: Mapping[str, str]) -> Path:
        return self._made_up(colorizer[1], guides[GUIDE])

    def _made_up(self, colorizer: str, guide: str) -> Path:
        self.measured.append((colorizer, guide))
        rows = made_up_rows(seed=10 * int(colorizer) + int(guide))
        rows[METRICS] += self.gains[COLORIZER] * (colorizer == "2")
        clicked = (rows["policy"] == "guide-blind") & (rows["clicks"] > 0)
        rows.loc[clicked, METRICS] += self.gains[GUIDE] * (guide == "2")
        guides = {"guide-blind": self.described[f"{GUIDE}/{guide}"]}
        about = self.described[f"{COLORIZER}/{colorizer}"]
        return write_run(self.out / f"{colorizer}-{guide}", rows, colorizer=about, guides=guides)


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """A registry with two versions of each network, of which the first are champions, and what they are."""
    work = tmp_path_factory.mktemp("registered")
    described: dict[str, dict[str, Any]] = {}
    variants: dict[str, Variant | None] = {COLORIZER: None, GUIDE: "blind"}
    uri = f"sqlite:///{work}/mlflow.db"
    with Tracker(Place(work=work, folder=work / "run", tracking_uri=uri)) as tracker:
        for number in (1, 2):
            torch.manual_seed(number)
            for name, variant in variants.items():
                network = EditNet(variant, (4, 6)) if variant else ColorNet((4, 6))
                contract = export.describe(network, name, variant=variant, temperature=0.5 if variant else None)
                folder = export.save(export.export(network, contract), work / f"{name}-{number}")
                version = str(tracker.register(folder))
                described[f"{name}/{version}"] = {
                    "source": f"models:/{name}/{version}",
                    "name": name,
                    "version": version,
                    "sha256": mlflow_registry.load(folder).fingerprint,
                }
    return work / "mlflow.db", described


@pytest.fixture
def contest(registered: tuple[Path, dict[str, dict[str, Any]]], tmp_path: Path) -> MadeUp:
    """With a copy of the registry; the networks' files stay where they are."""
    database, described = registered
    shutil.copy(database, tmp_path)
    made = MadeUp(
        config=small_config(tmp_path),
        versions={COLORIZER: "2", GUIDE: "2"},
        photos=tmp_path,
        limit=None,
        metric="ab_psnr",
        out=tmp_path / "out",
    )
    object.__setattr__(made, "described", described)
    object.__setattr__(made, "measured", [])
    return made


def champions(work: Path) -> tuple[str | None, ...]:
    return tuple(
        mlflow_registry.champion(mlflow_registry.default_tracking_uri(work), name) for name in (COLORIZER, GUIDE)
    )


@pytest.mark.parametrize(
    ("colorizer", "guide", "code", "after", "guides_colorizer"),
    [
        (-0.5, 0.5, 3, ("1", "2"), "1"),
        (0.5, -0.5, 3, ("2", "1"), "2"),
        pytest.param(0.5, 0.5, 0, ("2", "2"), "2", marks=pytest.mark.slow),
        pytest.param(-0.5, -0.5, 3, ("1", "1"), "1", marks=pytest.mark.slow),
    ],
)
def test_each_network_is_judged_alone_and_the_guide_with_the_champion_colorizer(
    contest: MadeUp, colorizer: float, guide: float, code: int, after: tuple[str, str], guides_colorizer: str
):
    object.__setattr__(contest, "gains", {COLORIZER: colorizer, GUIDE: guide})
    assert contest.decide() == code
    assert champions(contest.work) == after
    assert contest.measured == [("2", "2"), ("1", "1"), (guides_colorizer, "2"), (guides_colorizer, "1")]


def test_without_champions_the_new_networks_are_the_first(contest: MadeUp):
    client = mlflow_registry.connect(mlflow_registry.default_tracking_uri(contest.work))
    for name in (COLORIZER, GUIDE):
        client.delete_registered_model_alias(name, mlflow_registry.CHAMPION)
    object.__setattr__(contest, "gains", {COLORIZER: -0.5, GUIDE: -0.5})
    assert contest.decide() == 0
    assert champions(contest.work) == ("2", "2")


def test_networks_that_are_champions_already_are_not_measured(contest: MadeUp, capsys: pytest.CaptureFixture[str]):
    contest.versions.update({COLORIZER: "1", GUIDE: "1"})
    assert contest.decide() == 0
    assert contest.measured == []
    assert "models:/colornet@champion is version 1" in capsys.readouterr().out


def test_what_is_trained_is_the_best_trials_settings_in_full(tmp_path: Path):
    folder = made_up_sweep(tmp_path, seed=5)
    config = Retraining.of(folder, None).config
    assert (own(config).loss.entropy, config.seed, config.run.publish) == (0.02, 5, True)
    assert config.run.name == "made-up-best-t1-seed-5"
    assert Retraining.of(folder, 7).config.run.name == "made-up-best-t1-seed-7"


def test_what_a_person_got_wrong_is_said_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refused(*words: str) -> str:
        assert main(["promote", *words]) == 2
        return capsys.readouterr().err

    folder = made_up_sweep(tmp_path)
    assert "no sweep" in refused(str(tmp_path))
    assert "did you mean ab_psnr" in refused(str(folder), "--metric", "ab_psnrr")
    assert "nowhere" in refused(str(folder), "--photos", str(tmp_path / "nowhere"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "set MLFLOW_TRACKING_URI=sqlite:///" in refused(str(folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (folder / "trials.json").unlink()
    assert "no best one to train" in refused(str(folder))
    assert not list(tmp_path.glob("made-up-best*"))


@pytest.mark.slow
def test_the_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Stopped and resumed; the first champions; challengers, which the benchmarks decide about; and once more."""
    folder = made_up_sweep(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "__enter__", lambda self: setattr(self, "signal_name", "SIGTERM") or self)
        patch.setattr(StopRequest, "__exit__", lambda self, *_: None)
        assert main(["promote", str(folder)]) == 130
    assert main(["promote", str(folder)]) == 0
    assert "resumed run" in capsys.readouterr().out
    assert champions(tmp_path) == ("1", "1")

    code = main(["promote", str(folder), "--seed", "1"])
    after = champions(tmp_path)
    assert code == (0 if after == ("2", "2") else 3)
    (photos,) = (folder / "promotion").glob("photos-*")
    benchmarks = {path: (path / "results.json").stat().st_mtime_ns for path in photos.iterdir()}
    capsys.readouterr()
    assert promote(folder, seed=1) == code
    assert {path: (path / "results.json").stat().st_mtime_ns for path in photos.iterdir()} == benchmarks
    assert champions(tmp_path) == after
    run = json.loads((tmp_path / "made-up-best-t1-seed-1" / "results.json").read_text())
    assert run["registered"] == {COLORIZER: 2, GUIDE: 2, "editnet-oracle": 2}
