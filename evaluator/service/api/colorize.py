"""Routes from clicks to colours: previews, suggestions, palettes, files."""

import asyncio
import base64
import time
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from evaluator.service.api.openapi import binary, problems
from evaluator.service.api.schemas import (
    Colorize,
    Colours,
    ColoursAt,
    Export,
    Heatmap,
    Palette,
    PaletteColour,
    PhotoId,
    Place,
    Suggest,
    SuggestedColour,
    Suggestions,
    Uncertainty,
)
from evaluator.service.api.state import (
    Coloured,
    Served,
    Service,
    full_pixel,
    picture,
    while_connected,
    working_pixel,
)
from evaluator.service.errors import Problem
from evaluator.service.images.store import StoredPhoto
from evaluator.service.inference import gamut, suggest
from evaluator.service.rendering import export
from evaluator.service.rendering.preview import encode_heatmap, encode_preview, encode_uncertainty

routes = APIRouter(prefix="/v1", tags=["colours"])
_FILE_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "tiff": "image/tiff"}


@routes.post(
    "/colorize",
    response_class=Response,
    responses={**binary("image/jpeg", "image/png", "image/webp"), **problems(404, 503)},
)
async def colorize(service: Served, request: Request, asked: Colorize) -> Response:
    """The photo coloured by all of its clicks, as a preview."""
    return await while_connected(request, _colorize(service, asked), service.settings.deadline_seconds)


async def _colorize(service: Service, asked: Colorize) -> Response:
    coloured = await service.colour(asked)
    started = time.perf_counter()
    content = await service.quick.run(encode_preview, coloured.photo, coloured.ab, asked.preview, asked.format)
    seconds = {**coloured.seconds, "encode": time.perf_counter() - started}
    timing = ", ".join(f"{name};dur={1000 * value:.1f}" for name, value in seconds.items())
    return picture(content, {**_made_by(coloured), "Server-Timing": timing})


def _made_by(coloured: Coloured) -> dict[str, str]:
    """Header value that names the network; headers take ASCII only, which a folder's name may not be."""
    return {"X-Colorizer": coloured.networks.colorizer.source.encode("ascii", "backslashreplace").decode()}


@routes.post("/suggest", responses=problems(404, 503))
async def suggest_places(service: Served, request: Request, asked: Suggest) -> Suggestions:
    """Where the next clicks help most, and plausible colours there."""
    return await while_connected(request, _suggest(service, asked), service.settings.deadline_seconds)


async def _suggest(service: Service, asked: Suggest) -> Suggestions:
    coloured = await service.colour(asked)
    photo, networks = coloured.photo, coloured.networks
    preview = await _data_url(service, coloured, asked.preview) if asked.preview else None
    avoid = [working_pixel(photo, at.row, at.col) for at in asked.avoid]
    found = await suggest.places(
        service.engine,
        photo.working,
        coloured.clicks,
        asked.places,
        coloured.ab,
        networks,
        avoid,
        coloured.features,
    )
    # At once, so that the networks may compute them together.
    colours = await asyncio.gather(
        *[_colours(service, coloured, one.row, one.col, asked.colours) for one in found]
    )
    places = [
        Place(row=row, col=col, probability=min(1.0, one.probability), colours=given)
        for one, given in zip(found, colours, strict=True)
        for row, col in [full_pixel(photo, one.row, one.col)]
    ]
    return Suggestions(
        guide=networks.guide.source, colorizer=networks.colorizer.source, places=places, preview=preview
    )


async def _data_url(service: Service, coloured: Coloured, long_side: int) -> str:
    content = await service.quick.run(encode_preview, coloured.photo, coloured.ab, long_side)
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


@routes.post("/colours", responses=problems(404, 503))
async def suggest_colours(service: Served, request: Request, asked: ColoursAt) -> Colours:
    """Plausible colours at one place."""

    async def work() -> Colours:
        coloured = await service.colour(asked)
        row, col = working_pixel(coloured.photo, asked.row, asked.col)
        return Colours(colours=await _colours(service, coloured, row, col, asked.colours))

    return await while_connected(request, work(), service.settings.deadline_seconds)


async def _colours(service: Service, coloured: Coloured, row: int, col: int, count: int) -> list[SuggestedColour]:
    """Suggested colours at a pixel of the working size."""
    working = coloured.photo.working
    found = await suggest.colours_at(
        service.engine,
        working,
        coloured.clicks,
        coloured.ab,
        row,
        col,
        count,
        networks=coloured.networks,
        features=coloured.features,
    )
    lightness = 100 * float(working[0, 0, row, col])
    return [_suggested(lightness, one.ab, one.probability) for one in found]


def _suggested(lightness: float, ab: Sequence[float], probability: float | None) -> SuggestedColour:
    a, b = (128 * float(value) for value in ab)
    lab = [round(value, 2) for value in (lightness, a, b)]
    return SuggestedColour(hex=gamut.hex_of(lightness, (ab[0], ab[1])), lab=lab, probability=probability)


@routes.post("/heatmap", response_class=Response, responses={**binary("image/png"), **problems(404, 503)})
async def heatmap(service: Served, request: Request, asked: Heatmap) -> Response:
    """Where clicks help, as a transparent picture to lay over the photo."""

    async def work() -> Response:
        coloured = await service.colour(asked)
        known = (coloured.photo.working, coloured.ab, coloured.clicks, coloured.networks, coloured.features)
        heat = await service.engine.score(*known)
        return picture(await service.quick.run(encode_heatmap, coloured.photo, heat, asked.size))

    return await while_connected(request, work(), service.settings.deadline_seconds)


@routes.post("/uncertainty", response_class=Response, responses={**binary("image/png"), **problems(404, 409, 503)})
async def show_uncertainty(service: Served, request: Request, asked: Uncertainty) -> Response:
    """Where the colorizer is unsure of the colours, as a transparent picture to lay over the photo.

    Its alpha is the entropy of the colour distribution, 255 where all colours are as likely. 409 where the
    colorizer is not a split one (`split` in `GET /v1/models`): others give no distribution.
    """

    async def work() -> Response:
        coloured = await service.colour(asked)
        if coloured.features is None:
            source = coloured.networks.colorizer.source
            detail = f"the colorizer {source} gives no distribution of colours; switch to a split one for this"
            raise Problem(409, "no-uncertainty", detail)
        unsure = suggest.uncertainty(coloured.features, *coloured.photo.working.shape[-2:])
        return picture(await service.quick.run(encode_uncertainty, coloured.photo, unsure, asked.size))

    return await while_connected(request, work(), service.settings.deadline_seconds)


@routes.get("/palette", responses=problems(404))
async def get_palette(
    service: Served,
    photo: Annotated[PhotoId | None, Query()] = None,
    row: Annotated[int | None, Query(ge=0)] = None,
    col: Annotated[int | None, Query(ge=0)] = None,
    lightness: Annotated[
        float | None, Query(ge=0, le=100, description="CIE L; or give photo, row and col")
    ] = None,
    step: Annotated[int, Query(ge=2, le=32, description="of the grid of a and b")] = 8,
) -> Palette:
    """Every colour that a screen can show at a lightness, or at the lightness of a place."""
    if lightness is None:
        if photo is None or row is None or col is None:
            detail = "lightness is missing, and so is one of photo, row, col; give lightness or all three"
            raise Problem(422, "invalid", detail)
        stored = await service.quick.run(service.store.get, photo)
        lightness = await service.quick.run(_lightness_at, stored, row, col)
    colours = await service.quick.run(gamut.in_gamut, lightness, step)
    return Palette(
        lightness=lightness, step=step, colours=[PaletteColour(a=a, b=b, hex=text) for a, b, text in colours]
    )


def _lightness_at(photo: StoredPhoto, row: int, col: int) -> float:
    small_row, small_col = working_pixel(photo, row, col)
    return 100 * float(photo.working[0, 0, small_row, small_col])


@routes.post("/export", response_class=Response, responses={**binary(*_FILE_TYPES.values()), **problems(404, 503)})
async def export_file(service: Served, request: Request, asked: Export) -> Response:
    """The photo coloured in full size, as a file."""
    return await while_connected(request, _export(service, asked), service.export_seconds)


async def _export(service: Service, asked: Export) -> Response:
    coloured = await service.colour(asked)
    content = await service.heavy.run(export.render, coloured.photo, coloured.ab, asked.format, asked.quality)
    ending = {"jpeg": "jpg", "tiff": "tif"}.get(asked.format, asked.format)
    headers = {
        "Content-Disposition": f'attachment; filename="coloured-{asked.photo[:12]}.{ending}"',
        **_made_by(coloured),
    }
    return Response(content, media_type=_FILE_TYPES[asked.format], headers=headers)
