import asyncio
import io
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from PIL import Image

from evaluator.service.images import upload
from evaluator.service.images.decode import Broken, Limits, NotAPhoto, TooLarge, parse
from evaluator.service.images.store import PhotoStore, photo_id
from evaluator.service.images.upload import UploadWorkers
from evaluator.system.threads import Overloaded

pytestmark = pytest.mark.launch

FRAGILE = (sys.executable, "-m", "tests.evaluator.service.fragile_parser")


@pytest.fixture
def store(tmp_path: Path) -> PhotoStore:
    return PhotoStore(tmp_path, 2**24, 64)


@asynccontextmanager
async def fragile(monkeypatch: pytest.MonkeyPatch, seconds: float = 60.0, **more) -> AsyncIterator[UploadWorkers]:
    monkeypatch.setattr(upload, "COMMAND", FRAGILE)
    workers = UploadWorkers(Limits(seconds=seconds), **{"workers": 1, **more})
    try:
        yield workers
    finally:
        await workers.close()


def test_an_upload_is_stored_as_it_is_parsed(store: PhotoStore, picture: Callable[..., bytes]):
    data = picture(2, 300, 200)

    async def run() -> None:
        workers = UploadWorkers(Limits(), 1)
        try:
            await workers.start()
            stored = await workers.parse_into(store, data, True)
            again = await workers.parse_into(store, data, False)
        finally:
            await workers.close()
        expected = parse(data, Limits(), True)
        assert (stored.full_lightness() == expected.lightness).all()
        assert (stored.reference() == expected.colours).all()
        assert stored.id == photo_id(data, True)
        assert again.id == photo_id(data, False)
        assert not again.colours_kept

    asyncio.run(asyncio.wait_for(run(), 120))


def test_bad_files_are_told_apart_and_the_worker_goes_on(store, picture, monkeypatch):
    async def run() -> None:
        async with fragile(monkeypatch) as workers:
            with pytest.raises(NotAPhoto, match="send JPEG"):
                await workers.parse_into(store, b"hello", False)
            with pytest.raises(Broken, match="save it again"):
                await workers.parse_into(store, picture(0)[:900], False)
            with pytest.raises(Broken, match="ZeroDivisionError"):
                await workers.parse_into(store, b"surprise", False)
            with pytest.raises(NotAPhoto, match="printed something first"):
                await workers.parse_into(store, b"print", False)
            with pytest.raises(TooLarge, match="memory"):
                await workers.parse_into(store, b"memory", False)
            process = workers._parsers[0]._process
            assert (await workers.parse_into(store, picture(0), False)).width == 96
            assert workers._parsers[0]._process is process

    asyncio.run(asyncio.wait_for(run(), 120))


def test_a_worker_that_dies_is_replaced_and_the_next_upload_works(store, picture, monkeypatch):
    async def run() -> None:
        async with fragile(monkeypatch) as workers:
            with pytest.raises(Broken, match="crashed"):
                await workers.parse_into(store, b"die", False)
            assert (await workers.parse_into(store, picture(0), False)).width == 96

    asyncio.run(asyncio.wait_for(run(), 120))


def test_a_worker_that_hangs_is_killed_and_the_next_upload_works(store, picture, monkeypatch):
    async def run() -> None:
        async with fragile(monkeypatch, seconds=3.0) as workers:
            await workers.parse_into(store, picture(0), False)
            hung = workers._parsers[0]._process
            with pytest.raises(Broken, match="longer than 3 s"):
                await workers.parse_into(store, b"hang", False)
            assert hung is not None
            assert hung.poll() is not None
            assert (await workers.parse_into(store, picture(1), False)).width == 96

    asyncio.run(asyncio.wait_for(run(), 120))


def test_uploads_beyond_those_that_may_wait_are_told_to_come_back(store, monkeypatch):
    async def run() -> None:
        async with fragile(monkeypatch, seconds=2.0, most_waiting=1) as workers:
            first = [asyncio.create_task(workers.parse_into(store, b"hang", False)) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded, match="the upload queue"):
                await workers.parse_into(store, b"hang", False)
            for task in first:
                with pytest.raises((Broken, Overloaded)):
                    await task

    asyncio.run(asyncio.wait_for(run(), 120))


def test_closing_ends_an_upload_under_way_and_every_process(store, picture, monkeypatch):
    async def run() -> None:
        async with fragile(monkeypatch) as workers:
            await workers.parse_into(store, picture(0), False)
            process = workers._parsers[0]._process
            assert process is not None
            hanging = asyncio.create_task(workers.parse_into(store, b"hang", False))
            await asyncio.sleep(0)
            await workers.close()
            with pytest.raises(Broken):
                await hanging
            assert process.poll() is not None

    asyncio.run(asyncio.wait_for(run(), 120))


def test_a_parser_sees_no_secrets(store, monkeypatch):
    monkeypatch.setenv("CHROMACLICK_TOKEN", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    async def run() -> None:
        async with fragile(monkeypatch) as workers:
            with pytest.raises(Broken) as caught:
                await workers.parse_into(store, b"variables", False)
        assert "PATH" in str(caught.value)
        assert "CHROMACLICK" not in str(caught.value)
        assert "AWS" not in str(caught.value)

    asyncio.run(asyncio.wait_for(run(), 120))


def test_a_file_over_the_limit_starts_no_process(store):
    async def run() -> None:
        workers = UploadWorkers(Limits(most_bytes=10), 1)
        with pytest.raises(TooLarge):
            await workers.parse_into(store, bytes(11), False)
        assert workers._parsers[0]._process is None
        await workers.close()

    asyncio.run(asyncio.wait_for(run(), 120))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_that_cannot_be_written_is_an_error_of_ours(store, picture, monkeypatch):
    store.folder.chmod(0o500)

    async def run() -> None:
        async with fragile(monkeypatch) as workers:
            with pytest.raises(OSError, match="cannot be stored"):
                await workers.parse_into(store, picture(0), False)

    asyncio.run(asyncio.wait_for(run(), 120))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_photo_of_6000_x_4000_takes_less_than_1_gib(tmp_path, picture, mode):
    file = io.BytesIO()
    small = Image.open(io.BytesIO(picture(0, 600, 400)))
    small.resize((6000, 4000)).convert(mode).save(file, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0")

    async def run() -> None:
        workers = UploadWorkers(Limits(seconds=300.0), 1)
        try:
            stored = await workers.parse_into(PhotoStore(tmp_path, 2**30, 256), file.getvalue(), True)
            process = workers._parsers[0]._process
            assert process is not None
            status = Path(f"/proc/{process.pid}/status").read_text()
        finally:
            await workers.close()
        assert (stored.width, stored.height) == (6000, 4000)
        peak = int(status.partition("VmHWM:")[2].split()[0])
        assert peak < 2**20  # KiB, PyTorch's half included

    asyncio.run(asyncio.wait_for(run(), 120))
