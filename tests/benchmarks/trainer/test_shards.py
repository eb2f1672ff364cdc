"""The benchmark of shards at COCO's size, at a smaller one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks.__main__ import main
from tests.benchmarks.servers import Asked, http_folder
from tests.benchmarks.trainer import shards
from tests.benchmarks.trainer.shards import write_source
from tests.benchmarks.trainer.shards_loading import first_batch, growth, link_shards
from trainer.shards.build import StoreSettings, plan_jobs

SMALL = ["--photos=200", "--shard-size=50", "--jobs=1", "--shards=60", "--batch-size=4", "--repeats=1"]


@pytest.mark.slow
def test_making_starting_resuming_and_memory_are_measured(report_of: Callable):
    content = report_of("shards", *SMALL, "--memory-batches", 60)
    write, make, again, *starts, _, memory = content["rows"]
    assert "4 shards" in make["what"]
    assert make["photos/s"] == pytest.approx(200 / make["p50"])
    assert write["MiB"] == make["MiB"] == again["MiB"] > 0
    begins = ("start", "resume in the middle")
    assert [row["what"] for row in starts] == [f"{a} of an epoch, {b}" for a in begins for b in ("disk", "HTTP")]
    assert 0 < starts[3]["photos read"] < 360
    assert starts[3]["read again"] == 0
    assert memory["blocks"] == 60 * 4 / 512
    assert [goal["goal"] for goal in content["goals"]] == [5.0, 10.0, 0, 16.0, 16.0]
    assert content["goals"][2]["met"] is True


def test_shards_that_are_not_found_again_are_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    right = shards.build_all
    monkeypatch.setattr(shards, "build_all", lambda *given: replace(right(*given), reused=0))
    assert main(["shards", *SMALL]) == 1
    assert "0 of 4 shards found again: no times" in capsys.readouterr().err


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_source(tmp_path / "source.zip", 20, 5, (24, 16))
    return tmp_path / "source.zip"


def test_what_a_start_reads_is_counted_as_read_again_in_the_middle(source: Path, tmp_path: Path):
    """The count of the goal must be able to see a photo that is read again."""
    job = plan_jobs([source], tmp_path / "many", StoreSettings(), 6, None)[0]
    many = link_shards(job, 40, 4)
    assert len(many.consumed(0)) == many.middle == 120
    with http_folder(many.folder, tmp_path / "log") as server:
        start = first_batch(many, 0, 0, server)
        middle = first_batch(many, many.middle, 0, server)
    assert set(start.photos) <= many.consumed(0)
    assert len(start.photos) == len(set(start.photos)) >= 4 * (many.block_size - 1)
    assert not many.consumed(0).intersection(middle.photos)
    assert start.manifest_bytes == (many.folder / "manifest.json").stat().st_size


def test_photos_are_found_by_the_bytes_that_were_asked_for(source: Path, tmp_path: Path):
    many = link_shards(plan_jobs([source], tmp_path / "many", StoreSettings(), 6, None)[0], 3, 4)
    shard = many.manifest.shards[1]
    one, two = shard.starts[2], shard.starts[3]
    assert many.photos_in([Asked(shard.name, one - 512, one + 1)]) == [(1, 2)]
    assert many.photos_in([Asked(shard.name, one + 1, two + 1)]) == [(1, 2), (1, 3)]
    assert many.photos_in([Asked(shard.name, one + shard.sizes[2], two)]) == []
    assert many.photos_in([Asked("manifest.json", 0, 10**6)]) == []


def test_growth_is_that_after_the_warm_up():
    assert growth([1.0, 50.0, 100.0, 100.0, 101.0, 99.0, 110.0, 110.0]) == 10.0
