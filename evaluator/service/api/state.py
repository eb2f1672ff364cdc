"""What the routes share: from a photo's id and clicks to colors, off the event loop, with bounded waiting."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Response
from torch import Tensor
from torch.nn.functional import avg_pool2d

from evaluator.registry import session
from evaluator.registry.contract import FEATURE_CELL
from evaluator.service.api.jobs import Jobs
from evaluator.service.api.schemas import Batch, Click, Clicked, OfProject
from evaluator.service.errors import CLIENT_GONE, Problem, overloaded
from evaluator.service.images.decode import Broken, Limits, NotAPhoto, TooLarge
from evaluator.service.images.samples import SampleMissing
from evaluator.service.images.store import PhotoMissing, PhotoStore, StoredPhoto
from evaluator.service.images.upload import UploadWorkers
from evaluator.service.inference.batcher import Shared
from evaluator.service.inference.click_map import PlacedClick, click_map
from evaluator.service.inference.engine import Engine
from evaluator.service.inference.gamut import ab_of
from evaluator.service.inference.networks import Networks
from evaluator.service.inference.tensor_cache import TensorCache
from evaluator.service.middleware.metrics import Metrics
from evaluator.service.rendering import export
from evaluator.service.settings import Settings
from evaluator.system.threads import Overloaded, Workers

Answer = TypeVar("Answer")
KNOWN: Mapping[type[Exception], Callable[[Any], Problem]] = {
    TooLarge: lambda error: Problem(413, "too-large", str(error)),
    NotAPhoto: lambda error: Problem(415, "not-a-photo", str(error)),
    Broken: lambda error: Problem(422, "broken", str(error)),
    SampleMissing: lambda error: Problem(404, "not-found", str(error)),
    PhotoMissing: lambda error: Problem(404, "photo-missing", str(error)),
    Overloaded: lambda error: overloaded(error.retry_after, error.what),
}
"""Errors of the modules below that a client can do something about, as answers."""
MAX_CELLS = 2048
"""Cells that clicks may cover: at 256 px the attention to them takes 170 MB for each of a few tensors."""
_REMEMBERED_MIB = 64
"""Memory for colorings: at 256 px each takes up to 0.5 MiB, with a split colorizer's features 2 MiB."""


@dataclass(frozen=True, kw_only=True)
class Colored:
    """A photo with its clicks and the colors that the network gave it, at the working size."""

    photo: StoredPhoto
    clicks: Tensor
    """(1,3,h,w)."""
    ab: Tensor
    """(1,2,h,w), CIE / 128."""
    features: Tensor | None
    """(1,c,h/4,w/4) of the padded photo, of a split colorizer: what heads read that go with these colors."""
    networks: Networks
    """The pair that did it, for what is asked of it next."""
    seconds: dict[str, float]
    """Of each part of the work."""


class Service:
    """The photos, the networks and the threads of one process."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings, self.engine, self.metrics = settings, engine, Metrics()
        limits = Limits(
            most_bytes=settings.most_upload_bytes,
            most_pixels=settings.most_pixels,
            seconds=settings.upload_seconds,
        )
        self.store = PhotoStore(settings.store_folder / "photos", settings.store_mib << 20, settings.working_size)
        self.uploads = UploadWorkers(limits, settings.upload_workers)
        self.quick = Workers(
            "the preview queue", 2, settings.most_waiting, settings.deadline_seconds, one_core=True
        )
        self.export_seconds = 6 * settings.deadline_seconds
        """Longest time for a file in full size, with its wait."""
        self.heavy = Workers("the export queue", 1, 4, self.export_seconds)
        self.jobs = Jobs(
            settings.store_folder / "jobs", self._render, settings.most_jobs, settings.store_mib << 20
        )
        self.failure: Exception | None = None
        """Why the networks could not be loaded."""
        self.settled = asyncio.Event()
        """Set once the networks are loaded, or `failure` is."""
        self._remembered: TensorCache[session.Colored] = TensorCache(_REMEMBERED_MIB << 20)
        self._shared: Shared[session.Colored] = Shared()

    async def start(self) -> None:
        """Load and warm the networks; `failure` is set where that is impossible."""
        try:
            await self.uploads.start()
            await self.engine.start()
        except Exception as error:
            self.failure = error
            raise
        finally:
            self.settled.set()
        self.jobs.start()

    async def close(self) -> None:
        """Stop everything that runs."""
        await self.jobs.close()
        await self.engine.close()
        await self.uploads.close()
        for workers in (self.quick, self.heavy):
            await asyncio.to_thread(workers.close)

    def check_ready(self) -> None:
        """Raise a Problem, 503, while the networks are not loaded and warmed."""
        if self.failure is not None:
            raise Problem(503, "no-networks", f"the networks could not be loaded: {self.failure}")
        if not self.engine.ready:
            detail = "the networks are being loaded and warmed; try again in 2 s"
            raise Problem(503, "not-ready", detail, retry_after=2.0)

    async def color(self, asked: Clicked, keep: bool = True) -> Colored:
        """Colors of a photo for the clicks that a client sent.

        Args:
            asked: the photo and its clicks.
            keep: whether somebody works on this photo, so that more questions about it are likely. What is kept of
                others, a batch's, would push out the photos that people have open.
        """
        self.check_ready()
        started = time.perf_counter()
        photo, clicks = await self.quick.run(self._prepare, asked.photo, asked.clicks)
        prepared = time.perf_counter()
        networks = self.engine.networks
        key = (networks.colorizer, photo.id, asked.model_dump_json(include={"clicks"}))
        found = self._remembered.get(key)
        if found is None:
            # The page may ask for a preview, a heat map and suggestions at the same time.
            found = await self._shared.run(key, lambda: self.engine.look(photo.working, clicks, networks, keep))
            if keep:
                self._remembered.put(key, found)
        seconds = {"prepare": prepared - started, "network": time.perf_counter() - prepared}
        return Colored(
            photo=photo, clicks=clicks, ab=found.ab, features=found.features, networks=networks, seconds=seconds
        )

    def _prepare(self, photo_id: str, clicks: Sequence[Click]) -> tuple[StoredPhoto, Tensor]:
        photo = self.store.get(photo_id)
        height, width = photo.working.shape[-2:]
        hint_size = self.engine.hint_size
        placed = [
            PlacedClick(
                *working_pixel(photo, click.row, click.col, number), ab_of(click.colour), click.size or hint_size
            )
            for number, click in enumerate(clicks)
        ]
        clicks_here = click_map(placed, height, width)
        if self.engine.networks.colorizer.split is not None:
            check_cells(clicks_here)
        return photo, clicks_here

    async def _render(self, asked: Clicked, batch: Batch) -> bytes:
        try:
            if isinstance(asked, OfProject):
                _check_size(await self.quick.run(self.store.get, asked.photo), asked)
            colored = await self.color(asked, keep=False)
            return await self.heavy.run(export.render, colored.photo, colored.ab, batch.format, batch.quality)
        except tuple(KNOWN) as error:
            raise next(make(error) for kind, make in KNOWN.items() if isinstance(error, kind)) from error


def check_cells(clicks: Tensor) -> None:
    """Refuse clicks that cover so much that a split colorizer's attention to them would not fit into memory."""
    covered = int((avg_pool2d(clicks[:, :1], FEATURE_CELL, ceil_mode=True) > 0).sum())
    if covered > MAX_CELLS:
        detail = (
            f"the clicks cover {covered} cells of {FEATURE_CELL} x {FEATURE_CELL} working pixels, "
            f"and {MAX_CELLS} are the most; send fewer or smaller clicks"
        )
        raise Problem(422, "too-many-clicks", detail)


def _check_size(photo: StoredPhoto, asked: OfProject) -> None:
    if (photo.width, photo.height) != (asked.width, asked.height):
        detail = (
            f"the project is of a photo of {asked.width} x {asked.height} pixels, and this one has "
            f"{photo.width} x {photo.height}; save the project again"
        )
        raise Problem(422, "other-size", detail)


def working_pixel(photo: StoredPhoto, row: int, col: int, number: int | None = None) -> tuple[int, int]:
    """Where a pixel of the photo lies at the working size.

    Raises:
        Problem: 422, outside the photo.
    """
    if not (row < photo.height and col < photo.width):
        what = "the place" if number is None else f"click {number}"
        detail = (
            f"{what} is at row {row}, column {col}; the photo has {photo.height} rows and {photo.width} columns"
        )
        raise Problem(422, "outside", detail)
    height, width = photo.working.shape[-2:]
    return row * height // photo.height, col * width // photo.width


def full_pixel(photo: StoredPhoto, row: int, col: int) -> tuple[int, int]:
    """The middle one of a photo's pixels that lie at a pixel of the working size."""
    height, width = photo.working.shape[-2:]
    return _middle(row, height, photo.height), _middle(col, width, photo.width)


def _middle(small: int, small_side: int, side: int) -> int:
    first, beyond = -(-small * side // small_side), -(-(small + 1) * side // small_side)
    return (first + beyond - 1) // 2


def picture(content: bytes, headers: Mapping[str, str] | None = None) -> Response:
    """A picture as an answer; its first bytes tell its type."""
    kinds = {b"\xff\xd8": "image/jpeg", b"\x89P": "image/png", b"RI": "image/webp"}
    return Response(content, media_type=kinds[content[:2]], headers=dict(headers or {}))


async def _service(request: Request) -> Service:
    return request.app.state.service


Served = Annotated[Service, Depends(_service)]
"""Argument of a route: the app's service."""


async def while_connected(request: Request, work: Awaitable[Answer], seconds: float) -> Answer:
    """Await work, and cancel it when the client goes away or waited long enough: nobody's work is not done.

    Raises:
        Problem: 429 after so many seconds; or 499, which nobody reads, the client went away.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait([task, gone], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and not gone.done():
            raise overloaded(seconds)
        if not task.done():
            raise Problem(CLIENT_GONE, "client-gone", "the client closed the connection")
        return await task
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
