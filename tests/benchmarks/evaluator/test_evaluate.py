"""The speed benchmark checks before it times, and says what it found."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.evaluator import evaluate
from tests.benchmarks.evaluator.evaluate import TOGETHER, Arguments, check_equal, main

QUICK = {
    "count": 3,
    "size": 20,
    "clicks": ("0,1,3",),
    "policies": ("random,max-error",),
    "repeats": 1,
    "threads": 1,
}


def test_both_ways_find_the_same_numbers_and_are_timed(tmp_path: Path):
    assert main(Arguments(**QUICK, json=tmp_path / "bench.json")) == 0
    content = json.loads((tmp_path / "bench.json").read_text())
    assert [row["policies"] for row in content["rows"]] == ["random", "max-error", TOGETHER]
    assert all(row["times"] > 0 for row in content["rows"])
    assert content["goals"][0]["goal"] == 4.0


def test_nothing_is_timed_when_the_numbers_differ(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(
        evaluate, "ours", lambda task: {p: {m: np.zeros((3, 3)) for m in task.metrics} for p in task.policies}
    )
    assert main(Arguments(**QUICK)) == 1
    assert "ab_psnr of random differs by" in capsys.readouterr().err


def test_a_value_that_is_no_number_is_a_difference():
    values, broken = ({"random": {"ab_psnr": np.full((2, 2), value)}} for value in (20.0, np.nan))
    with pytest.raises(RuntimeError, match="differs by nan"):
        check_equal(values, broken)
