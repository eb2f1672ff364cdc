"""The memory benchmark runs the real command, and says when that fails."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks.evaluator.evaluate_memory import Arguments, main

QUICK = Arguments(photos=20, size=24, clicks="0,1", metrics="ab_psnr", threads=1)


@pytest.mark.slow
def test_both_numbers_of_photos_are_measured(tmp_path: Path):
    assert main(replace(QUICK, json=tmp_path / "memory.json")) == 0
    content = json.loads((tmp_path / "memory.json").read_text())
    assert [row["photos"] for row in content["rows"]] == [1, 20]
    assert all(0.1 < row["peak, GiB"] < 4 for row in content["rows"])
    assert content["goals"][0]["met"] is True


def test_a_failing_benchmark_is_an_error_with_its_words(capsys: pytest.CaptureFixture[str]):
    assert main(replace(QUICK, metrics="beauty")) == 1
    assert "unknown metrics beauty" in capsys.readouterr().err
