import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from tuner.records import TRIALS_FILE, Measure, Report, Status, Sweep, Trial, best, read_trials, write_trials

PSNR = Measure("ab_psnr", "max", "ab PSNR, dB")
LPIPS = Measure("lpips", "min", "LPIPS")
SWEEP = Sweep(
    name="first",
    started="2026-11-26T12:00:00+00:00",
    commit="abc",
    machine={"cpu": "one"},
    versions={"python": "3.11"},
    seed=3,
    search="tpe",
    scheduler="asha",
    budget="8",
    metrics=(PSNR, LPIPS),
    space=({"path": "recipe.loss.entropy"},),
    base={"seed": 0, "validation.clicks": [0, 1]},
)


def trial(number: int, status: Status, *values: float | None) -> Trial:
    reports = tuple(Report(100 * i, "ping-1", 1.0, {"ab_psnr": value}) for i, value in enumerate(values))
    return Trial(
        id=f"t{number}", number=number, status=status, values={"recipe.loss.entropy": 0.1}, reports=reports
    )


def test_a_sweep_and_its_trials_come_back_as_they_were(tmp_path: Path):
    trials = [replace(trial(0, "finished", 20.0, None), parent="t1", run="r", folder="/f"), trial(1, "failed")]
    SWEEP.write(tmp_path)
    write_trials(tmp_path, trials)
    assert Sweep.read(tmp_path) == SWEEP
    assert read_trials(tmp_path) == trials
    assert SWEEP.metric == PSNR


def test_a_folder_without_trials_has_none_and_without_a_sweep_is_refused(tmp_path: Path):
    assert read_trials(tmp_path) == []
    with pytest.raises(ValueError, match=r"no sweep: it has no sweep\.json"):
        Sweep.read(tmp_path)
    (tmp_path / TRIALS_FILE).write_text("[{")
    with pytest.raises(ValueError, match="damaged"):
        read_trials(tmp_path)


def test_numbers_that_json_has_not_are_never_written(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        write_trials(tmp_path, [trial(0, "finished", math.nan)])
    write_trials(tmp_path, [trial(0, "finished", None)])
    assert json.loads((tmp_path / TRIALS_FILE).read_text())[0]["reports"][0]["metrics"] == {"ab_psnr": None}


def test_the_best_is_a_finished_trial_by_its_last_value():
    trials = [
        trial(0, "finished", 30.0, 20.0),
        trial(1, "finished", 10.0, 22.0),
        trial(2, "stopped", 99.0),
        trial(3, "failed", 50.0),
    ]
    found = best(trials, PSNR)
    assert found
    assert found.number == 1


def test_without_finished_trials_the_best_of_the_others_is_taken():
    assert best([trial(0, "stopped", 5.0), trial(1, "running", 7.0)], PSNR) == trial(1, "running", 7.0)
    assert best([trial(0, "finished", None), trial(1, "failed", 7.0)], PSNR) is None
    assert best([], PSNR) is None


def test_smaller_is_better_where_the_measure_says_so():
    assert LPIPS.better(0.1, 0.2)
    assert PSNR.better(0.2, 0.1)
    assert not PSNR.better(0.1, 0.1)
