"""`python -m evaluator serve`: what it says when it cannot serve, and how it stops."""

import os
import signal
import socket
import threading
from pathlib import Path

import httpx
import pytest

from evaluator.__main__ import main
from evaluator.service.app import create_app
from evaluator.service.core import Service
from evaluator.service.engine import Engine
from evaluator.service.serve import run
from evaluator.service.settings import Settings
from tests.evaluator.service import fakes


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CHROMACLICK_") or name == "MLFLOW_TRACKING_URI"]:
        monkeypatch.delenv(name)


def test_without_a_trained_network_the_command_that_makes_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """One that is asked for by name: else the networks that ship would be served."""
    named = ["--colorizer", "models:/colornet@champion", "--guide", "models:/editnet-blind@champion"]
    assert main(["serve", "--port", "0", "--work", str(tmp_path), *named]) == 2
    assert "`accelerate launch trainer/main.py` trains networks" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port), "--work", str(tmp_path)]) == 2
    assert f"cannot listen at 127.0.0.1:{port} (Address already in use); give" in capsys.readouterr().err


def test_a_bad_setting_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CHROMACLICK_RATE", "fast")
    assert main(["serve"]) == 2
    assert "CHROMACLICK_RATE is 'fast'" in capsys.readouterr().err


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_request_under_way_is_answered_before_the_service_stops(tmp_path: Path, how: signal.Signals):
    """The request is in the network when the signal comes, and the network is slow."""
    entered, leave, answers = threading.Event(), threading.Event(), []

    def slow(lightness, clicks):
        if lightness.shape[-2:] == (32, 48):
            entered.set()
            assert leave.wait(20)
        return fakes.spread(lightness, clicks)

    def ask(url: str) -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            sent = client.post("/v1/photos", files={"file": ("a.jpg", fakes.photo(48, 32))}).json()
            answers.append(client.post("/v1/colorize", json={"photo": sent["id"]}).status_code)

    def stop() -> None:
        assert entered.wait(60)
        os.kill(os.getpid(), how)
        leave.set()

    def ready(url: str, service: Service) -> None:
        threads.append(threading.Thread(target=ask, args=(url,)))
        for thread in threads:
            thread.start()

    threads = [threading.Thread(target=stop)]
    settings = Settings(port=0, store=str(tmp_path), upload_workers=1, rate=0.0)
    run(create_app(settings, Engine.from_networks(slow, fakes.detail)), settings, ready)
    for thread in threads:
        thread.join(60)
    assert answers == [200]
