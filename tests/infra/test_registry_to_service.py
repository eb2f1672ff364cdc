"""The parts of compose.yaml as processes: PostgreSQL, an S3 stand-in, MLflow by its own script, the service."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import boto3
import httpx
import numpy as np
import psycopg2
import pytest
from PIL import Image
from starlette.testclient import TestClient

from evaluator.registry import mlflow_registry
from evaluator.service.app import create_app
from evaluator.service.inference.engine import Engine
from evaluator.service.settings import Settings
from tests import ROOT
from tests.infra.processes import free_port, postgres, postgres_programs, running
from trainer.monitoring.mlflow_tracker import Place, Tracker

INFRA = ROOT / "infra"
BUCKET = "networks"
pytestmark = [pytest.mark.infra, pytest.mark.slow, pytest.mark.launch]


@dataclass(frozen=True)
class Stack:
    """Where the parts are."""

    mlflow: str
    postgres: str
    s3: str
    secrets: Path
    run: Path

    @property
    def password(self) -> str:
        return (self.secrets / "postgres_password").read_text()

    @property
    def keys(self) -> dict[str, str]:
        return json.loads((self.secrets / "s3.json").read_text())["identities"][0]["credentials"][0]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, exported: Path) -> Iterator[Stack]:
    """The servers, and networks that were registered through MLflow alone."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    work = tmp_path_factory.mktemp("stack")
    secrets = work / "secrets"
    subprocess.run([INFRA / "make-secrets.sh", secrets], check=True, capture_output=True)
    s3, mlflow = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    with postgres(programs, (secrets / "postgres_password").read_text()) as database:
        made = Stack(mlflow, database, s3, secrets, work / "run")
        with object_store(made, work), registry_server(made, work):
            with Tracker(Place(work=work, folder=made.run, tracking_uri=mlflow)) as tracker:
                for name in ("colornet", "editnet-blind"):
                    shutil.copytree(exported / name, made.run / name)
                    tracker.register(made.run / name)
            yield made


def object_store(stack: Stack, work: Path):
    """moto: it takes any keys, and keeps objects in memory."""
    folder = work / "s3"
    folder.mkdir()
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", stack.s3.rpartition(":")[2]]
    return running("moto", words, folder / "log", f"{stack.s3}/moto-api/", 120)


def registry_server(stack: Stack, work: Path):
    """The script of infra/mlflow, as its image starts it."""
    folder = work / "mlflow"
    folder.mkdir()
    address = stack.mlflow.removeprefix("http://")
    variables = {
        "SECRETS": str(stack.secrets),
        "POSTGRES": stack.postgres,
        "S3_ENDPOINT": stack.s3,
        "BUCKET": BUCKET,
        "HOST": "127.0.0.1",
        "PORT": address.rpartition(":")[2],
        "ALLOWED_HOSTS": address,
    }
    words = [sys.executable, str(INFRA / "mlflow" / "start.py")]
    return running("mlflow", words, folder / "log", f"{stack.mlflow}/health", 240, variables)


def photo() -> bytes:
    """A JPEG with a gradient."""
    file = io.BytesIO()
    ramp = np.linspace(0, 255, 96 * 64, dtype=np.uint8).reshape(64, 96)
    Image.fromarray(ramp).save(file, "JPEG")
    return file.getvalue()


def test_versions_are_in_postgresql(stack: Stack):
    host, port = stack.postgres.split(":")
    connection = psycopg2.connect(host=host, port=port, user="mlflow", password=stack.password, dbname="mlflow")
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT name, version FROM model_versions ORDER BY name, version LIMIT 2")
        assert cursor.fetchall() == [("colornet", 1), ("editnet-blind", 1)]


def test_graphs_are_in_the_object_store_and_not_on_the_servers_disk(stack: Stack):
    keys = {"aws_access_key_id": stack.keys["accessKey"], "aws_secret_access_key": stack.keys["secretKey"]}
    client = boto3.client("s3", endpoint_url=stack.s3, region_name="us-east-1", **keys)
    listed = [entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert sum(key.endswith("data/model.pt2") for key in listed) == 2
    assert sum(key.endswith("contract.json") for key in listed) == 2
    # In the compose file the server's file system is read-only.
    assert [path.name for path in (stack.run.parent / "mlflow").iterdir()] == ["log"]


def test_the_registry_refuses_a_host_name_that_it_does_not_have(stack: Stack):
    answer = httpx.get(f"{stack.mlflow}/api/2.0/mlflow/registered-models/search", headers={"Host": "evil.example"})
    assert answer.status_code == 403


def test_the_service_colors_with_the_champion_and_follows_it(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = Settings(registry=stack.mlflow, store=str(tmp_path), upload_workers=1, working_size=64)
    engine = Engine(tracking_uri=settings.tracking_uri, working_size=64, refresh_seconds=0.0, runtimes=["torch"])
    app = create_app(settings, engine)
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        assert client.portal is not None
        client.portal.call(app.state.service.settled.wait)
        assert client.get("/readyz").json() == {"status": "ok"}
        sent = client.post("/v1/photos", files={"file": ("grey.jpg", photo())})
        assert sent.status_code == 201
        click = {"row": 10, "col": 20, "colour": {"hex": "#c04020"}}
        asked = {"photo": sent.json()["id"], "clicks": [click], "format": "png"}
        first = client.post("/v1/colorize", json=asked)
        assert (first.status_code, first.headers["X-Colorizer"]) == (200, "models:/colornet/1")
        assert Image.open(io.BytesIO(first.content)).size == (96, 64)

        with Tracker(Place(work=tmp_path, folder=stack.run, tracking_uri=stack.mlflow)) as tracker:
            assert tracker.register(stack.run / "colornet") == 2
        mlflow_registry.promote(stack.mlflow, "colornet", "2", {"reason": "a test"})
        assert client.portal.call(engine.refresh)
        second = client.post("/v1/colorize", json=asked)
        assert (second.status_code, second.headers["X-Colorizer"]) == (200, "models:/colornet/2")
