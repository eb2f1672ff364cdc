"""Routes of photos: upload, grey and reference pictures, samples."""

import logging
from typing import Annotated, Literal

from fastapi import APIRouter, File, Form, Path, Query, Response, UploadFile
from fastapi.responses import JSONResponse

from evaluator.service.api.openapi import binary, problems
from evaluator.service.api.schemas import Photo, PhotoId, Sample, Size
from evaluator.service.api.state import Served, picture
from evaluator.service.errors import Problem
from evaluator.service.images import samples
from evaluator.service.images.store import PhotoMissing, PhotoStore, StoredPhoto, photo_id
from evaluator.service.rendering.preview import encode_grey, encode_reference

_log = logging.getLogger("chromaclick")
routes = APIRouter(prefix="/v1", tags=["photos"])
AnyId = Annotated[PhotoId, Path()]
LongSide = Annotated[int, Query(ge=16, le=1024, description="longest long side, in pixels")]
_IMMUTABLE = {"Cache-Control": "private, max-age=3600"}
"""An id is a hash of the content, so what it stands for never changes."""


@routes.post(
    "/photos", status_code=201, response_model=Photo, responses={200: {"model": Photo}, **problems(408, 415, 503)}
)
async def send_photo(
    service: Served,
    file: Annotated[UploadFile, File(description="JPEG, PNG, WebP, TIFF or HEIC")],
    keep_colours: Annotated[
        Literal["true", "false"], Form(description="keep its colours as a reference")
    ] = "false",
) -> Response:
    """Send a photo. Colors are dropped unless asked for; the same file again is answered with 200."""
    kept = keep_colours == "true"
    data = await file.read()
    known = await service.quick.run(_known, service.store, data, kept)
    if known is not None:
        return JSONResponse(_described(known).model_dump(), 200)
    try:
        stored = await service.uploads.parse_into(service.store, data, kept)
    except OSError as error:
        _log.error("a photo cannot be stored: %s", error)
        raise Problem(503, "store-full", "the service cannot store photos now; tell who runs it") from error
    return JSONResponse(_described(stored).model_dump(), 201)


@routes.get("/photos/{photo}", responses=problems(404))
async def get_photo(service: Served, photo: AnyId) -> Photo:
    """Whether the service still has a photo."""
    return _described(await service.quick.run(service.store.get, photo))


@routes.get(
    "/photos/{photo}/grey",
    response_class=Response,
    responses={**binary("image/jpeg", "image/png"), **problems(404)},
)
async def get_grey(service: Served, photo: AnyId, size: LongSide = 1024) -> Response:
    """The photo without colors."""
    stored = await service.quick.run(service.store.get, photo)
    content = await service.quick.run(encode_grey, stored, size)
    return picture(content, _IMMUTABLE)


@routes.get(
    "/photos/{photo}/reference",
    response_class=Response,
    responses={**binary("image/jpeg", "image/png"), **problems(404)},
)
async def get_reference(service: Served, photo: AnyId, size: LongSide = 1024) -> Response:
    """The photo's own colors, where they were kept."""
    stored = await service.quick.run(service.store.get, photo)
    if not stored.colours_kept:
        raise Problem(
            404, "no-colours", f"photo {photo[:12]} was sent without keep_colours; send it again with it"
        )
    content = await service.quick.run(encode_reference, stored, size)
    return picture(content, _IMMUTABLE)


@routes.get("/samples", responses=problems())
async def get_samples(service: Served) -> list[Sample]:
    """Photos to try, from scikit-image."""
    return [Sample.model_validate(about) for about in await service.quick.run(samples.listed)]


@routes.get(
    "/samples/{name}", response_class=Response, responses={**binary("image/jpeg", "image/png"), **problems(404)}
)
async def get_sample(service: Served, name: Annotated[str, Path(pattern="^[a-z0-9_-]{1,40}$")]) -> Response:
    """One of them."""
    return picture(await service.quick.run(samples.read, name), _IMMUTABLE)


def _known(store: PhotoStore, data: bytes, kept: bool) -> StoredPhoto | None:
    try:
        return store.get(photo_id(data, kept))
    except PhotoMissing:
        return None


def _described(photo: StoredPhoto) -> Photo:
    height, width = photo.working.shape[-2:]
    return Photo(
        id=photo.id,
        width=photo.width,
        height=photo.height,
        grey=photo.grey,
        working=Size(width=width, height=height),
        colours_kept=photo.colours_kept,
    )
