"""Routes from clicks to colors: previews, suggestions, palettes, files."""

import asyncio
import base64
import time
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from evaluator.service.api.openapi import binary, problems
from evaluator.service.api.schemas import (
    Colorize,
    Colors,
    ColorsAt,
    Export,
    Heatmap,
    Palette,
    PaletteColor,
    PhotoId,
    Place,
    Suggest,
    SuggestedColor,
    Suggestions,
    Uncertainty,
)
from evaluator.service.api.state import (
    Colored,
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
    """The photo colored by all of its clicks, as a preview."""
    return await while_connected(request, _colorize(service, asked), service.settings.deadline_seconds)


async def _colorize(service: Service, asked: Colorize) -> Response:
    colored = await service.color(asked)
    started = time.perf_counter()
    content = await service.quick.run(encode_preview, colored.photo, colored.ab, asked.preview, asked.format)
    seconds = {**colored.seconds, "encode": time.perf_counter() - started}
    timing = ", ".join(f"{name};dur={1000 * value:.1f}" for name, value in seconds.items())
    return picture(content, {**_made_by(colored), "Server-Timing": timing})


def _made_by(colored: Colored) -> dict[str, str]:
    """Header value that names the network; headers take ASCII only, which a folder's name may not be."""
    return {"X-Colorizer": colored.networks.colorizer.source.encode("ascii", "backslashreplace").decode()}


@routes.post("/suggest", responses=problems(404, 503))
async def suggest_places(service: Served, request: Request, asked: Suggest) -> Suggestions:
    """Where the next clicks help most, and plausible colors there."""
    return await while_connected(request, _suggest(service, asked), service.settings.deadline_seconds)


async def _suggest(service: Service, asked: Suggest) -> Suggestions:
    colored = await service.color(asked)
    photo, networks = colored.photo, colored.networks
    preview = await _data_url(service, colored, asked.preview) if asked.preview else None
    avoid = [working_pixel(photo, at.row, at.col) for at in asked.avoid]
    found = await suggest.places(
        service.engine,
        photo.working,
        colored.clicks,
        asked.places,
        colored.ab,
        networks,
        avoid,
        colored.features,
    )
    # At once, so that the networks may compute them together.
    colours = await asyncio.gather(*[_colors(service, colored, one.row, one.col, asked.colours) for one in found])
    places = [
        Place(row=row, col=col, probability=min(1.0, one.probability), colours=given)
        for one, given in zip(found, colours, strict=True)
        for row, col in [full_pixel(photo, one.row, one.col)]
    ]
    return Suggestions(
        guide=networks.guide.source, colorizer=networks.colorizer.source, places=places, preview=preview
    )


async def _data_url(service: Service, colored: Colored, long_side: int) -> str:
    content = await service.quick.run(encode_preview, colored.photo, colored.ab, long_side)
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


@routes.post("/colours", responses=problems(404, 503))
async def suggest_colors(service: Served, request: Request, asked: ColorsAt) -> Colors:
    """Plausible colors at one place."""

    async def work() -> Colors:
        colored = await service.color(asked)
        row, col = working_pixel(colored.photo, asked.row, asked.col)
        return Colors(colours=await _colors(service, colored, row, col, asked.colours))

    return await while_connected(request, work(), service.settings.deadline_seconds)


async def _colors(service: Service, colored: Colored, row: int, col: int, count: int) -> list[SuggestedColor]:
    """Suggested colors at a pixel of the working size."""
    working = colored.photo.working
    found = await suggest.colors_at(
        service.engine,
        working,
        colored.clicks,
        colored.ab,
        row,
        col,
        count,
        networks=colored.networks,
        features=colored.features,
    )
    lightness = 100 * float(working[0, 0, row, col])
    return [_suggested(lightness, one.ab, one.probability) for one in found]


def _suggested(lightness: float, ab: Sequence[float], probability: float | None) -> SuggestedColor:
    a, b = (128 * float(value) for value in ab)
    lab = [round(value, 2) for value in (lightness, a, b)]
    return SuggestedColor(hex=gamut.hex_of(lightness, (ab[0], ab[1])), lab=lab, probability=probability)


@routes.post("/heatmap", response_class=Response, responses={**binary("image/png"), **problems(404, 503)})
async def heatmap(service: Served, request: Request, asked: Heatmap) -> Response:
    """Where clicks help, as a transparent picture to lay over the photo."""

    async def work() -> Response:
        colored = await service.color(asked)
        known = (colored.photo.working, colored.ab, colored.clicks, colored.networks, colored.features)
        heat = await service.engine.score(*known)
        return picture(await service.quick.run(encode_heatmap, colored.photo, heat, asked.size))

    return await while_connected(request, work(), service.settings.deadline_seconds)


@routes.post("/uncertainty", response_class=Response, responses={**binary("image/png"), **problems(404, 409, 503)})
async def show_uncertainty(service: Served, request: Request, asked: Uncertainty) -> Response:
    """Where the colorizer is unsure of the colors, as a transparent picture to lay over the photo.

    Its alpha is the entropy of the color distribution, 255 where all colors are as likely. 409 where the
    colorizer is not a split one (`split` in `GET /v1/models`): others give no distribution.
    """

    async def work() -> Response:
        colored = await service.color(asked)
        if colored.features is None:
            source = colored.networks.colorizer.source
            detail = f"the colorizer {source} gives no distribution of colours; switch to a split one for this"
            raise Problem(409, "no-uncertainty", detail)
        unsure = suggest.uncertainty(colored.features, *colored.photo.working.shape[-2:])
        return picture(await service.quick.run(encode_uncertainty, colored.photo, unsure, asked.size))

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
    """Every color that a screen can show at a lightness, or at the lightness of a place."""
    if lightness is None:
        if photo is None or row is None or col is None:
            detail = "lightness is missing, and so is one of photo, row, col; give lightness or all three"
            raise Problem(422, "invalid", detail)
        stored = await service.quick.run(service.store.get, photo)
        lightness = await service.quick.run(_lightness_at, stored, row, col)
    colours = await service.quick.run(gamut.in_gamut, lightness, step)
    return Palette(
        lightness=lightness, step=step, colours=[PaletteColor(a=a, b=b, hex=text) for a, b, text in colours]
    )


def _lightness_at(photo: StoredPhoto, row: int, col: int) -> float:
    small_row, small_col = working_pixel(photo, row, col)
    return 100 * float(photo.working[0, 0, small_row, small_col])


@routes.post("/export", response_class=Response, responses={**binary(*_FILE_TYPES.values()), **problems(404, 503)})
async def export_file(service: Served, request: Request, asked: Export) -> Response:
    """The photo colored in full size, as a file."""
    return await while_connected(request, _export(service, asked), service.export_seconds)


async def _export(service: Service, asked: Export) -> Response:
    colored = await service.color(asked)
    content = await service.heavy.run(export.render, colored.photo, colored.ab, asked.format, asked.quality)
    ending = {"jpeg": "jpg", "tiff": "tif"}.get(asked.format, asked.format)
    headers = {
        "Content-Disposition": f'attachment; filename="coloured-{asked.photo[:12]}.{ending}"',
        **_made_by(colored),
    }
    return Response(content, media_type=_FILE_TYPES[asked.format], headers=headers)
