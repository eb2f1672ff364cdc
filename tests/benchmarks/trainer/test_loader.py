"""The benchmark of the data path: both tables, and what they refuse."""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernels.color import rgb_to_lab
from tests.benchmarks.__main__ import main
from tests.benchmarks.servers import http_folder
from tests.benchmarks.trainer import loader
from tests.benchmarks.trainer.loader_paths import Workload
from trainer.data.storage import ByteStream, read_url

pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning"
)  # webdataset's recipe leaves tars open
SMALL = ["--image-size", "32", "--batch-size", "4", "--photos", "8", "--repeats", "1"]


@pytest.fixture(autouse=True)
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without a compiler. Those tars are closed here, and not in a test of another file."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    yield
    gc.collect()


@pytest.fixture
def photos(tmp_path: Path, jpeg: Callable[..., bytes]) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.jpg").write_bytes(jpeg(number, 60, 50))
    return folder


@pytest.mark.training
def test_all_ways_and_sources_are_measured(photos: Path, report_of: Callable):
    pytest.importorskip("moto.server", reason="the S3 stand-in needs moto[server]")
    environment = dict(os.environ)
    content = report_of("loader", photos, *SMALL, "--source-workers", 0, "--source-repeats", 1)
    usual, recipe, ours = [row for row in content["rows"] if row["unit"] == "images/s per core"]
    ways = [row["way"].partition(":")[0] for row in (usual, recipe, ours)]
    assert ways == ["usual", "webdataset's recipe", "ours"]
    assert content["goals"][0]["measured"] == pytest.approx(ours["p50"] / usual["p50"]) == ours["times usual"]
    sources = [row for row in content["rows"] if row["unit"] == "photos/s"]
    assert [(row["way"].partition(": ")[2][:5], row["cache"]) for row in sources] == [
        ("files", "-"), ("local", "-"), ("local", "-"),
        *[(source, cache) for source in ("HTTP", "S3") for cache in ("none", "cold", "warm")],
    ]  # fmt: skip
    assert all(row["p50"] > 0 for row in content["rows"])
    assert dict(os.environ) == environment


def test_ways_that_disagree_are_not_timed(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(loader, "rgb_to_lab", lambda rgb: tuple(part + 0.01 for part in rgb_to_lab(rgb)))
    assert main(["loader", str(photos), *SMALL]) == 1
    assert "the two ways differ by" in capsys.readouterr().err


@pytest.mark.training
def test_sources_that_disagree_are_not_timed(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    right, seeds = Workload.loader, iter(range(9))

    def of_another_order(self: Workload, *given):
        loader = right(self, *given)
        first = 4 * next(seeds)
        monkeypatch.setattr(loader, "batches", lambda: type(loader).batches(loader, first))
        return loader

    monkeypatch.setattr(Workload, "loader", of_another_order)
    monkeypatch.setattr(Workload, "ours", lambda *given: 8)
    assert main(["loader", str(photos), *SMALL, "--source-workers", "0"]) == 1
    assert "the batches by HTTP are not those of the local shards" in capsys.readouterr().err


def test_the_server_answers_ranges_and_notes_them(numbered_shards: Path, tmp_path: Path):
    content = (numbered_shards / "set-000.tar").read_bytes()
    with http_folder(numbered_shards, tmp_path / "log") as served:
        url = f"{served.url}/set-000.tar"
        assert read_url(url) == content
        stream = ByteStream(url, 600, 700, len(content))
        assert stream.read(100) == content[600:700]
        stream.close()
        assert served.asked() == [("set-000.tar", 0, len(content)), ("set-000.tar", 600, 700)]
