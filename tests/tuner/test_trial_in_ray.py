"""Real trainings as trials of Ray Tune: one process or two, stopped early, one after another in one process."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluator.registry.mlflow_registry import import_mlflow
from tests import ROOT
from tests.trainer.small_training import small_config
from trainer.monitoring.mlflow_tracker import PARENT, Tracker
from trainer.monitoring.tracker import Place
from tuner.trial import WAITING, Setup, run_trial

ray = pytest.importorskip("ray")
from ray import tune  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.launch]
STEP = 8 / 4096
SWITCHES = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in SWITCHES.items():
        monkeypatch.setenv(name, value)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Tracker]:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = Tracker(Place(work=tmp_path, folder=tmp_path / "sweep", name="sweep", tracking_uri=uri))
    yield tracker
    tracker.finish()


def stop_the_first_at_ping(trial: str, result: dict[str, Any]) -> bool:
    return trial.endswith("00000") and result["stage"] == "ping-1"


def sweep(tmp_path: Path, parent: Tracker, entropies: list[float], stop: Any = None, workers: int = 1) -> Any:
    rounds = {f"recipe__rounds__{name}": STEP for name in ("pretrain_color", "pretrain_edit", "ping", "pong")}
    setup = Setup(
        base=small_config(tmp_path, run__checkpoint_every=1000, **rounds),
        sweep_folder=tmp_path / "sweep",
        parent_run=parent.run_id,
        tracking_uri=parent.uri,
        metrics=("ab_psnr",),
        workers=workers,
    )

    def trainable(config: dict[str, Any], setup: Setup) -> None:
        run_trial(config, setup)

    return tune.Tuner(
        tune.with_resources(tune.with_parameters(trainable, setup=setup), {"cpu": 1 if workers == 1 else WAITING}),
        param_space={"recipe.loss.entropy": tune.grid_search(entropies)},
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=str(tmp_path / "ray"), name="ray", verbose=0, stop=stop),
    ).fit()


@pytest.mark.usefixtures("cluster")
def test_trials_are_children_with_their_settings_and_a_stopped_one_is_not_left_running(
    tmp_path: Path, parent: Tracker
):
    results = sweep(tmp_path, parent, [0.0, 0.5], stop_the_first_at_ping)
    assert not results.errors
    assert [result.metrics["stage"] for result in results] == ["ping-1", "pong-1"]
    assert len(list((tmp_path / "pretrained").glob("*/state.pt"))) == 1
    client = import_mlflow().MlflowClient(parent.uri)
    for result, entropy, status in zip(results, ("0.0", "0.5"), ("KILLED", "FINISHED"), strict=True):
        run = client.get_run(result.metrics["run"])
        assert (run.info.status, run.data.tags[PARENT]) == (status, parent.run_id)
        assert (run.data.tags["tuned.recipe.loss.entropy"], run.data.params["recipe.loss.entropy"]) == (
            entropy,
            entropy,
        )
        assert run.data.metrics["ab_psnr"] == result.metrics["ab_psnr"]
        assert "pong/heatmap_kl" not in run.data.metrics or status == "FINISHED"


@pytest.mark.usefixtures("cluster")
def test_a_trial_with_two_workers_reports_like_one_process(tmp_path: Path, parent: Tracker):
    results = sweep(tmp_path, parent, [0.5], workers=2)
    assert not results.errors
    assert results[0].metrics["stage"] == "pong-1"
    assert results[0].metrics["ab_psnr"] > 0
    run = import_mlflow().MlflowClient(parent.uri).get_run(results[0].metrics["run"])
    assert (run.info.status, run.data.tags["processes"]) == ("FINISHED", "2")
    assert {"pretrain-edit-blind/heatmap_kl", "ab_psnr", "dispersion"} <= set(run.data.metrics)


@pytest.mark.usefixtures("cluster")
def test_values_that_do_not_go_together_fail_the_trial_with_their_message(tmp_path: Path, parent: Tracker):
    results = sweep(tmp_path, parent, [-1.0])
    assert len(results.errors) == 1
    assert "entropy is -1" in str(results.errors[0])
