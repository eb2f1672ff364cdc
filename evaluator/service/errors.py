"""Errors as RFC 9457 problem JSON: what, the value, what to do."""

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

MEDIA_TYPE = "application/problem+json"
TYPES = "https://chromaclick.invalid/problems/"
CLIENT_GONE = 499
"""nginx's status for a client that went away; it is in no standard, and nobody reads the answer."""
_MAX_ERRORS = 20


class Problem(HTTPException):
    """An error response. FastAPI passes an HTTPException on even from within the reading of a body."""

    def __init__(
        self,
        status: int,
        slug: str,
        detail: str,
        *,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        waiting = {} if retry_after is None else {"Retry-After": str(max(1, math.ceil(retry_after)))}
        super().__init__(status, detail, {**(headers or {}), **waiting})
        self.slug = slug
        self.errors = list(errors)

    def response(self) -> JSONResponse:
        """HTTP response of the problem."""
        content: dict[str, Any] = {
            "type": TYPES + self.slug,
            "title": _title(self.status_code),
            "status": self.status_code,
            "detail": self.detail,
        }
        if self.errors:
            content["errors"] = self.errors
        return JSONResponse(content, self.status_code, self.headers, MEDIA_TYPE)


def _title(status: int) -> str:
    """Title of a status."""
    return "Client Closed Request" if status == CLIENT_GONE else HTTPStatus(status).phrase


def overloaded(retry_after: float, what: str = "the service") -> Problem:
    """Problem for a full queue."""
    detail = f"{what} has as many requests as it can hold; try again in {max(1, math.ceil(retry_after))} s"
    return Problem(429, "overloaded", detail, retry_after=retry_after)


def install(app: FastAPI, known: Mapping[type[Exception], Any]) -> None:
    """Register problem JSON as the app's error format; `middleware.metrics` does so for unexpected errors.

    Args:
        app: to change.
        known: for each type of exception a function that makes its `Problem`.
    """

    async def answer(request: Request, error: Exception) -> JSONResponse:
        for kind, make in known.items():
            if isinstance(error, kind):
                return make(error).response()
        raise error

    for kind in known:
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(Problem, _as_it_is)
    app.add_exception_handler(HTTPException, _of_the_framework)
    app.add_exception_handler(RequestValidationError, _of_validation)


def unexpected() -> Problem:
    """Problem for an internal error; its trace is in the log, not in the answer."""
    return Problem(500, "internal", "the service failed here; its log has the reason: please report it")


async def _as_it_is(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return error.response()


async def _of_the_framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    known = {
        404: ("not-found", f"there is nothing at {where}; /openapi.json lists what there is"),
        405: ("method-not-allowed", f"{where} is not offered; allowed: {(error.headers or {}).get('Allow', '-')}"),
        400: ("bad-request", f"{where}: {error.detail}; /openapi.json says what is expected"),
    }
    slug, detail = known.get(error.status_code, ("http", f"{where}: {error.detail}"))
    return Problem(error.status_code, slug, detail, headers=error.headers).response()


async def _of_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"where": ".".join(map(str, one["loc"])), "what": one["msg"], "value": _short(one.get("input"))}
        for one in error.errors()[:_MAX_ERRORS]
    ]
    first = errors[0]
    detail = f"{first['where']} is {first['value']}: {first['what']}; /openapi.json says what is expected"
    return Problem(422, "invalid", detail, errors=errors).response()


def _short(value: object) -> str:
    """A value as text of some 80 characters at most, in ASCII."""
    text = f"of type {type(value).__name__}" if isinstance(value, dict | list | bytes) else ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
