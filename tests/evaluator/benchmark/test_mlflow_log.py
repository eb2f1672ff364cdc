import json
from pathlib import Path

import pytest

from evaluator.__main__ import main
from evaluator.benchmark import mlflow_log
from evaluator.registry.mlflow_registry import new_client
from tests.evaluator.benchmark.conftest import Bench

pytestmark = pytest.mark.launch


@pytest.mark.parametrize(
    ("switch", "colorizer", "server", "expected"),
    [
        ("auto", "model.pt2", "", False),
        ("auto", "models:/colornet@champion", "", True),
        ("auto", "model.pt2", "http://server", True),
        ("off", "models:/colornet@champion", "http://server", False),
        ("on", "model.pt2", "", True),
    ],
)
def test_runs_are_logged_where_a_registry_is_used(switch, colorizer, server, expected, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert mlflow_log.wanted(switch, colorizer) is expected


def test_figures_files_and_settings_reach_mlflow(bench: Bench, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out, work = tmp_path / "first", tmp_path / "runs"
    work.mkdir()
    assert main(bench.words(out, "--mlflow", "on", "--work", str(work), "--limit", "3")) == 0
    client = new_client(f"sqlite:///{work}/mlflow.db")
    experiment = client.get_experiment_by_name(mlflow_log.EXPERIMENT)
    assert experiment is not None
    run = client.search_runs([experiment.experiment_id])[0]
    assert run.info.status == "FINISHED"
    assert (run.info.run_name, run.data.params["clicks"]) == ("first", "[0, 1, 4]")
    rows = json.loads((out / "results.json").read_text())["rows"]
    history = client.get_metric_history(run.info.run_id, "guide-blind/ab_psnr")
    assert {point.step: point.value for point in history} == {
        row["clicks"]: row["ab_psnr"] for row in rows if row["policy"] == "guide-blind"
    }
    stored = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"results.parquet", "results.json", "report.html"} <= stored
    assert any(name.endswith(".png") for name in stored)
    assert f"logged as run {run.info.run_id}" in capsys.readouterr().out.replace("\n", "")


def test_a_server_that_is_away_costs_no_measurement(bench: Bench, tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    out = tmp_path / "out"
    assert main(bench.words(out, "--limit", "2")) == 1
    assert "MLflow at" in capsys.readouterr().err
    assert (out / "report.html").exists()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert main(bench.words(out, "--limit", "2", "--resume")) == 0


def test_a_run_whose_files_cannot_be_kept_is_marked_as_failed(tmp_path: Path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    summary = {
        "protocol": {"clicks": [0]},
        "preset": None,
        "photos": {"source": "photos", "count": 1, "sha256": "ab"},
        "commit": "0123abc",
        "colorizer": {"source": "model.pt2", "estimator": None},
        "guides": {},
        "rows": [],
        "nri": [],
        "fid": [],
    }
    with pytest.raises(ConnectionError):
        mlflow_log.log_run(uri, "broken", summary, [tmp_path / "missing.json"])
    client = new_client(uri)
    experiment = client.get_experiment_by_name(mlflow_log.EXPERIMENT)
    assert experiment is not None
    assert [run.info.status for run in client.search_runs([experiment.experiment_id])] == ["FAILED"]
