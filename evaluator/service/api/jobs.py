"""Batch jobs over many photos, kept in files so that any replica on the same disk can answer.

A job is a folder with its request, its state and its results. Whoever runs it holds a lock on it; the system frees
the lock when that process dies, and the next one that is asked about the job goes on where it stopped.
"""

import asyncio
import fcntl
import json
import logging
import re
import secrets
import shutil
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evaluator.service.api.schemas import Batch, Clicked, Job, JobState, OfProject, ProjectItem
from evaluator.service.errors import Problem, overloaded
from evaluator.system.files import write_atomically

Render = Callable[[Clicked, Batch], Awaitable[bytes]]
"""One photo of a batch as a file."""
KEPT = 16
"""Finished jobs that are kept; older ones are removed."""
MAX_BYTES = 2**30
"""Largest result."""
_PATIENCE = 60
"""Tries to get a photo's turn while people use the service."""
_FINISHED = ("done", "failed", "cancelled")
RESULT_FILE = "result.zip"
_log = logging.getLogger("chromaclick")


class Jobs:
    """Batch jobs of a folder; each process works on one photo at a time, after interactive requests."""

    def __init__(self, folder: Path, render: Render, most_unfinished: int, most_bytes: int = 2**32) -> None:
        self._folder, self._render, self._most = folder, render, most_unfinished
        self._most_bytes = most_bytes
        self._turn = asyncio.Lock()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Resume the jobs that a process left when it ended."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for folder, state in self._all():
            if state.state not in _FINISHED:
                self._continue(folder.name)

    async def close(self) -> None:
        """Stop; another process, or the next start, resumes the jobs."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def create(self, batch: Batch) -> Job:
        """Accept a batch.

        Raises:
            Problem: 429, too many are unfinished.
        """
        job = await asyncio.to_thread(self._enqueue, batch)
        self._continue(job)
        return Job(job=job)

    def state(self, job: str) -> JobState:
        """Progress of a job; resumes it where its process has died.

        Raises:
            Problem: 404, there is no such job.
        """
        state = self._existing(job)
        if state.state in _FINISHED:
            return state
        if _cancelled(self._folder / job):
            return state.model_copy(update={"state": "cancelled"})
        self._continue(job)
        return state

    def result(self, job: str) -> Path:
        """The zip file of a finished job.

        Raises:
            Problem: 404, there is no such job, or 409, it has no result (yet).
        """
        state = self.state(job)
        if state.state != "done":
            raise Problem(409, "no-result", f"the job is {state.state}; its result is there once it is done")
        return self._folder / job / RESULT_FILE

    def remove(self, job: str) -> None:
        """Cancel a job, or remove a finished one.

        Raises:
            Problem: 404, there is no such job.
        """
        folder = self._folder / job
        if self._existing(job).state in _FINISHED or _is_cancelled_and_idle(folder):
            _take_away(folder)
        else:
            (folder / "cancel").touch()

    def _enqueue(self, batch: Batch) -> str:
        jobs = self._all()
        waiting = [folder for folder, state in jobs if state.state not in _FINISHED and not _cancelled(folder)]
        if len(waiting) >= self._most:
            raise overloaded(30.0, "the batch queue")
        self._forget_old([folder for folder, state in jobs if state.state in _FINISHED])
        job = secrets.token_hex(16)
        write_atomically(self._folder / job / "request.json", batch.model_dump_json().encode())
        state = JobState(job=job, state="queued", done=0, total=len(batch.items), errors=[])
        _write(self._folder / job, state)
        return job

    def _forget_old(self, finished: list[Path]) -> None:
        """Remove old jobs beyond the limits of number and size, never the newest."""
        total = 0
        for number, folder in enumerate(reversed(finished)):
            with suppress(FileNotFoundError):
                total += (folder / RESULT_FILE).stat().st_size
            if number >= KEPT or (number and total > self._most_bytes):
                _take_away(folder)

    def _existing(self, job: str) -> JobState:
        state = _read(self._folder / job) if re.fullmatch(r"[0-9a-f]{32}", job) else None
        if state is None:
            raise Problem(404, "job-missing", f"there is no job {ascii(job)[:40]}; send the batch again")
        return state

    def _all(self) -> list[tuple[Path, JobState]]:
        """Folders of jobs with their states, oldest first; others may remove some meanwhile."""
        found: list[tuple[float, Path, JobState]] = []
        for file in self._folder.glob("*/state.json"):
            state = _read(file.parent)
            with suppress(FileNotFoundError):
                if state is not None:
                    found.append((file.stat().st_mtime, file.parent, state))
        return [(folder, state) for _, folder, state in sorted(found, key=lambda one: one[0])]

    def _continue(self, job: str) -> None:
        if job in self._tasks:
            return
        task = asyncio.create_task(self._run(self._folder / job))
        self._tasks[job] = task
        task.add_done_callback(lambda _: self._tasks.pop(job))

    async def _run(self, folder: Path) -> None:
        try:
            with _owned(folder) as mine:
                if mine:
                    async with self._turn:
                        await self._work(folder)
        except FileNotFoundError:
            if folder.exists():
                raise
            # It was removed meanwhile.

    async def _work(self, folder: Path) -> None:
        state = _read(folder)
        if state is None or state.state in _FINISHED:  # by another process, just now
            return
        try:
            await self._all_items(folder, state)
        except Exception as error:
            _log.exception("job %s failed", folder.name)
            state.errors.append(f"the service failed at this job ({type(error).__name__}); its log has the reason")
            _finish(folder, state, "failed")

    async def _all_items(self, folder: Path, state: JobState) -> None:
        if (folder / RESULT_FILE).exists():  # its process died between the last two steps
            return _finish(folder, state, "done")
        batch = Batch.model_validate_json((folder / "request.json").read_text())
        state.state = "running"
        for number in range(state.done, state.total):
            if _cancelled(folder):
                return _finish(folder, state, "cancelled")
            if error := await self._one(folder, batch, number):
                state.errors.append(f"item {number}: {error}")
            state.done = number + 1
            _write(folder, state)
        results = sorted((folder / "results").glob("*.*"))
        if not results:
            return _finish(folder, state, "failed")
        await asyncio.to_thread(_zip, results, folder / RESULT_FILE)
        return _finish(folder, state, "done")

    async def _one(self, folder: Path, batch: Batch, number: int) -> str | None:
        """Write one photo's file, or record why there is none."""
        item = _item(batch, number)
        results = folder / "results"
        if sum(file.stat().st_size for file in results.glob("*.*")) > MAX_BYTES:
            return f"the result has more than {MAX_BYTES >> 20} MiB already; send fewer photos"
        try:
            content = await self._patiently(item, batch)
        except Problem as problem:
            return str(problem.detail)
        except Exception as error:  # one photo's trouble is not the others'
            _log.exception("job %s failed at item %d", folder.name, number)
            return f"the service failed at this photo ({type(error).__name__}); its log has the reason"
        file = results / f"{number:03d}-{item.photo[:12]}.{batch.format}"
        await asyncio.to_thread(write_atomically, file, content)
        return None

    async def _patiently(self, item: Clicked, batch: Batch) -> bytes:
        for _ in range(_PATIENCE):
            try:
                return await self._render(item, batch)
            except Problem as problem:
                if problem.status_code not in (429, 503):
                    raise
                await asyncio.sleep(float((problem.headers or {}).get("Retry-After", 1)))
        raise overloaded(60.0)


def _item(batch: Batch, number: int) -> Clicked:
    item = batch.items[number]
    if not isinstance(item, ProjectItem):
        return item
    photo, clicks = item.project.photo, list(item.project.clicks)
    return OfProject.model_construct(photo=photo.id, clicks=clicks, width=photo.width, height=photo.height)


def _finish(folder: Path, state: JobState, how: str) -> None:
    _write(folder, state.model_copy(update={"state": how}))
    shutil.rmtree(folder / "results", ignore_errors=True)


def _cancelled(folder: Path) -> bool:
    return (folder / "cancel").exists()


def _is_cancelled_and_idle(folder: Path) -> bool:
    """Whether a job was cancelled and no process works on it that would have to notice."""
    if not _cancelled(folder):
        return False
    with _owned(folder) as mine:
        return mine


def _take_away(folder: Path) -> None:
    """Hide a job's folder in one step, so that nobody finds half a job."""
    grave = folder.with_name(f".removed-{folder.name}")
    with suppress(FileNotFoundError):
        folder.rename(grave)
        shutil.rmtree(grave, ignore_errors=True)


def _read(folder: Path) -> JobState | None:
    """State of a job; None where there is none or it is unreadable."""
    try:
        return JobState(**json.loads((folder / "state.json").read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        _log.error("the job in %s cannot be read and is left alone: %s", folder, error)
        return None


def _write(folder: Path, state: JobState) -> None:
    write_atomically(folder / "state.json", state.model_dump_json().encode())


def _zip(files: list[Path], target: Path) -> None:
    """Zip of the files, uncompressed: photos are compressed already."""
    temporary = target.with_suffix(".part")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            archive.write(file, file.name)
    temporary.replace(target)


@contextmanager
def _owned(folder: Path) -> Iterator[bool]:
    """Lock of the process that runs the job; yields whether it was free."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
