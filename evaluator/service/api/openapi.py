"""OpenAPI additions to what FastAPI derives: problem responses and binary responses."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from evaluator.service.api.schemas import ProblemBody
from evaluator.service.errors import MEDIA_TYPE

Responses = dict[int | str, dict[str, Any]]
_REFERENCE = {"$ref": "#/components/schemas/ProblemBody"}
_WHY = {
    400: "the body cannot be read",
    401: "the bearer token is missing or wrong",
    403: "not allowed",
    404: "there is no such thing; send the photo again",
    408: "the body came too slowly",
    409: "not now",
    413: "too many bytes or pixels",
    415: "not a photo",
    421: "the service is not called so",
    422: "a value that cannot be",
    429: "too many requests: try again after Retry-After seconds",
    503: "not ready: the networks are not loaded yet, or the disk is full",
}
_ANYWHERE = (400, 401, 403, 413, 421, 422, 429)


def problems(*statuses: int) -> Responses:
    """Problem responses of a route, beside those of every route."""
    content = {MEDIA_TYPE: {"schema": _REFERENCE}}
    return {status: {"description": _WHY[status], "content": content} for status in (*_ANYWHERE, *statuses)}


def binary(*media_types: str) -> Responses:
    """Responses of a route that answers with a file."""
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in media_types}
    return {200: {"description": "the file", "content": content}}


def document(app: FastAPI) -> None:
    """Add the schema of problems to the app's OpenAPI; no route returns it by type."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas["ProblemBody"] = ProblemBody.model_json_schema()
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi
