"""The benchmark of the evaluation: speed beside the plain loop, and memory."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.benchmarks.__main__ import main
from tests.benchmarks.evaluator import evaluate, evaluate_memory
from tests.benchmarks.evaluator.evaluate import TOGETHER
from tests.benchmarks.harness import Refused

QUICK = ["--size=20", "--clicks=0,1,3", "--policies=random,max-error", "--threads=1"]


@pytest.mark.training
def test_both_ways_find_the_same_numbers_and_are_timed(report_of: Callable):
    content = report_of("evaluate", *QUICK, "--count", 3, "--repeats", 1)
    assert [row["policies"] for row in content["rows"]] == ["random", "max-error", TOGETHER]
    assert all(row["times"] > 0 for row in content["rows"])
    assert content["goals"][0]["goal"] == 4.0


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_nothing_is_timed_when_the_numbers_differ(
    value: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def wrong(task: evaluate.Task) -> evaluate.Values:
        return {policy: {metric: np.full((3, 3), value) for metric in task.metrics} for policy in task.policies}

    monkeypatch.setattr(evaluate, "ours", wrong)
    assert main(["evaluate", *QUICK, "--count=3"]) == 1
    assert "ab_psnr of random differs by" in capsys.readouterr().err


@pytest.mark.slow
def test_memory_is_measured_for_few_photos_and_many(report_of: Callable):
    content = report_of(
        "evaluate", "--memory", 20, "--size=24", "--clicks=0,1", "--policies=random", "--threads=1"
    )
    assert [row["photos"] for row in content["rows"]] == [1, 20]
    assert all(0.1 < row["peak, GiB"] < 4 for row in content["rows"])
    assert content["goals"][0]["met"] is True


@pytest.mark.slow
def test_a_command_that_fails_is_told_with_its_words(tmp_path):
    with pytest.raises(Refused, match=r"(?s)ended with code 2: .*--colorizer"):
        evaluate_memory.peak(["--photos", str(tmp_path)], tmp_path / "out")
