"""Several processes that write to one SQLite database at once, under one parent run, as a sweep's trials do."""

import subprocess
import sys
from pathlib import Path

import pytest

from evaluator.registry.mlflow_registry import import_mlflow
from tests import ROOT
from tests.trainer.child_run import STEPS
from trainer.config import flatten
from trainer.config.presets import tiny
from trainer.monitoring.mlflow_tracker import PARENT, Tracker
from trainer.monitoring.tracker import Place

pytestmark = pytest.mark.launch


@pytest.mark.slow
@pytest.mark.launch
def test_four_runs_at_once_lose_nothing(tmp_path: Path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with Tracker(Place(work=tmp_path, folder=tmp_path / "parent", name="sweep", tracking_uri=uri)) as parent:
        command = [sys.executable, "-m", "tests.trainer.child_run", str(tmp_path), parent.run_id]
        children = [
            subprocess.Popen(
                [*command, str(number)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            for number in range(4)
        ]
        said = [child.communicate(timeout=300) for child in children]
    assert [(child.returncode, errors) for child, (_, errors) in zip(children, said, strict=True)] == [(0, "")] * 4
    client = import_mlflow().MlflowClient(uri)
    for number, (run_id, _) in enumerate(said):
        run = client.get_run(run_id.strip())
        assert (run.info.status, run.info.run_name) == ("FINISHED", f"child {number}")
        assert run.data.tags[PARENT] == parent.run_id
        assert run.data.tags["latest"] == str(STEPS - 20)
        assert set(run.data.params) == set(flatten(tiny()))
        for name in "abcde":
            points = client.get_metric_history(run.info.run_id, f"loss/{name}")
            assert [(point.step, point.value) for point in points] == [(step, step / 7) for step in range(STEPS)]
        assert {"clicks.png", "config.json"} <= {item.path for item in client.list_artifacts(run.info.run_id)}
    assert not list(tmp_path.glob("*/unsent*")) + list(tmp_path.glob("*/rejected*"))
