import json
import zipfile
from pathlib import Path

import pytest

from tests.benchmarks.servers import Asked, http_folder
from tests.benchmarks.trainer import shards
from tests.benchmarks.trainer.shards_loading import first_batch, growth, link_shards
from trainer.shards.build import StoreSettings, plan_jobs

SMALL = ("--photos", 200, "--shard-size", 50, "--jobs", 1, "--shards", 60, "--batch-size", 4, "--repeats", 1)


def run(*words: object) -> int:
    return shards.main([str(word) for word in (*SMALL, *words)])


@pytest.mark.slow
def test_making_starting_resuming_and_memory_are_measured(tmp_path: Path):
    assert run("--memory-batches", 60, "--json", tmp_path / "bench.json") == 0
    content = json.loads((tmp_path / "bench.json").read_text())
    write, make, again, *starts, _, memory = content["rows"]
    assert "4 shards" in make["what"]
    assert make["photos/s"] == pytest.approx(200 / make["p50"])
    assert write["MiB"] == make["MiB"] == again["MiB"] > 0
    assert [row["what"].split(" of an epoch, ") for row in starts] == [
        ["start", "disk"],
        ["start", "HTTP"],
        ["resume in the middle", "disk"],
        ["resume in the middle", "HTTP"],
    ]
    assert starts[1]["photos read"] > 0
    assert 0 < starts[3]["photos read"] < 360
    assert starts[3]["read again"] == 0
    assert memory["blocks"] == 60 * 4 / 512
    assert [goal["goal"] for goal in content["goals"]] == [5.0, 10.0, 0, 16.0, 16.0]
    assert content["goals"][2]["met"] is True


@pytest.fixture
def source(tmp_path: Path) -> Path:
    shards.write_source(tmp_path / "source.zip", 20, 5, (24, 16))
    return tmp_path / "source.zip"


def test_the_source_has_few_photos_under_many_names(source: Path):
    with zipfile.ZipFile(source) as file:
        assert len(set(file.namelist())) == 20
        assert len({file.read(name) for name in file.namelist()}) == 5


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
    with pytest.raises(ValueError, match="measured 3 times"):
        growth([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--photos", 3), "--photos is 3"),
        (("--memory-batches", 3), "--memory-batches is 3"),
        (("--shards", 1), "there is no middle to resume from"),
        (("--pool", 0), "--pool is 0"),
    ],
)
def test_bad_settings_are_refused(capsys, words: tuple, message: str):
    with pytest.raises(SystemExit) as end:
        run(*words)
    assert end.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
