"""Two processes measure the same numbers as one, whatever the batch."""

from pathlib import Path

import pytest

from evaluator.__main__ import main
from tests.evaluator.benchmark.conftest import Bench
from tests.evaluator.benchmark.test_command import assert_same_numbers, rows_of
from tests.trainer.test_distributed import launch_program

pytestmark = pytest.mark.launch


def test_two_processes_give_the_numbers_of_one(bench: Bench, tmp_path: Path):
    assert main(bench.words(tmp_path / "one", "--batch-size", "11")) == 0
    done = launch_program("-m", "evaluator", *bench.words(tmp_path / "two", "--batch-size", "2"))
    assert done.returncode == 0, done.stderr
    assert_same_numbers(rows_of(tmp_path / "two"), rows_of(tmp_path / "one"))
    assert not list((tmp_path / "two").glob("photos-*"))
    assert done.stdout.count("11 photos measured, 3 left out") == 1


@pytest.mark.slow
def test_bad_input_ends_all_processes_with_one_message(bench: Bench, tmp_path: Path):
    (tmp_path / "benchmark.json").write_text("{}")
    done = launch_program("-m", "evaluator", *bench.words(tmp_path))
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1
    assert "add --resume" in done.stderr
