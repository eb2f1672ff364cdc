"""The benchmark's arithmetic, and what it refuses."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.tuner.sweep import Way, compare, overhead, value_of
from tuner.search.presets import smoke

ALONE = Way(seconds=360.0, values={0: 20.0, 1: 22.0, 2: 18.0, 3: 21.0})


def test_trials_per_hour_and_their_ratio():
    rows, goals = compare(Way(seconds=180.0, values={1: 22.01, 3: 21.0}), ALONE, 4)
    assert [row["trials/hour"] for row in rows] == [80.0, 40.0]
    assert [row["trained to the end"] for row in rows] == [2, 4]
    assert goals[0].measured == 2.0
    assert goals[0].met is True
    _, slow = compare(Way(seconds=300.0, values={1: 22.0}), ALONE, 4)
    assert slow[0].met is False


def test_ways_that_disagree_are_not_reported():
    with pytest.raises(RuntimeError, match=r"trial 1 has 22\.400 dB in the sweep and 22\.000 dB alone"):
        compare(Way(seconds=1.0, values={1: 22.4}), ALONE, 4)


def test_a_sweep_that_finished_nothing_is_not_reported():
    with pytest.raises(RuntimeError, match="no trial of the sweep came to its end"):
        compare(Way(seconds=1.0, values={}), ALONE, 4)


def test_a_sweep_that_stopped_the_best_trial_is_not_reported():
    with pytest.raises(RuntimeError, match=r"best has 21\.000 dB, and one that it stopped 22\.000"):
        compare(Way(seconds=1.0, values={3: 21.0}), ALONE, 4)


def test_the_overhead_is_what_one_more_trial_adds():
    goal = overhead(fewer=5.0, more=15.0, extra_trials=20)
    assert (goal.name, goal.measured, goal.met) == ("overhead of an empty trial, s (at most)", 0.5, True)
    assert overhead(fewer=5.0, more=105.0, extra_trials=20).met is False


def test_the_main_commands_number_is_the_middle_budgets(tmp_path: Path):
    config = smoke().base
    name = {"policy": "editnet-blind", "metric": "ab_psnr", "clicks": 5}
    curve = [{"stage": stage, **name, "value": value} for stage, value in enumerate((1.0, 2.5))]
    (tmp_path / "results.json").write_text(json.dumps({"curve": curve}))
    assert value_of(tmp_path, config) == 2.5
