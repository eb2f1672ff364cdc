"""What a training logs is in MLflow afterwards: complete, comparable, resumed in place, and kept."""

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

from evaluator.registry.mlflow_registry import import_mlflow
from trainer import export
from trainer.monitoring.mlflow_tracker import LONGEST_VALUE, Tracker, open_tracker
from trainer.monitoring.tracker import NullTracker, Place
from trainer.networks import ColorNet

if TYPE_CHECKING:
    from mlflow import MlflowClient


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for all tests of this file: making one takes seconds."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def place(work: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    uri = f"sqlite:///{work}/mlflow.db"
    return Place(work=work, folder=tmp_path / "run", experiment=request.node.name, name="first", tracking_uri=uri)


@pytest.fixture(scope="module")
def client(work: Path) -> "MlflowClient":
    return import_mlflow().MlflowClient(tracking_uri=f"sqlite:///{work}/mlflow.db")


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """A server that is down: a port of this machine that nothing listens on."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


def history(client: "MlflowClient", run_id: str, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, name)]


def test_every_metric_of_every_step_arrives(place: Place, client: "MlflowClient"):
    with Tracker(place) as tracker:
        for step in range(1500):
            tracker.log_metrics({"loss/color": step / 7, "lr": 1e-4}, step)
    assert history(client, tracker.run_id, "loss/color") == [(step, step / 7) for step in range(1500)]
    assert len(history(client, tracker.run_id, "lr")) == 1500
    run = client.get_run(tracker.run_id)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "first")


def test_values_that_are_not_finite_are_counted(place: Place, client: "MlflowClient"):
    with Tracker(place) as tracker:
        tracker.log_metrics({"loss": float("nan"), "norm": float("inf"), "lr": 0.5}, 1)
    run = client.get_run(tracker.run_id)
    assert run.data.metrics == {"lr": 0.5}
    assert run.data.tags["metrics_not_finite"] == "2"


def test_the_machine_is_logged_as_mlflows_system_metrics(place: Place, client: "MlflowClient"):
    with Tracker(replace(place, system_metrics=True)) as tracker:
        for step in range(3):  # within the 10 s of one reading
            tracker.log_metrics({"loss": 1.0}, step)
    metrics = client.get_run(tracker.run_id).data.metrics
    assert 0 <= metrics["system/cpu_utilization_percentage"] <= 100
    assert metrics["system/system_memory_usage_megabytes"] > 0
    assert len(history(client, tracker.run_id, "system/system_memory_usage_percentage")) == 1


def test_a_name_that_mlflow_does_not_take_is_refused_at_once(place: Place):
    with Tracker(place) as tracker, pytest.raises(ValueError, match="'psnr@10'"):
        tracker.log_metrics({"psnr@10": 30.0}, 1)


def test_config_tags_pictures_and_tables_are_kept(place: Place, client: "MlflowClient", tmp_path: Path):
    config = {"seed": 0, "data": {"train": ("a", "b"), "long": "x" * 7000}}
    drawn = tmp_path / "drawn.png"
    Image.new("RGB", (4, 4), "red").save(drawn)
    with Tracker(place) as tracker:
        tracker.log_config(config)
        tracker.set_tags({"perceptual": "off", "dirty": False})
        tracker.log_picture(Image.new("RGB", (4, 4)), "pictures/0001.png")
        tracker.log_picture(drawn, "pictures/0002.png")
        tracker.log_table([{"clicks": 0, "psnr": 26.1}, {"clicks": 1, "psnr": 27.5}], "validation.csv")
        tracker.log_text("notes", "notes.txt")
    run = client.get_run(tracker.run_id)
    assert run.data.params == {"seed": "0", "data.train": "('a', 'b')", "data.long": "x" * LONGEST_VALUE}
    assert (run.data.tags["perceptual"], run.data.tags["dirty"]) == ("off", "False")
    stored = Path(str(run.info.artifact_uri).removeprefix("file://"))
    for folder in (stored, place.folder):
        assert json.loads((folder / "config.json").read_text())["data"]["long"] == "x" * 7000
        assert Image.open(folder / "pictures" / "0002.png").getpixel((0, 0)) == (255, 0, 0)
        assert (folder / "pictures" / "0001.png").is_file()
        assert (folder / "validation.csv").read_text().split() == ["clicks,psnr", "0,26.1", "1,27.5"]
        assert (folder / "notes.txt").read_text() == "notes"


def test_a_resumed_run_goes_on_in_place(place: Place, client: "MlflowClient"):
    first = Tracker(place)
    first.log_config({"seed": 0, "lr": 0.1})
    for step in range(4):
        first.log_metrics({"loss": float(step)}, step)
    first.finish("KILLED")
    assert client.get_run(first.run_id).info.status == "KILLED"

    for at in (2, 3):
        resumed = open_tracker(place, run_id=first.run_id, resumed_at_step=at)
        assert resumed.run_id == first.run_id
        assert client.get_run(first.run_id).info.status == "RUNNING"
        resumed.log_config({"seed": 0, "lr": 0.2, "new": "x"})
        for step in range(at + 1, 6):
            resumed.log_metrics({"loss": float(step)}, step)
        resumed.finish()
    points = history(client, first.run_id, "loss")
    assert set(points) == {(step, float(step)) for step in range(6)}
    run = client.get_run(first.run_id)
    assert run.data.tags["resumed_at_step"] == "2, 3"
    assert run.data.tags["config_changed"] == "lr"
    assert run.data.params == {"seed": "0", "lr": "0.1", "new": "x"}
    assert len(client.search_runs([run.info.experiment_id])) == 1
    names = {path.name for path in place.folder.iterdir()}
    assert names == {"config.json", "config-resumed-at-2.json", "config-resumed-at-3.json"}


def test_a_run_that_the_database_does_not_know_is_named(place: Place):
    with pytest.raises(ValueError, match="run 0123 is not in sqlite"):
        Tracker(place, run_id="0123")


def test_runs_can_be_compared(place: Place, client: "MlflowClient"):
    for estimator, psnr in (("argmax_ste", 30.0), ("gumbel", 31.0), ("reinmax", 29.0)):
        with Tracker(place) as tracker:
            tracker.log_config({"choice": {"estimator": estimator}})
            tracker.log_metrics({"validation/ab_psnr_10": psnr}, 100)
    experiment = client.get_experiment_by_name(place.experiment)
    assert experiment is not None
    found = client.search_runs(
        [experiment.experiment_id],
        filter_string="metrics.`validation/ab_psnr_10` > 29.5",
        order_by=["metrics.`validation/ab_psnr_10` DESC"],
    )
    assert [run.data.params["choice.estimator"] for run in found] == ["gumbel", "argmax_ste"]


@pytest.mark.parametrize(("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_an_exception_ends_the_run_with_its_status(place: Place, client: "MlflowClient", error: Any, status: str):
    tracker = Tracker(place)

    def train() -> None:
        with tracker:
            tracker.log_metrics({"loss": 1.0}, 1)
            raise error

    with pytest.raises(error):
        train()
    run = client.get_run(tracker.run_id)
    assert (run.info.status, run.data.metrics) == (status, {"loss": 1.0})
    tracker.finish("FINISHED")
    assert client.get_run(tracker.run_id).info.status == status


def test_other_ranks_track_nothing(place: Place, tmp_path: Path):
    with open_tracker(place, rank=1) as tracker:
        assert type(tracker) is NullTracker
        tracker.log_config({"a": 1})
        tracker.set_tags({"a": 1})
        tracker.log_metrics({"psnr@1": 1.0}, 1)
        tracker.log_picture(tmp_path / "none.png", "a.png")
        tracker.log_text("", "a.txt")
        tracker.log_table([], "a.csv")
        assert tracker.register(tmp_path) is None
        assert tracker.flush()
    assert not tracker.run_id
    assert not place.folder.exists()
    assert {name for name in vars(Tracker) if name[0] != "_"} == {
        name for name in vars(NullTracker) if name[0] != "_"
    }


def test_only_the_first_version_becomes_champion_by_itself(
    place: Place, client: "MlflowClient", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    network = ColorNet((2, 2))
    contract = export.describe(network, "colornet-alias", metrics={"ab_psnr@10": 30.123456789})
    folder = export.save(export.export(network, contract), tmp_path / "exported")
    with Tracker(place) as tracker:
        assert [tracker.register(folder) for _ in range(3)] == [1, 2, 3]
        assert client.get_model_version_by_alias("colornet-alias", "champion").version == 1
        client.set_registered_model_alias("colornet-alias", "champion", "2")
        assert tracker.register(folder) == 4
    champion = client.get_model_version_by_alias("colornet-alias", "champion")
    assert champion.version == 2
    assert champion.run_id == tracker.run_id
    assert champion.tags == {"commit": contract.commit, "metric.ab_psnr_10": "30.1235"}
    assert not list(elsewhere.iterdir())


def test_a_registered_model_is_one_of_mlflows_own(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from mlflow.models import get_model_info
    from mlflow.pytorch import load_model

    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.tracking_uri)
    network = ColorNet((2, 2))
    folder = export.save(export.export(network, export.describe(network, "colornet-own")), tmp_path / "exported")
    with Tracker(place) as tracker:
        tracker.register(folder)
    signature = get_model_info("models:/colornet-own@champion").signature
    assert [(spec.name, spec.shape) for spec in signature.inputs] == [
        ("lightness", (-1, 1, -1, -1)),
        ("clicks", (-1, 3, -1, -1)),
    ]
    graph = load_model("models:/colornet-own@champion")
    network.eval()
    inputs = torch.rand(1, 1, 8, 6), torch.rand(1, 3, 8, 6)
    with torch.no_grad():
        assert (graph(*inputs) - network(*inputs)).abs().max() <= 1e-5


def test_a_server_that_is_down_at_the_start_is_named(place: Place, nowhere: str, tmp_path: Path):
    with pytest.raises(ConnectionError, match=rf"{nowhere} does not answer; .* correct MLFLOW_TRACKING_URI"):
        Tracker(Place(work=place.work, folder=tmp_path / "run", tracking_uri=nowhere))


def test_a_server_that_swallows_requests_is_named_in_time(place: Place, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        uri = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=r"no answer within 0\.2 s"):
            Tracker(Place(work=place.work, folder=tmp_path / "run", tracking_uri=uri), start_seconds=0.2)


def test_a_file_that_is_no_database_is_named(tmp_path: Path):
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 100)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(ConnectionError, match="file is not a database"):
        Tracker(Place(work=tmp_path, folder=tmp_path / "run", tracking_uri=uri))


def test_the_environment_names_the_server(
    place: Place, nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nowhere)
    with pytest.raises(ConnectionError, match=nowhere):
        open_tracker(Place(work=tmp_path / "work", folder=tmp_path / "run"))


def test_a_server_that_comes_back_misses_nothing(place: Place, client: "MlflowClient", nowhere: str):
    warnings: list[str] = []
    tracker = Tracker(Place(**{**vars(place), "warn": warnings.append}))
    up, down = tracker._client, import_mlflow().MlflowClient(tracking_uri=nowhere)
    tracker.log_metrics({"loss": 0.0}, 0)
    assert tracker.flush()
    tracker._client = down
    for step in range(1, 5):
        tracker.log_metrics({"loss": float(step)}, step)
    tracker.log_picture(Image.new("RGB", (2, 2)), "late.png")
    assert not tracker.flush()
    tracker._client = up
    tracker.finish()
    assert history(client, tracker.run_id, "loss") == [(step, float(step)) for step in range(5)]
    assert [item.path for item in client.list_artifacts(tracker.run_id)] == ["late.png"]
    assert len(warnings) == 1
    assert "the training goes on" in warnings[0]
    assert client.get_run(tracker.run_id).info.status == "FINISHED"


def test_a_server_that_stays_down_leaves_a_file_that_resuming_sends(
    place: Place, client: "MlflowClient", nowhere: str
):
    warnings: list[str] = []
    tracker = Tracker(Place(**{**vars(place), "warn": warnings.append}))
    tracker._client = import_mlflow().MlflowClient(tracking_uri=nowhere)
    tracker.log_metrics({"loss": 1.5}, 7)
    tracker.set_tags({"perceptual": "off"})
    tracker.finish()
    unsent = place.folder / f"unsent-{tracker.run_id}.jsonl"
    assert [json.loads(line)["kind"] for line in unsent.read_text().splitlines()] == ["metric", "tag"]
    assert len(warnings) == 2
    assert str(unsent) in warnings[1]
    open_tracker(place, run_id=tracker.run_id, resumed_at_step=7).finish()
    run = client.get_run(tracker.run_id)
    assert (history(client, tracker.run_id, "loss"), run.data.tags["perceptual"]) == ([(7, 1.5)], "off")
    assert not unsent.exists()


def test_a_network_that_cannot_be_registered_is_kept(place: Place, nowhere: str, tmp_path: Path):
    network = ColorNet((2, 2))
    folder = export.save(export.export(network, export.describe(network, "colornet")), tmp_path / "exported")
    tracker = Tracker(place)
    up, tracker._client = tracker._client, import_mlflow().MlflowClient(tracking_uri=nowhere)
    with pytest.raises(ConnectionError, match=rf"use {folder} in place of models:/colornet"):
        tracker.register(folder)
    tracker._client = up
    tracker.finish()
