"""Batches: results in a zip, errors by item, cancelling, and going on after the process has died."""

import asyncio
import fcntl
import zipfile
from pathlib import Path

import pytest

from evaluator.service.api import jobs as jobs_module
from evaluator.service.api.jobs import Jobs
from evaluator.service.api.schemas import Batch, Clicked, JobState, Project, ProjectItem
from evaluator.service.errors import Problem, overloaded

IDS = [f"{number:064x}" for number in range(1, 5)]
BATCH = Batch(items=[Clicked(photo=photo) for photo in IDS[:3]], format="jpeg")


class Painter:
    """Renders a photo as its id; waits for `leave` at the photo `stops_at`."""

    def __init__(self, stops_at: str = "") -> None:
        self.stops_at, self.entered, self.leave = stops_at, asyncio.Event(), asyncio.Event()
        self.seen: list[Clicked] = []

    async def render(self, asked: Clicked, batch: Batch) -> bytes:
        if asked.photo == self.stops_at:
            self.entered.set()
            await self.leave.wait()
        self.seen.append(asked)
        return asked.photo.encode()


async def finished(jobs: Jobs, job: str) -> JobState:
    await asyncio.gather(*jobs._tasks.values())
    return jobs.state(job)


def contents(path: Path) -> list[bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return [archive.read(name) for name in sorted(archive.namelist())]


def test_a_batch_becomes_a_zip_with_a_file_for_each_photo(tmp_path: Path):
    async def story() -> None:
        jobs = Jobs(tmp_path, Painter().render, 2)
        jobs.start()
        job = (await jobs.create(BATCH)).job
        state = jobs.state(job)
        assert (state.state, state.done, state.total) == ("queued", 0, 3)
        with pytest.raises(Problem, match="the job is queued"):
            jobs.result(job)
        state = await finished(jobs, job)
        assert (state.state, state.done, state.errors) == ("done", 3, [])
        assert contents(jobs.result(job)) == [photo.encode() for photo in IDS[:3]]
        jobs.remove(job)
        with pytest.raises(Problem, match="there is no job"):
            jobs.state(job)
        assert not any(tmp_path.iterdir())

    asyncio.run(asyncio.wait_for(story(), 120))


def test_a_project_is_colored_by_its_own_clicks(tmp_path: Path):
    click = {"row": 1, "col": 2, "colour": {"hex": "#102030"}, "size": 3, "locked": True}
    photo = {"id": IDS[0], "name": "cat.jpg", "width": 4, "height": 4}
    project = {"format": "chromaclick-project", "version": 1, "photo": photo, "clicks": [click]}

    async def story() -> None:
        painter = Painter()
        jobs = Jobs(tmp_path, painter.render, 2)
        job = (await jobs.create(Batch(items=[ProjectItem(project=Project.model_validate(project))]))).job
        assert (await finished(jobs, job)).state == "done"
        (seen,) = painter.seen
        assert seen.photo == IDS[0]
        assert (seen.clicks[0].row, seen.clicks[0].col, seen.clicks[0].size) == (1, 2, 3)

    asyncio.run(asyncio.wait_for(story(), 120))


def test_a_photo_that_fails_is_named_and_the_others_are_made(tmp_path: Path):
    async def render(asked: Clicked, batch: Batch) -> bytes:
        if asked.photo == IDS[1]:
            raise Problem(404, "photo-missing", "it is gone; send it again")
        return b"file"

    async def story() -> None:
        jobs = Jobs(tmp_path, render, 2)
        job = (await jobs.create(BATCH)).job
        state = await finished(jobs, job)
        assert (state.state, state.done) == ("done", 3)
        assert state.errors == ["item 1: it is gone; send it again"]
        assert contents(jobs.result(job)) == [b"file"] * 2

    asyncio.run(asyncio.wait_for(story(), 120))


def test_a_batch_without_any_result_has_failed(tmp_path: Path):
    async def render(asked: Clicked, batch: Batch) -> bytes:
        raise Problem(404, "photo-missing", "gone")

    async def story() -> None:
        jobs = Jobs(tmp_path, render, 2)
        job = (await jobs.create(BATCH)).job
        state = await finished(jobs, job)
        assert (state.state, len(state.errors)) == ("failed", 3)
        with pytest.raises(Problem, match="the job is failed"):
            jobs.result(job)

    asyncio.run(asyncio.wait_for(story(), 120))


def test_an_error_of_ours_fails_the_job_and_says_where_the_reason_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async def render(asked: Clicked, batch: Batch) -> bytes:
        raise ZeroDivisionError("secret")

    async def story() -> None:
        jobs = Jobs(tmp_path, render, 2)
        state = await finished(jobs, (await jobs.create(BATCH)).job)
        assert state.state == "failed"
        assert "ZeroDivisionError" in state.errors[0]
        assert "secret" not in state.errors[0]

    asyncio.run(asyncio.wait_for(story(), 120))
    assert "secret" in caplog.text


def test_while_the_service_is_busy_a_batch_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    refusals, waits = [1.0, 2.0], []

    async def render(asked: Clicked, batch: Batch) -> bytes:
        if refusals:
            raise overloaded(refusals.pop(0))
        return b"file"

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def story() -> None:
        monkeypatch.setattr(jobs_module.asyncio, "sleep", sleep)
        jobs = Jobs(tmp_path, render, 2)
        state = await finished(jobs, (await jobs.create(BATCH)).job)
        assert (state.state, state.errors) == ("done", [])
        assert waits == [1.0, 2.0]

    asyncio.run(asyncio.wait_for(story(), 120))


def test_a_cancelled_batch_ends_at_the_next_photo(tmp_path: Path):
    async def story() -> None:
        painter = Painter(stops_at=IDS[1])
        jobs = Jobs(tmp_path, painter.render, 2)
        job = (await jobs.create(BATCH)).job
        await painter.entered.wait()
        jobs.remove(job)
        assert jobs.state(job).state == "cancelled"
        painter.leave.set()
        state = await finished(jobs, job)
        assert (state.state, state.done) == ("cancelled", 2)
        assert not (tmp_path / job / "results").exists()

    asyncio.run(asyncio.wait_for(story(), 120))


def test_one_batch_too_many_is_told_to_come_back(tmp_path: Path):
    async def story() -> None:
        painter = Painter(stops_at=IDS[0])
        jobs = Jobs(tmp_path, painter.render, 2)
        await jobs.create(BATCH)
        await jobs.create(BATCH)
        with pytest.raises(Problem) as refused:
            await jobs.create(BATCH)
        assert refused.value.status_code == 429
        await painter.entered.wait()
        painter.leave.set()
        await asyncio.gather(*jobs._tasks.values())
        await jobs.create(BATCH)
        await jobs.close()

    asyncio.run(asyncio.wait_for(story(), 120))


def test_only_the_latest_finished_batches_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs_module, "KEPT", 2)

    async def story() -> None:
        jobs = Jobs(tmp_path, Painter().render, 2)
        made = []
        for _ in range(4):
            made.append((await jobs.create(BATCH)).job)
            await finished(jobs, made[-1])
        assert {folder.name for folder in tmp_path.iterdir()} == set(made[1:])

    asyncio.run(asyncio.wait_for(story(), 120))


def test_finished_batches_leave_where_they_take_too_much(tmp_path: Path):
    async def story() -> None:
        jobs = Jobs(tmp_path, Painter().render, 2, most_bytes=1500)  # a result has 700 bytes
        made = []
        for _ in range(4):
            made.append((await jobs.create(BATCH)).job)
            await finished(jobs, made[-1])
        sizes = [jobs.result(job).stat().st_size for job in made[1:]]
        assert max(sizes) * 2 <= 1500 < sum(sizes)
        assert {folder.name for folder in tmp_path.iterdir()} == set(made[1:])

    asyncio.run(asyncio.wait_for(story(), 120))


def test_the_next_process_goes_on_where_the_first_was_stopped(tmp_path: Path):
    async def first() -> str:
        painter = Painter(stops_at=IDS[1])
        jobs = Jobs(tmp_path, painter.render, 2)
        job = (await jobs.create(BATCH)).job
        await painter.entered.wait()
        await jobs.close()
        assert [asked.photo for asked in painter.seen] == IDS[:1]
        return job

    async def second(job: str) -> None:
        painter = Painter()
        jobs = Jobs(tmp_path, painter.render, 2)
        jobs.start()
        state = await finished(jobs, job)
        assert (state.state, state.done) == ("done", 3)
        assert [asked.photo for asked in painter.seen] == IDS[1:3]
        assert contents(jobs.result(job)) == [photo.encode() for photo in IDS[:3]]

    asyncio.run(asyncio.wait_for(second(asyncio.run(asyncio.wait_for(first(), 120))), 120))


def test_a_batch_that_another_process_runs_is_left_to_it(tmp_path: Path):
    async def story() -> None:
        painter = Painter(stops_at=IDS[0])
        jobs = Jobs(tmp_path, painter.render, 2)
        job = (await jobs.create(BATCH)).job
        await jobs.close()
        with (tmp_path / job / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            other = Painter()
            there = Jobs(tmp_path, other.render, 2)
            assert (await finished(there, job)).state == "queued"
            await asyncio.gather(*there._tasks.values())
            assert not other.seen
        there.state(job)  # the lock is free now: as after the death of its process
        assert (await finished(there, job)).state == "done"

    asyncio.run(asyncio.wait_for(story(), 120))


def test_a_process_that_died_at_the_very_end_costs_no_result(tmp_path: Path):
    async def first() -> str:
        jobs = Jobs(tmp_path, Painter().render, 2)
        job = (await jobs.create(BATCH)).job
        await finished(jobs, job)
        return job

    async def second(job: str) -> None:
        state = JobState(job=job, state="running", done=3, total=3, errors=[])
        (tmp_path / job / "state.json").write_text(state.model_dump_json())
        jobs = Jobs(tmp_path, Painter().render, 2)
        jobs.start()
        assert (await finished(jobs, job)).state == "done"
        assert len(contents(jobs.result(job))) == 3

    asyncio.run(asyncio.wait_for(second(asyncio.run(asyncio.wait_for(first(), 120))), 120))


def test_a_cancelled_batch_keeps_no_place_in_the_queue(tmp_path: Path):
    async def story() -> None:
        painter = Painter(stops_at=IDS[0])
        jobs = Jobs(tmp_path, painter.render, 2)
        await jobs.create(BATCH)
        waiting = (await jobs.create(BATCH)).job
        jobs.remove(waiting)
        assert jobs.state(waiting).state == "cancelled"
        await jobs.create(BATCH)
        await jobs.close()
        jobs.remove(waiting)  # nobody works on it any more
        assert not (tmp_path / waiting).exists()

    asyncio.run(asyncio.wait_for(story(), 120))


def test_trouble_of_ours_with_one_photo_costs_that_photo(tmp_path: Path):
    class Troubled(Painter):
        async def render(self, asked: Clicked, batch: Batch) -> bytes:
            if asked.photo == IDS[1]:
                raise OSError("the disk is on fire")
            return await super().render(asked, batch)

    async def story() -> None:
        jobs = Jobs(tmp_path, Troubled().render, 2)
        state = await finished(jobs, (await jobs.create(BATCH)).job)
        assert (state.state, len(state.errors)) == ("done", 1)
        assert state.errors[0].startswith("item 1: the service failed at this photo (OSError)")
        assert contents(jobs.result(state.job)) == [IDS[0].encode(), IDS[2].encode()]

    asyncio.run(asyncio.wait_for(story(), 120))


def test_a_job_that_cannot_be_read_stops_no_other(tmp_path: Path):
    broken = tmp_path / ("0" * 32)
    broken.mkdir()
    (broken / "state.json").write_text("{}")

    async def story() -> None:
        jobs = Jobs(tmp_path, Painter().render, 1)
        jobs.start()
        with pytest.raises(Problem, match="there is no job"):
            jobs.state(broken.name)
        assert (await finished(jobs, (await jobs.create(BATCH)).job)).state == "done"

    asyncio.run(asyncio.wait_for(story(), 120))


def test_jobs_may_vanish_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    """Another client removes every job, each time just after its state was read."""
    read = jobs_module._read

    def read_and_lose(folder: Path) -> JobState | None:
        state = read(folder)
        jobs_module._take_away(folder)
        return state

    async def story() -> None:
        jobs = Jobs(tmp_path, Painter().render, 1)
        first = (await jobs.create(BATCH)).job
        await finished(jobs, first)
        running = (await jobs.create(BATCH)).job
        with monkeypatch.context() as patch:
            patch.setattr(jobs_module, "_read", read_and_lose)
            assert jobs._all() == []
            await asyncio.gather(*jobs._tasks.values())
        with pytest.raises(Problem, match="there is no job"):
            jobs.state(running)

    asyncio.run(asyncio.wait_for(story(), 120))
    assert not caplog.records


@pytest.mark.parametrize("job", ["..", "../photos", "0" * 31, "0" * 32, "A" * 32])
def test_ids_cannot_name_paths(tmp_path: Path, job: str):
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(Problem, match="there is no job"):
        Jobs(tmp_path / "jobs", Painter().render, 1).state(job)
