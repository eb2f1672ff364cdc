"""The middlewares alone, around a small app: who may pass, how fast, how much, and what every answer carries."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from evaluator.service.errors import MEDIA_TYPE, Problem, install
from evaluator.service.middleware.metrics import Metrics, Monitoring
from evaluator.service.middleware.security import (
    MAX_JSON_BYTES,
    BodyLimit,
    Gatekeeper,
    RateLimit,
    SecurityHeaders,
    client_of,
)
from evaluator.service.settings import Settings

TOKEN = "correct horse battery"


def call(
    settings: Settings, *requests: Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]
) -> list[httpx.Response]:
    """The answers of a small app behind all middlewares."""
    app = FastAPI()

    @app.api_route("/v1/echo", methods=["GET", "POST"])
    @app.post("/v1/photos")
    async def echo(request: Request) -> int:
        return len(await request.body())

    @app.get("/healthz")
    async def healthz() -> None: ...

    install(app, {})
    app.add_middleware(BodyLimit, settings=settings)
    app.add_middleware(Gatekeeper, settings=settings)
    app.add_middleware(SecurityHeaders)

    async def story() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            return [await make(client) for make in requests]

    return asyncio.run(asyncio.wait_for(story(), 120))


def slug(response: httpx.Response) -> str:
    assert response.headers["content-type"] == MEDIA_TYPE
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["title"]
    assert problem["detail"]
    return problem["type"].removeprefix("https://chromaclick.invalid/problems/")


def post(**arguments) -> Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]:
    return lambda client: client.post("/v1/echo", **arguments)


def test_every_answer_carries_the_headers():
    for response in call(Settings(), lambda client: client.get("/v1/echo"), lambda client: client.get("/nowhere")):
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["cache-control"] == "no-store"


def test_a_token_is_asked_for_where_there_is_one():
    no, wrong, other, right, health = call(
        Settings(token=TOKEN),
        post(),
        post(headers={"Authorization": "Bearer correct horse batterx"}),
        post(headers={"Authorization": f"Basic {TOKEN}"}),
        post(headers={"Authorization": f"bearer {TOKEN}"}),
        lambda client: client.get("/healthz"),
    )
    assert [no.status_code, wrong.status_code, other.status_code] == [401] * 3
    assert slug(no) == "token-needed"
    assert no.headers["www-authenticate"] == "Bearer"
    assert right.status_code == health.status_code == 200


def test_a_token_that_is_not_ascii_is_wrong_and_no_error():
    (response,) = call(Settings(token=TOKEN), post(headers={"Authorization": b"Bearer \xff\xfe"}))
    assert response.status_code == 401


def test_another_host_name_is_refused_at_home_only():
    elsewhere = post(headers={"Host": "evil.example:8000"})
    (refused,) = call(Settings(), elsewhere)
    assert (refused.status_code, slug(refused)) == (421, "wrong-host")
    for settings in (Settings(host="0.0.0.0"), Settings(hosts=("evil.example",))):
        (response,) = call(settings, elsewhere)
        assert response.status_code == 200
    (response,) = call(Settings(), post(headers={"Host": "[::1]:8000"}))
    assert response.status_code == 200


def test_forms_of_other_web_sites_are_refused():
    foreign = post(headers={"Origin": "https://evil.example"})
    own = post(headers={"Origin": "http://127.0.0.1:8000"})
    refused, passed = call(Settings(), foreign, own)
    assert (refused.status_code, slug(refused)) == (403, "foreign-origin")
    assert passed.status_code == 200
    (passed,) = call(Settings(origins=("https://evil.example",)), foreign)
    assert passed.status_code == 200


def test_a_body_is_cut_off_while_it_comes_in():
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 2**16
            yield bytes(2**16)

    announced, streamed = call(
        Settings(),
        post(content=bytes(MAX_JSON_BYTES + 1)),
        lambda client: client.post("/v1/echo", content=endless()),
    )
    assert announced.status_code == streamed.status_code == 413
    assert slug(announced) == slug(streamed) == "too-large"
    assert taken <= MAX_JSON_BYTES + 2**17


def test_uploads_may_be_larger_than_json():
    settings = Settings(most_upload_mib=8)
    content = bytes(MAX_JSON_BYTES + 1)
    passed, refused = call(
        settings,
        lambda client: client.post("/v1/photos", content=content),
        lambda client: client.post("/v1/photos", content=content * 3),
    )
    assert passed.json() == len(content)
    assert refused.status_code == 413


def test_a_client_that_stops_sending_is_let_go():
    async def stalled() -> AsyncIterator[bytes]:
        yield b"a few bytes"
        await asyncio.Event().wait()

    (response,) = call(Settings(upload_seconds=0.1), post(content=stalled()))
    assert (response.status_code, slug(response)) == (408, "too-slow")


def test_a_client_that_is_too_fast_waits():
    *passed, refused = call(Settings(rate=0.5, burst=3), *[post()] * 4)
    assert [response.status_code for response in passed] == [200] * 3
    assert (refused.status_code, slug(refused)) == (429, "slow-down")
    assert refused.headers["retry-after"] == "2"


def test_tokens_cannot_be_guessed_faster_than_the_rate():
    settings = Settings(token=TOKEN, rate=1.0, burst=3)
    guess = post(headers={"Authorization": "Bearer wrong"})
    assert [answer.status_code for answer in call(settings, *[guess] * 5)] == [401, 401, 401, 429, 429]


@pytest.mark.parametrize("origin", ["http://[", "null", "", "http://127.0.0.1:8000@elsewhere"])
def test_an_origin_that_is_no_address_is_foreign(origin: str):
    (answer,) = call(Settings(), post(headers={"Origin": origin}))
    assert (answer.status_code, slug(answer)) == (403, "foreign-origin")


def test_the_answer_to_a_client_that_went_away_is_no_error_of_ours():
    answer = Problem(499, "client-gone", "the client closed the connection").response()
    assert answer.status_code == 499
    assert b"Client Closed Request" in answer.body


def test_clients_that_went_away_are_counted():
    metrics = Metrics()

    async def leaves(scope: Scope, receive: Receive, send: Send) -> None:
        await Problem(499, "client-gone", "the client closed the connection").response()(scope, receive, send)

    TestClient(Monitoring(leaves, metrics)).post("/v1/colorize")
    assert b'chromaclick_clients_gone_total{route="other"} 1.0' in metrics.text()


def test_rates_are_of_each_client_and_fill_up_again():
    now = 0.0
    rates = RateLimit(2.0, 2, lambda: now)
    assert [rates.seconds_to_wait("one") for _ in range(3)] == [0, 0, 0.5]
    assert rates.seconds_to_wait("two") == 0
    now = 0.25
    assert rates.seconds_to_wait("one") == pytest.approx(0.25)
    now = 0.5
    assert [rates.seconds_to_wait("one") for _ in range(2)] == [0, 0.5]
    now = 1000.0
    assert [rates.seconds_to_wait("one") for _ in range(3)] == [0, 0, 0.5]


def test_rates_are_kept_of_a_bounded_number_of_clients():
    rates = RateLimit(1.0, 1)
    for number in range(10_050):
        assert rates.seconds_to_wait(str(number)) == 0
    assert len(rates._buckets) == 10_000


def test_all_addresses_of_an_ipv6_network_are_one_client():
    one, two, other = (
        {"client": (address, 1)} for address in ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1")
    )
    assert client_of(one) == client_of(two) != client_of(other)
    assert client_of({"client": ("192.0.2.7", 1)}) == "192.0.2.7"


def test_more_requests_under_way_than_allowed_are_told_to_come_back():
    async def story() -> None:
        entered, leave = asyncio.Event(), asyncio.Event()

        async def slow(scope, receive, send) -> None:
            entered.set()
            await leave.wait()

        gatekeeper = Gatekeeper(slow, Settings(most_requests=1))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(gatekeeper), base_url="http://127.0.0.1"
        ) as client:
            first = asyncio.create_task(client.get("/v1/echo"))
            await entered.wait()
            second = await client.get("/v1/echo")
            assert (second.status_code, slug(second), second.headers["retry-after"]) == (429, "overloaded", "1")
            leave.set()
            with pytest.raises(AssertionError):  # the made-up app answers nothing
                await first

    asyncio.run(asyncio.wait_for(story(), 120))
