"""The service as an ASGI app, `create_app(settings)`; `serve.py` runs it, `ray_serve.py` replicates it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from evaluator.service.api import admin, batch, colorize, photos
from evaluator.service.api.openapi import document
from evaluator.service.api.state import KNOWN, Service
from evaluator.service.errors import install
from evaluator.service.inference.engine import Engine
from evaluator.service.middleware.metrics import Monitoring
from evaluator.service.middleware.security import BodyLimit, Gatekeeper, SecurityHeaders
from evaluator.service.settings import Settings

_log = logging.getLogger("chromaclick")


class _Static(StaticFiles):
    """Static files of the page, always whole and revalidated on every load, so that an update is seen at once."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer without looking at Range, as a server may: Starlette answers a bad one in plain text."""
        headers = [(name, value) for name, value in scope["headers"] if name not in (b"range", b"if-range")]
        await super().__call__({**scope, "headers": headers}, receive, send)

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = "no-cache"
        response.headers["Accept-Ranges"] = "none"
        return response


def create_app(settings: Settings, engine: Engine | None = None) -> FastAPI:
    """Create the app; its networks are loaded in the background once it runs (`/readyz`).

    Args:
        settings: see there.
        engine: networks to use, such as made-up ones in tests; default: those that the settings name.
    """
    service = Service(settings, engine or _engine(settings))
    app = FastAPI(
        title="chromaclick",
        version="1",
        description="Colour photos from clicks. Errors are RFC 9457 problem JSON.",
        lifespan=_lifespan,
        docs_url=None,  # it would load scripts of another site
        redoc_url=None,
    )
    app.state.service = service
    for part in (photos, colorize, batch, admin):
        app.include_router(part.routes)
    app.mount("/static", _Static(directory=admin.STATIC))
    document(app)
    install(app, KNOWN)
    # The last one added is the first that sees a request.
    app.add_middleware(BodyLimit, settings=settings)
    app.add_middleware(Gatekeeper, settings=settings)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["X-Colorizer", "Server-Timing", "Retry-After"],
        )
    app.add_middleware(Monitoring, metrics=service.metrics)
    app.add_middleware(SecurityHeaders)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    loading = asyncio.create_task(_start(service))
    try:
        yield
    finally:
        loading.cancel()
        with suppress(asyncio.CancelledError):
            await loading
        await service.close()


async def _start(service: Service) -> None:
    try:
        await service.start()
    except Exception as error:
        _log.error("the networks could not be loaded: %s", error)


def _engine(settings: Settings) -> Engine:
    return Engine(
        colorizer=settings.colorizer,
        guide=settings.guide,
        tracking_uri=settings.tracking_uri,
        working_size=settings.working_size,
        most_batch=settings.most_batch,
        most_waiting=settings.most_waiting,
        deadline_seconds=settings.deadline_seconds,
        refresh_seconds=settings.refresh_seconds,
        runtimes=settings.runtimes,
        cache=settings.store_folder / "runtimes",
        embeddings_mib=settings.embeddings_mib,
    )
