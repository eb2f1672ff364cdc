import gc
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kernels.color import rgb_to_lab
from tests.benchmarks.servers import http_folder
from tests.benchmarks.trainer import loader, loader_sources
from tests.benchmarks.trainer.loader_paths import Workload
from trainer.data.storage import ByteStream, read_url

pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning"
)  # webdataset's recipe leaves tars open


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Those tars are closed here, and not in a test of another file."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")


@pytest.fixture
def photos(tmp_path: Path, jpeg: Callable) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.jpg").write_bytes(jpeg(number, 60, 50))
    return folder


def run(*words: object, sources: bool = False) -> int:
    small = ("--image-size", 32, "--batch-size", 4, "--photos", 8, "--repeats", 1)
    second = ("--source-workers", 0, "--source-repeats", 1) if sources else ("--no-sources",)
    return loader.main([str(word) for word in (*words, *small, *second)])


@pytest.mark.parametrize("workers", [0, 1])
def test_all_ways_are_measured_and_reported(photos: Path, tmp_path: Path, capsys, workers: int):
    assert run(photos, "--json", tmp_path / "bench.json", "--workers", workers) == 0
    content = json.loads((tmp_path / "bench.json").read_text())
    usual, recipe, ours = [row for row in content["rows"] if row["unit"] == "images/s per core"]
    assert [row["way"].partition(":")[0] for row in (usual, recipe, ours)] == [
        "usual",
        "webdataset's recipe",
        "ours",
    ]
    assert all(row["p50"] > 0 for row in content["rows"])
    assert content["goals"][0]["goal"] == 5.0
    assert content["goals"][0]["measured"] == pytest.approx(ours["p50"] / usual["p50"]) == ours["times usual"]
    assert "images/s per core" in capsys.readouterr().out


def source_rows(file: Path) -> list[dict]:
    return [row for row in json.loads(file.read_text())["rows"] if row["unit"] == loader_sources.UNIT]


def test_every_source_is_measured_with_every_state_of_the_cache(photos: Path, tmp_path: Path):
    pytest.importorskip("moto.server", reason="the S3 stand-in needs moto[server]")
    environment = dict(os.environ)
    assert run(photos, "--json", tmp_path / "bench.json", sources=True) == 0
    rows = source_rows(tmp_path / "bench.json")
    assert [(row["way"].partition(": ")[2][:5], row["cache"]) for row in rows] == [
        ("files", "-"), ("local", "-"), ("local", "-"),
        *[(source, cache) for source in ("HTTP", "S3") for cache in ("none", "cold", "warm")],
    ]  # fmt: skip
    assert all(row["p50"] > 0 and row["workers"] == 0 for row in rows)
    assert dict(os.environ) == environment


def test_without_moto_the_row_says_so(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loader_sources, "why_no_s3", lambda: "moto not installed")
    assert run(photos, "--json", tmp_path / "bench.json", sources=True) == 0
    *measured, last = source_rows(tmp_path / "bench.json")
    assert not any("S3" in row["way"] for row in measured)
    assert last == {"way": "ours: S3", "unit": loader_sources.UNIT, "not measured": "moto not installed"}


def test_sources_that_disagree_are_not_timed(photos: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(loader_sources, "why_no_s3", lambda: "not here")
    real, seeds = Workload.loader, iter(range(9))

    def of_another_order(self: Workload, *words):
        loader = real(self, *words)
        first = 4 * next(seeds)
        monkeypatch.setattr(loader, "batches", lambda: type(loader).batches(loader, first))
        return loader

    monkeypatch.setattr(Workload, "loader", of_another_order)
    monkeypatch.setattr(Workload, "ours", lambda *words: 8)
    assert run(photos, sources=True) == 1
    assert "the batches by HTTP are not those of the local shards" in capsys.readouterr().err


def test_all_ways_prepare_all_photos(photos: Path, numbered_shards: Path):
    files = sorted(photos.iterdir())
    workload = Workload(
        files=files, shards=numbered_shards, image_size=8, batch_size=4, device=torch.device("cpu")
    )
    assert workload.usual(0) == len(files)
    assert workload.ours(0, rgb_to_lab, str(numbered_shards)) == len(files)
    samples = json.loads((numbered_shards / "manifest.json").read_text())["samples"]
    assert workload.webdataset(0) == samples // 4 * 4


def test_the_server_answers_ranges_and_notes_them(numbered_shards: Path, tmp_path: Path):
    content = (numbered_shards / "set-000.tar").read_bytes()
    with http_folder(numbered_shards, tmp_path / "log") as served:
        url = f"{served.url}/set-000.tar"
        assert read_url(url) == content
        stream = ByteStream(url, 600, 700, len(content))
        assert stream.read(100) == content[600:700]
        assert not stream.whole
        stream.close()
        assert served.asked() == [("set-000.tar", 0, len(content)), ("set-000.tar", 600, 700)]


def test_without_a_source_it_uses_scikit_image_s_photographs(capsys):
    assert run() == 0
    assert "8 photos" in capsys.readouterr().out


def test_ways_that_disagree_are_not_timed(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(loader, "rgb_to_lab", lambda rgb: tuple(part + 0.01 for part in rgb_to_lab(rgb)))
    assert run(photos, "--json", tmp_path / "bench.json") == 1
    assert "the two ways differ by" in capsys.readouterr().err
    assert not (tmp_path / "bench.json").exists()


def test_more_cores_than_there_are_is_refused(photos: Path, capsys):
    assert run(photos, "--cores", 4096) == 2
    assert "--cores is 4096" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--source-workers", 9), ("--source-repeats", 0)])
def test_bad_settings_of_the_second_table_are_refused(photos: Path, capsys, words: tuple):
    assert run(photos, *words) == 2
    assert words[0] in capsys.readouterr().err
