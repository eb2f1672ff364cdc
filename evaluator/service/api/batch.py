"""Routes of batch jobs."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Path, Response
from fastapi.responses import FileResponse

from evaluator.service.api.openapi import binary, problems
from evaluator.service.api.schemas import Batch, Job, JobId, JobState
from evaluator.service.api.state import Served

routes = APIRouter(prefix="/v1/batch", tags=["batches"])
AnyJob = Annotated[JobId, Path()]


@routes.post("", status_code=202, responses=problems(503))
async def create_batch(service: Served, asked: Batch) -> Job:
    """Color many photos, with clicks or project files; photos are sent before."""
    service.check_ready()
    return await service.jobs.create(asked)


@routes.get("/{job}", responses=problems(404))
async def get_batch(service: Served, job: AnyJob) -> JobState:
    """How far it is."""
    return service.jobs.state(job)


@routes.get(
    "/{job}/result", response_class=Response, responses={**binary("application/zip"), **problems(404, 409)}
)
async def get_result(service: Served, job: AnyJob) -> FileResponse:
    """All files in a zip, once it is done."""
    path = service.jobs.result(job)
    return FileResponse(path, media_type="application/zip", filename=f"coloured-{job[:12]}.zip")


@routes.delete("/{job}", status_code=204, response_class=Response, responses=problems(404))
async def delete_batch(service: Served, job: AnyJob) -> None:
    """Cancel it, or remove what it made."""
    await asyncio.to_thread(service.jobs.remove, job)
