"""Request log, and metrics for Prometheus."""

import logging
import time
from urllib.parse import quote

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evaluator.service.errors import CLIENT_GONE, unexpected
from evaluator.service.middleware.security import client_of

METRICS_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
_log = logging.getLogger("chromaclick.requests")


class Metrics:
    """Prometheus metrics of the service, in a separate registry so that several apps can share a process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self.requests = Counter(
            "chromaclick_requests", "Requests answered.", ["route", "method", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "chromaclick_request_seconds",
            "From a request's head to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.gone = Counter(
            "chromaclick_clients_gone",
            "Requests whose client closed the connection before the answer.",
            ["route"],
            registry=self._registry,
        )
        self.under_way = Gauge("chromaclick_requests_under_way", "Requests under way.", registry=self._registry)

    def text(self) -> bytes:
        """All metrics in Prometheus' format."""
        return generate_latest(self._registry)


class Monitoring:
    """Middleware that counts, times and logs every request, and answers 500 for unexpected errors."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = time.perf_counter()
        status = sent = 0

        async def counted(message: Message) -> None:
            nonlocal status, sent
            status = message.get("status", status)
            sent += len(message.get("body", b""))
            await send(message)

        self._metrics.under_way.inc()
        try:
            return await self._app(scope, receive, counted)
        except Exception:
            if not status:
                await unexpected().response()(scope, receive, counted)
            raise  # the server logs the trace
        finally:
            self._metrics.under_way.dec()
            self._done(scope, status, sent, time.perf_counter() - started)

    def _done(self, scope: Scope, status: int, sent: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.requests.labels(route, method, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if status == CLIENT_GONE:
            self._metrics.gone.labels(route).inc()
        level = logging.DEBUG if route in ("/healthz", "/readyz", "/metrics") else logging.INFO
        # Quoted: a path may contain a line break, which would forge a line of the log.
        path = quote(scope["path"], safe="/")[:200]
        _log.log(level, "%s %s %s %.0f ms %d B %s", method, path, status, 1000 * seconds, sent, client_of(scope))
