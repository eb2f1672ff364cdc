import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kernels.color import rgb_to_lab
from trainer import bench_data


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


def run(*words: object) -> int:
    small = ("--image-size", 32, "--batch-size", 4, "--photos", 8, "--repeats", 1)
    return bench_data.main([str(word) for word in (*words, *small)])


@pytest.mark.parametrize("workers", [0, 1])
def test_both_ways_are_measured_and_reported(photos: Path, tmp_path: Path, capsys, workers: int):
    assert run(photos, "--json", tmp_path / "bench.json", "--workers", workers) == 0
    content = json.loads((tmp_path / "bench.json").read_text())
    speeds = [row for row in content["rows"] if row["unit"] == "images/s per core"]
    assert [row["way"].partition(":")[0] for row in speeds] == ["usual", "ours"]
    assert all(row["p50"] > 0 for row in content["rows"])
    assert content["goals"][0]["goal"] == 5.0
    assert content["goals"][0]["measured"] == pytest.approx(speeds[1]["p50"] / speeds[0]["p50"])
    assert "images/s per core" in capsys.readouterr().out


def test_without_a_source_it_uses_scikit_image_s_photographs(capsys):
    assert run() == 0
    assert "8 photos" in capsys.readouterr().out


def test_ways_that_disagree_are_not_timed(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(bench_data, "rgb_to_lab", lambda rgb: tuple(part + 0.01 for part in rgb_to_lab(rgb)))
    assert run(photos, "--json", tmp_path / "bench.json") == 1
    assert "the two ways differ by" in capsys.readouterr().err
    assert not (tmp_path / "bench.json").exists()


def test_more_cores_than_there_are_is_refused(photos: Path, capsys):
    assert run(photos, "--cores", 4096) == 2
    assert "--cores is 4096" in capsys.readouterr().err
