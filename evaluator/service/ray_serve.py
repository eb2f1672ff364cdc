"""The service as replicas on a Ray cluster: `python -m evaluator.service.ray_serve --replicas 2`.

Every replica is the same app as that of `python -m evaluator serve`, with networks, batching and limits of its
own. They share the folder of the store, so any of them answers for any photo and any job; on several machines it
has to be on a disk that all of them see. The only module of the evaluator that uses Ray.

A replica that dies takes the requests with it that it was working on: they are answered by 500 and worth sending
again, which changes nothing but the answer, as the server keeps no session. All others wait for another replica.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import ray
import tyro
from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig, HTTPOptions
from starlette.types import ASGIApp, Receive, Scope, Send

from evaluator.service.api.state import Service
from evaluator.service.app import create_app
from evaluator.service.errors import Problem
from evaluator.service.inference.engine import Engine
from evaluator.service.settings import Settings, from_environment
from evaluator.system.threads import use_threads

NAME = "chromaclick"
"""Of the application and its deployment in Ray."""
MakeEngine = Callable[[Settings], Engine]
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # they would use the network
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # Ray's own 5 s are too short for a busy machine
}
_HEALTH_SECONDS = 5.0
_RETRY_AFTER_SECONDS = 1.0
_LONGEST = 12
"""Deadlines that a request may take; exports wait for 6 of them, and the app has to be the one that answers."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Serve the page and the API from replicas on a Ray cluster.

    Raises:
        ValueError: a value that cannot work; the message names the flag.
    """

    replicas: int = 1
    """Replicas, or the fewest of them where --most-replicas is larger."""
    most_replicas: int = 0
    """Replicas under load; 0: always --replicas."""
    requests_each: float = 4.0
    """Requests under way in each replica that autoscaling aims at."""
    most_queued: int = 64
    """Requests that wait for a replica at each address; more are answered by 429 with Retry-After."""
    cpus: float = 1.0
    """CPU cores that Ray sets aside for each replica; its networks use as many threads where --threads is 0."""
    address: str = ""
    """Ray cluster to join, such as auto; default: one is started on this machine, and ended with the command."""
    service: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)
    """Settings of each replica."""

    def __post_init__(self) -> None:
        for name, least in (("replicas", 1), ("requests_each", 0.1), ("most_queued", 0), ("cpus", 0.1)):
            if not getattr(self, name) >= least:
                flag = "--" + name.replace("_", "-")
                raise ValueError(f"{flag} is {getattr(self, name)}; it must be at least {least}")
        if not self.service.port:
            raise ValueError("--port is 0; replicas share one address, so name a port, such as 8000")
        if self.service.proxies:
            raise ValueError(
                f"--proxies is {self.service.proxies}; Ray does not read X-Forwarded-For, so all clients of a "
                "proxy would count as one: leave it out, limit rates at the proxy, and give --rate 0"
            )
        if self.most_replicas and self.most_replicas < self.replicas:
            raise ValueError(
                f"--most-replicas is {self.most_replicas}; it must be at least --replicas, {self.replicas}, or 0"
            )


@serve.ingress()
class Replica:
    """Process with the app; Ray sends it requests only once its networks are warm."""

    def __init__(self, settings: Settings, make_engine: MakeEngine | None = None) -> None:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        use_threads(settings.threads)
        self._settings, self._make_engine = settings, make_engine
        self._service: Service | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The app; Ray runs its lifespan."""
        app = create_app(self._settings, self._make_engine(self._settings) if self._make_engine else None)
        app.add_middleware(SwitchByAlias, refresh_seconds=self._settings.refresh_seconds)
        self._service = app.state.service
        return app

    async def check_health(self) -> None:
        """Ray's first call waits here until the networks are warm; a replica that fails is replaced.

        Raises:
            Problem: 503, the networks could not be loaded.
        """
        assert self._service is not None
        await self._service.settled.wait()
        self._service.check_ready()


class SwitchByAlias:
    """Middleware that refuses `PUT /v1/models`, which would change one replica alone."""

    def __init__(self, app: ASGIApp, refresh_seconds: float) -> None:
        self._app, self._refresh_seconds = app, refresh_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http" and (scope["method"], scope["path"]) == ("PUT", "/v1/models"):
            detail = (
                "one of several replicas cannot change the networks of all; move the alias in the registry, which "
                f"each of them looks up every {self._refresh_seconds:g} s"
            )
            return await Problem(409, "replicas", detail).response()(scope, receive, send)
        return await self._app(scope, receive, send)


def application(scale: Scale, make_engine: MakeEngine | None = None) -> serve.Application:
    """Ray Serve application for `serve.run`.

    Args:
        scale: how many, and their settings.
        make_engine: what makes a replica's engine, such as one with made-up networks in tests; default: the app's.
    """
    settings = replica_settings(scale)
    deployment = serve.deployment(
        name=NAME,
        # More would wait in one replica while another is idle.
        max_ongoing_requests=settings.most_waiting,
        max_queued_requests=scale.most_queued,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=_RETRY_AFTER_SECONDS),
        ray_actor_options={"num_cpus": scale.cpus},
        health_check_period_s=_HEALTH_SECONDS,
        health_check_timeout_s=settings.deadline_seconds + _HEALTH_SECONDS,
        graceful_shutdown_timeout_s=settings.shutdown_seconds,
        **_replicas(scale),
    )
    return deployment(Replica).bind(settings, make_engine)


def replica_settings(scale: Scale) -> Settings:
    """Settings of a replica: absolute paths, as its working directory is Ray's, and threads for its cores."""
    settings = scale.service
    return replace(
        settings,
        threads=settings.threads or max(1, round(scale.cpus)),
        work=settings.work.resolve(),
        store=str(settings.store_folder.resolve()),
        registry=settings.tracking_uri,
    )


def _replicas(scale: Scale) -> dict[str, Any]:
    if scale.most_replicas <= scale.replicas:
        return {"num_replicas": scale.replicas}
    autoscaling = AutoscalingConfig(
        min_replicas=scale.replicas,
        initial_replicas=scale.replicas,
        max_replicas=scale.most_replicas,
        target_ongoing_requests=scale.requests_each,
    )
    return {"autoscaling_config": autoscaling}


def start(scale: Scale, make_engine: MakeEngine | None = None, **ray_options: Any) -> str:
    """Join or start Ray, start the replicas, and wait until they are warm.

    Args:
        scale: how many, and their settings.
        make_engine: see `application`.
        ray_options: more arguments of `ray.init`.

    Returns:
        The service's address.

    Raises:
        RuntimeError: the replicas cannot start, such as without a trained network; Ray's message has the reason.
        ConnectionError: there is no cluster at that address.
    """
    settings = scale.service
    for name, value in _ENVIRONMENT.items():  # Ray's processes inherit it
        os.environ.setdefault(name, value)
    local = {} if scale.address else {"include_dashboard": False}
    ray.init(address=scale.address or "local", **{**local, **ray_options})
    seconds = _LONGEST * settings.deadline_seconds
    serve.start(http_options=HTTPOptions(host=settings.host, port=settings.port, request_timeout_s=seconds))
    serve.run(application(scale, make_engine), name=NAME, route_prefix="/")
    return f"http://{settings.host}:{settings.port}"


def stop() -> None:
    """Stop the replicas, and Ray where `start` started it; requests in progress are answered first."""
    if ray.is_initialized():
        serve.shutdown()
        ray.shutdown()


def main(words: Sequence[str]) -> int:
    """Serve until SIGINT or SIGTERM."""
    default = Scale(service=from_environment())
    scale = tyro.cli(Scale, default=default, prog="python -m evaluator.service.ray_serve", args=list(words))
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        print(f"{NAME} with {scale.replicas} replicas: {start(scale)}", flush=True)
        stopped.wait()
    finally:
        stop()
    return 0


if __name__ == "__main__":
    from evaluator.service.ray_serve import main as _main  # so that replicas import the module by its name

    sys.exit(_main(sys.argv[1:]))
