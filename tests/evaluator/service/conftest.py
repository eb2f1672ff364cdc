"""A service with networks by formula, and a registry with small untrained ones."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import torch
from fastapi import FastAPI
from starlette.testclient import TestClient

from evaluator.service.app import create_app
from evaluator.service.inference.engine import Engine
from evaluator.service.settings import Settings
from tests.evaluator.service import fakes

BASE_URL = "http://127.0.0.1:8000"


@pytest.fixture
def fake_networks() -> tuple[Callable, Callable]:
    """`(colorizer, guide)`, see `fakes`."""
    return fakes.spread, fakes.detail


@pytest.fixture
def fake_engine() -> Engine:
    """An engine with them, not started."""
    return Engine.from_networks(fakes.spread, fakes.detail)


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """`picture(seed, width, height, format)`: smooth colors with noise, as a file."""

    def make(seed: int = 0, width: int = 96, height: int = 64, format: str = "JPEG", **options: object) -> bytes:
        return fakes.photo(width, height, seed, format, **options)

    return make


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A store of the tests' own; no limit of rates; one process that parses."""
    return Settings(store=str(tmp_path_factory.mktemp("store")), rate=0.0, upload_workers=1)


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    """A running service whose networks are ready."""
    app = create_app(settings, Engine.from_networks(fakes.spread, fakes.detail))
    with TestClient(app, base_url=BASE_URL) as client:
        wait_until_ready(client)
        yield client


def wait_until_ready(client: TestClient) -> None:
    """Until the networks are warmed."""
    assert client.portal is not None
    service = cast(FastAPI, client.app).state.service
    client.portal.call(asyncio.wait_for, service.settled.wait(), 300)
    assert client.get("/readyz").status_code == 200


@dataclass(frozen=True)
class Registry:
    """An MLflow database with `colornet` and `editnet-blind`, two versions of each; @champion is version 1."""

    uri: str
    work: Path


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Untrained networks with three levels."""
    from trainer import export
    from trainer.monitoring.mlflow_tracker import Place, Tracker
    from trainer.networks import ColorNet, EditNet

    work = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{work}/mlflow.db"
    with Tracker(Place(work=work, folder=work / "run", tracking_uri=uri)) as tracker:
        for seed in (0, 1):
            torch.manual_seed(seed)
            networks = {"colornet": ColorNet((4, 6, 8)), "editnet-blind": EditNet("blind", (4, 6, 8))}
            for name, network in networks.items():
                variant = "blind" if name == "editnet-blind" else None
                contract = export.describe(
                    network, name, variant=variant, hint_size=3, temperature=0.5 if variant else None
                )
                folder = export.save(export.export(network, contract), work / "run" / f"{name}-{seed}")
                tracker.register(folder)
    return Registry(uri, work)
