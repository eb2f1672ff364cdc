"""Routes of the service itself: networks, health, metrics, page."""

from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse

from evaluator.service.api.openapi import binary, problems
from evaluator.service.api.schemas import Alive, Models, Switch
from evaluator.service.api.state import Served
from evaluator.service.errors import Problem
from evaluator.service.middleware.metrics import METRICS_TYPE

STATIC = Path(__file__).parent.parent / "static"
routes = APIRouter(tags=["service"])


@routes.get("/v1/models", responses=problems(503))
async def get_models(service: Served) -> Models:
    """The networks at work."""
    service.check_ready()
    return Models(**service.engine.describe())


@routes.put("/v1/models", responses=problems(409, 503))
async def switch_models(service: Served, asked: Switch) -> Models:
    """Load other networks, warm them, and take them in one step; requests under way keep the old ones."""
    settings = service.settings
    if not settings.token and not settings.anybody_may_switch:
        detail = "changing networks needs a token; start the service with CHROMACLICK_TOKEN or --allow-switch yes"
        raise Problem(403, "token-needed", detail)
    service.check_ready()
    try:
        await service.engine.switch(asked.colorizer, asked.guide)
    except (ValueError, ConnectionError) as error:
        raise Problem(422, "no-such-network", str(error)) from error
    return Models(**service.engine.describe())


@routes.get("/healthz")
async def healthz() -> Alive:
    """Whether the process runs."""
    return Alive()


@routes.get("/readyz", responses=problems(503))
async def readyz(service: Served) -> Alive:
    """Whether the networks are loaded and warmed."""
    service.check_ready()
    return Alive()


@routes.get("/metrics", response_class=Response, responses=binary(METRICS_TYPE))
async def metrics(service: Served) -> Response:
    """Figures for Prometheus."""
    return Response(service.metrics.text(), media_type=METRICS_TYPE)


@routes.get("/", include_in_schema=False)
async def page() -> Response:
    """The page."""
    return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})
