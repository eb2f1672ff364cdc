"""Access checks of every request (host, origin, rate, token, size) and security headers of every response.

Plain ASGI: nothing here reads a body into memory.
"""

import asyncio
import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evaluator.service.errors import Problem, overloaded
from evaluator.service.settings import Settings

UPLOAD_PATH = "/v1/photos"
MAX_JSON_BYTES = 4 * 2**20
_FORM_BYTES = 2**16
"""Of a multipart body beside its file."""
UPLOADS_PER_WORKER = 4
"""Uploads at once for each process that parses: every one may hold its file in memory."""
_MAX_CLIENTS = 10_000
_SAFE = ("GET", "HEAD", "OPTIONS")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "font-src 'self'; manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class SecurityHeaders:
    """Middleware that adds security headers; responses are not cached unless their route says so."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Gatekeeper:
    """Middleware that refuses foreign hosts and origins, missing tokens, and requests beyond the limits."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._rates = RateLimit(settings.rate, settings.burst)
        self._under_way = self._uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a problem."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if refusal := self._refusal(scope):
            return await refusal.response()(scope, receive, send)
        upload = _is_upload(scope)
        self._under_way += 1
        self._uploads += upload
        try:
            return await self._app(scope, receive, send)
        finally:
            self._under_way -= 1
            self._uploads -= upload

    def _refusal(self, scope: Scope) -> Problem | None:
        settings, path, headers = self._settings, scope["path"], Headers(scope=scope)
        if path in ("/healthz", "/readyz"):
            return None
        problem = _wrong_host(headers, settings) or _foreign_origin(scope["method"], headers, settings)
        if problem is None and path.startswith(("/v1", "/metrics")):  # first, so that no token is guessed
            problem = self._too_fast(scope)
        if problem is None and settings.token and path.startswith(("/v1", "/metrics")):
            problem = _wrong_token(headers.get("authorization", ""), settings.token)
        if problem is None and self._under_way >= settings.most_requests:
            problem = overloaded(1.0)
        if problem is None and _is_upload(scope) and self._uploads >= UPLOADS_PER_WORKER * settings.upload_workers:
            problem = overloaded(1.0, "the upload queue")
        return problem

    def _too_fast(self, scope: Scope) -> Problem | None:
        seconds = self._rates.seconds_to_wait(client_of(scope))
        if not seconds:
            return None
        detail = (
            f"more than {self._settings.rate:g} requests/s came from your address; try again in {seconds:.1f} s"
        )
        return Problem(429, "slow-down", detail, retry_after=seconds)


def _is_upload(scope: Scope) -> bool:
    return scope["path"] == UPLOAD_PATH and scope["method"] == "POST"


class RateLimit:
    """Token bucket for each client; the least recently seen clients are forgotten."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def seconds_to_wait(self, client: str) -> float:
        """0 for a request that may proceed, which is counted; else the time to wait."""
        if not self._rate:
            return 0.0
        now = self._clock()
        left, before = self._buckets.pop(client, (float(self._burst), now))
        left = min(self._burst, left + (now - before) * self._rate)
        allowed = left >= 1
        self._buckets[client] = (left - 1 if allowed else left, now)
        if len(self._buckets) > _MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._rate


class BodyLimit:
    """Middleware that aborts a request whose body is too large or arrives too slowly."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._upload = settings.most_upload_bytes + _FORM_BYTES
        self._pause = settings.upload_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; reading its body raises the problem."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        most = self._upload if scope["path"] == UPLOAD_PATH else MAX_JSON_BYTES
        announced = Headers(scope=scope).get("content-length", "0")
        if not announced.isdecimal() or int(announced) > most:
            return await _too_large(most).response()(scope, receive, send)
        return await self._app(scope, _limited(receive, most, self._pause), send)


def _limited(receive: Receive, most: int, pause: float) -> Receive:
    """A `receive` that raises a Problem after `most` bytes, or `pause` seconds without any."""
    taken, complete = 0, False

    async def limited() -> Message:
        nonlocal taken, complete
        if complete:  # what comes now is the end of the connection, however late
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), pause)
        except TimeoutError:
            detail = f"no byte of the body came for {pause:g} s; send it again"
            raise Problem(408, "too-slow", detail, headers={"Connection": "close"}) from None
        if message["type"] == "http.request":
            taken += len(message.get("body", b""))
            complete = not message.get("more_body", False)
        if taken > most:
            raise _too_large(most)
        return message

    return limited


def _too_large(most: int) -> Problem:
    detail = f"the body has more than {most} bytes; send a smaller photo or fewer clicks"
    return Problem(413, "too-large", detail, headers={"Connection": "close"})


def client_of(scope: Scope) -> str:
    """Client of a request: its IPv4 address, or its IPv6 network, in which a client has many addresses."""
    host = (scope.get("client") or ("unknown",))[0]
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return str(IPv6Address(int(address) >> 64 << 64)) if isinstance(address, IPv6Address) else host


def _wrong_host(headers: Headers, settings: Settings) -> Problem | None:
    allowed = settings.allowed_hosts
    host = _without_port(headers.get("host", ""))
    if not allowed or host in allowed:
        return None
    return Problem(421, "wrong-host", f"this service is not {ascii(host)[:80]}; --hosts says what it is called")


def _without_port(host: str) -> str:
    return host.rpartition(":")[0] if ":" in host.rpartition("]")[2] else host


def _foreign_origin(method: str, headers: Headers, settings: Settings) -> Problem | None:
    """Problem for an unsafe request of another web site, whose forms browsers send without asking first."""
    origin = headers.get("origin")
    if method in _SAFE or origin is None or origin in settings.origins:
        return None
    if origin.partition("://")[2] == headers.get("host"):
        return None
    return Problem(403, "foreign-origin", f"{ascii(origin)[:80]} may not call this service; --origins allows it")


def _wrong_token(authorization: str, token: str) -> Problem | None:
    kind, _, given = authorization.partition(" ")
    if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode()):
        return None
    what = "is wrong" if authorization else "is missing"
    detail = f"the bearer token {what}; send the header Authorization: Bearer TOKEN"
    return Problem(401, "token-needed", detail, headers={"WWW-Authenticate": "Bearer"})
