"""Replicas behind one address on Ray Serve: one dies under load, and every request is still answered in time."""

import os
import signal
import tempfile
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from evaluator.service.settings import Settings
from tests import ROOT
from tests.evaluator.service.replica_engine import make_engine
from tests.evaluator.service.retrying import Answered, ask
from tests.infra.processes import free_port

with warnings.catch_warnings():  # Ray 2.60 on pydantic 2.14
    warnings.filterwarnings("ignore", "Using extra keyword arguments on `Field`", DeprecationWarning)
    from ray import serve

    from evaluator.service import ray_serve
    from evaluator.service.ray_serve import Scale, SwitchByAlias, replica_settings

DEADLINE = 30.0
"""Seconds for one answer, tries and pauses included."""
REPLACED = 180.0
"""Seconds for another replica; some 10 on an idle machine."""
THREADS, EACH = 4, 40
BEFORE_THE_KILL = 40
MAX_WAITING, MAX_QUEUED = 4, 4


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two replicas on this machine, with one folder for their photos."""
    settings = Settings(
        port=free_port(),
        store=str(tmp_path_factory.mktemp("store")),
        rate=0.0,
        upload_workers=1,
        most_waiting=MAX_WAITING,
    )
    scale = Scale(replicas=2, most_queued=MAX_QUEUED, service=settings)
    # Ray puts sockets there, whose paths may have 107 characters; and it needs room for a minute only.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        try:
            yield ray_serve.start(
                scale,
                make_engine,
                num_cpus=2,
                object_store_memory=80 * 2**20,
                log_to_driver=False,
                runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}},
                _temp_dir=folder,
            )
        finally:
            ray_serve.stop()


@pytest.fixture(scope="module")
def photo(url: str, picture: Callable[..., bytes]) -> str:
    """An uploaded photo's id; one of the replicas has parsed it."""
    sent = httpx.post(f"{url}/v1/photos", files={"file": ("photo.jpg", picture())}, timeout=DEADLINE)
    assert sent.status_code == 201
    return sent.json()["id"]


def colored(photo: str, number: int) -> dict[str, Any]:
    """A request that no other number makes."""
    colour = {"rgb": [37 * number % 256, 101 * number % 256, 200]}
    click = {"row": number % 64, "col": number % 96, "colour": colour}
    return {"photo": photo, "clicks": [click], "preview": 96, "format": "png"}


def replicas() -> dict[int, psutil.Process]:
    """This test's processes that are replicas, by their id."""
    found = psutil.Process().children(recursive=True)
    return {one.pid: one for one in found if _is_replica(one)}


def _is_replica(process: psutil.Process) -> bool:
    try:
        return process.name().startswith("ray::ServeRepl") and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it has just ended
        return False


def running_replicas() -> int:
    """What Ray says."""
    status = serve.status().applications[ray_serve.NAME].deployments[ray_serve.NAME]
    return sum(count for state, count in status.replica_states.items() if state == "RUNNING")


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    late = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < late, f"not within {seconds} s"
        threading.Event().wait(0.1)


@pytest.mark.slow
@pytest.mark.launch
def test_too_many_requests_at_once_are_told_to_come_back(url: str, photo: str):
    def one(number: int) -> httpx.Response:
        return httpx.post(f"{url}/v1/colorize", json=colored(photo, number), timeout=DEADLINE)

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(one, range(1000, 1064)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) < len(answers)
    assert {answer.status_code for answer in refused} == {429}
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in refused)


@pytest.mark.slow
@pytest.mark.launch
def test_a_replica_dies_under_load_and_every_request_is_answered_in_time(url: str, photo: str):
    answered = threading.Semaphore(0)

    def work(thread: int) -> list[tuple[int, Answered]]:
        with httpx.Client(base_url=url) as client:
            found = []
            for turn in range(EACH):
                number = turn * 2 + thread % 2  # two threads ask for the same, perhaps of different replicas
                found.append((number, ask(client, "/v1/colorize", colored(photo, number), DEADLINE)))
                answered.release()
            return found

    before = replicas()
    assert len(before) == 2
    victim = min(before)
    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(work, thread) for thread in range(THREADS)]
        for _ in range(BEFORE_THE_KILL):
            assert answered.acquire(timeout=DEADLINE)
        os.kill(victim, signal.SIGKILL)
        answers = [answer for future in futures for answer in future.result()]
    assert victim not in replicas()
    assert len(answers) == THREADS * EACH
    assert {answer.response.status_code for _, answer in answers} == {200}
    assert max(answer.seconds for _, answer in answers) < DEADLINE
    pictures = defaultdict(set)
    for number, answer in answers:
        pictures[number].add(answer.response.content)
    assert all(len(same) == 1 for same in pictures.values()), "replicas differ"
    assert len(pictures) == len({same.pop() for same in pictures.values()})
    wait_until(lambda: running_replicas() == 2 == len(replicas()), REPLACED)


@pytest.mark.slow
@pytest.mark.launch
def test_networks_cannot_be_changed_in_one_replica_alone(url: str):
    answer = httpx.put(f"{url}/v1/models", json={"colorizer": "models:/colornet/2"}, timeout=DEADLINE)
    assert (answer.status_code, answer.headers["Content-Type"]) == (409, "application/problem+json")
    assert "move the alias" in answer.json()["detail"]


def test_other_requests_pass_the_refusal_of_switches():
    app = Starlette()
    app.add_middleware(SwitchByAlias, refresh_seconds=30.0)
    client = TestClient(app)
    assert client.put("/v1/models").status_code == 409
    assert client.get("/v1/models").status_code == client.put("/v1/photos").status_code == 404


def test_replicas_have_absolute_places_and_threads_for_their_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = replica_settings(Scale(cpus=3.0))
    assert settings.store == str(tmp_path / "runs" / "service")
    assert settings.tracking_uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert settings.threads == 3
    named = replica_settings(Scale(service=Settings(threads=2, store="/photos", registry="http://mlflow:5000")))
    assert (named.threads, named.store, named.tracking_uri) == (2, "/photos", "http://mlflow:5000")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"replicas": 0}, "--replicas is 0; it must be at least 1"),
        ({"requests_each": 0.0}, "--requests-each is 0.0"),
        ({"most_queued": -1}, "--most-queued is -1"),
        ({"cpus": 0.0}, "--cpus is 0.0"),
        ({"replicas": 3, "most_replicas": 2}, "--most-replicas is 2; it must be at least --replicas, 3"),
        ({"service": Settings(port=0)}, "--port is 0"),
        ({"service": Settings(proxies="10.0.0.1")}, "--proxies is 10.0.0.1; Ray does not read X-Forwarded-For"),
    ],
)
def test_what_cannot_work_is_refused(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        replace(Scale(), **change)
