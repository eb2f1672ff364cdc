"""`python -m evaluator serve`: the page and the API in one process."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro
import uvicorn
from fastapi import FastAPI

from evaluator.service.api.state import Service
from evaluator.service.app import create_app
from evaluator.service.settings import Settings, from_environment
from evaluator.system.threads import use_threads

_KEEP_ALIVE_SECONDS = 20
"""Longer than the pauses of a person who thinks about the next click."""


def main(words: Sequence[str]) -> int:
    """Serve until stopped.

    Raises:
        ValueError: a bad setting, an address that is taken, or no network is there; the message says what to do.
        OSError: the registry does not answer.
    """
    settings = tyro.cli(Settings, default=from_environment(), prog="python -m evaluator serve", args=list(words))
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    use_threads(settings.threads)
    run(create_app(settings), settings, announce)
    return 0


def announce(url: str, service: Service) -> None:
    """Print the link."""
    networks = service.engine.networks
    print(f"chromaclick with {networks.colorizer.source} and {networks.guide.source}: {url}", flush=True)


def run(app: FastAPI, settings: Settings, ready: Callable[[str, Service], None]) -> None:
    """Serve an app until SIGINT or SIGTERM; requests under way are answered first.

    Args:
        app: from `create_app`.
        settings: the same as the app's.
        ready: is called with the link once the networks are loaded and warmed.

    Raises:
        OSError: the address cannot be used.
        Exception: whatever kept the networks from being loaded.
    """
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # ours has the time and the size too
        server_header=False,
        proxy_headers=bool(settings.proxies),
        forwarded_allow_ips=settings.proxies or None,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_seconds)),
    )
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    server = _Server(config, service)
    # uvicorn takes the signal later, and raises it again once it has stopped: the default would end the process.
    before = signal.signal(signal.SIGTERM, lambda *_: setattr(server, "should_exit", True))
    try:
        with _listener(settings.host, settings.port) as listener:
            url = _url(settings.host, listener.getsockname()[1])
            server.ready = lambda: ready(url, service)
            server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)
    if service.failure is not None:
        raise service.failure


class _Server(uvicorn.Server):
    """Server that announces when the networks are ready, and ends when they cannot be loaded."""

    ready: Callable[[], None]

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._watching: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._watching = asyncio.create_task(self._watch())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._watching is not None:
            self._watching.cancel()
        await super().shutdown(sockets)

    async def _watch(self) -> None:
        await self._service.settled.wait()
        if self._service.failure is not None:
            self.should_exit = True
        else:
            self.ready()


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ValueError(f"cannot listen at {host}:{port} ({reason}); give another --port") from error


def _url(host: str, port: int) -> str:
    name: Any = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, host)
    return f"http://{f'[{name}]' if ':' in name else name}:{port}"
