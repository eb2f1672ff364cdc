"""Made-up requests and broken photos against a server in its own process: never an error of the server's."""

import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.benchmarks.evaluator.service_process import memory_of

pytestmark = pytest.mark.launch

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
MAX_MEMORY = 1.5 * 2**30
"""In bytes, at the end: the service and its two parsers take 1 GiB when nothing is asked of them."""
BOUNDED = settings(
    max_examples=15,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
"""A pinned seed, and few enough examples for less than a minute in all."""
PATIENCE = 60.0
"""Seconds; tests may run on a busy machine."""
PHOTO = {"width": 80, "height": 60}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a service with networks by formula. At the end it still runs, in bounded memory."""
    command = [sys.executable, "-m", "tests.evaluator.service.demo"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        late = threading.Timer(180, process.kill)
        late.start()
        with process.stdout:
            ready = re.match(r"ready (http://\S+)", process.stdout.readline())
        late.cancel()
        assert ready is not None
        yield ready[1]
        assert httpx.get(f"{ready[1]}/readyz", timeout=PATIENCE).status_code == 200
        assert memory_of(process.pid) < MAX_MEMORY
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait(60)


@pytest.fixture(scope="module")
def known(server: str, picture) -> str:
    """The id of a photo that is there."""
    answer = httpx.post(f"{server}/v1/photos", files={"file": ("a.jpg", picture(7, **PHOTO))}, timeout=PATIENCE)
    return answer.json()["id"]


# schemathesis draws from `random` now and then, which hypothesis warns of.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
def test_made_up_requests_are_answered_as_documented(server: str, known: str, mode: GenerationMode):
    schema = schemathesis.openapi.from_url(f"{server}/openapi.json")
    operations = [cast(Ok, found).ok() for found in schema.get_all_operations()]
    assert len(operations) >= 18
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not operation.body and not list(operation.iter_parameters()):
            continue  # nothing that could be wrong

        @BOUNDED
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            case.body = meeting(case.body, known)
            case.call_and_validate(checks=CHECKS, timeout=PATIENCE)

        ask()


def meeting(value: Any, known: str) -> Any:
    """The same request about the photo that is there, with places inside it, so that it gets further."""
    if isinstance(value, list):
        return [meeting(one, known) for one in value]
    if not isinstance(value, dict):
        return value
    changed = {name: meeting(one, known) for name, one in value.items()}
    if isinstance(changed.get("photo"), str):
        changed["photo"] = known
    for name, side in (("row", PHOTO["height"]), ("col", PHOTO["width"])):
        if type(changed.get(name)) is int and changed[name] >= 0:
            changed[name] %= side
    return changed


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_a_broken_photo_is_refused_or_read(server: str, picture, format: str, options: dict[str, Any]):
    whole = picture(8, 40, 30, format, **options)
    with httpx.Client(base_url=server, timeout=PATIENCE) as client:

        @BOUNDED
        @given(broken=mutations(whole))
        def send(broken: bytes) -> None:
            answer = client.post("/v1/photos", files={"file": ("photo", broken)})
            assert answer.status_code in (200, 201, 413, 415, 422), answer.text
            if answer.status_code < 300:
                grey = client.get(f"/v1/photos/{answer.json()['id']}/grey")
                assert grey.status_code == 200, grey.text
            else:
                assert answer.headers["content-type"] == "application/problem+json"

        send()


def mutations(whole: bytes) -> st.SearchStrategy[bytes]:
    """A file with some bytes changed, cut short, or with a piece twice."""
    place = st.integers(0, len(whole) - 1)

    def changed(edits: list[tuple[int, int]]) -> bytes:
        content = bytearray(whole)
        for where, value in edits:
            content[where] = value
        return bytes(content)

    return st.one_of(
        st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=20).map(changed),
        place.map(lambda where: whole[:where]),
        st.tuples(place, place).map(lambda cut: whole[: max(cut)] + whole[min(cut) :]),
    )


def test_bytes_without_any_sense_are_refused(server: str):
    with httpx.Client(base_url=server, timeout=PATIENCE) as client:

        @BOUNDED
        @given(content=st.binary(max_size=200))
        def send(content: bytes) -> None:
            assert client.post("/v1/photos", files={"file": ("x", content)}).status_code in (415, 422)

        send()


@pytest.mark.parametrize(
    "head",
    [
        {"Content-Length": "-1"},
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": "multipart/form-data; boundary=" + "x" * 500},
        {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": "99999999999"},
    ],
)
def test_a_broken_form_is_refused(server: str, head: dict[str, str]):
    address = httpx.URL(server)
    with socket.create_connection((address.host, address.port or 80), timeout=20) as connection:
        lines = [f"{name}: {value}" for name, value in head.items()]
        request = "\r\n".join(["POST /v1/photos HTTP/1.1", f"Host: 127.0.0.1:{address.port}", *lines])
        if "Content-Length" not in head:
            request += "\r\nContent-Length: 5"
        connection.sendall((request + "\r\n\r\n--b\r\n").encode())
        status = int(connection.recv(2**16).split()[1])
    assert status in (400, 411, 413, 422)
