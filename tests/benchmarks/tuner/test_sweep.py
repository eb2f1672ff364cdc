"""The benchmark of a sweep: its smallest run, its arithmetic, and what it refuses."""

from collections.abc import Callable

import pytest

from tests.benchmarks.harness import Refused
from tests.benchmarks.tuner.sweep import Way, compare, overhead

ALONE = Way(seconds=360.0, values={0: 20.0, 1: 22.0, 2: 18.0, 3: 21.0})


@pytest.mark.slow
@pytest.mark.launch
def test_both_ways_train_the_same_trials(report_of: Callable):
    rounds = {"pretrain_color": 0.05, "pretrain_edit": 0.02, "ping": 0.01, "pong": 0.01, "cycles": 1}
    short = [f"recipe.rounds.{name}={value}" for name, value in rounds.items()]
    content = report_of("sweep", "--trials", 2, "--cheap", 1, "--set", *short, "validation.photos=8")
    sweep, alone = content["rows"]
    assert (sweep["trials"], alone["trained to the end"]) == (2, 2)
    assert sweep["best ab PSNR, dB"] == pytest.approx(alone["best ab PSNR, dB"], abs=0.3)
    assert len(content["goals"]) == 2


def test_trials_per_hour_and_their_ratio():
    rows, goals = compare(Way(seconds=180.0, values={1: 22.01, 3: 21.0}), ALONE, 4)
    assert [row["trials/hour"] for row in rows] == [80.0, 40.0]
    assert [row["trained to the end"] for row in rows] == [2, 4]
    assert (goals[0].measured, goals[0].met) == (2.0, True)
    _, slow = compare(Way(seconds=300.0, values={1: 22.0}), ALONE, 4)
    assert slow[0].met is False


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({1: 22.4}, r"trial 1 has 22\.400 dB in the sweep and 22\.000 dB alone"),
        ({}, "no trial of the sweep came to its end"),
        ({3: 21.0}, r"best has 21\.000 dB, and one that it stopped 22\.000"),
    ],
    ids=["ways that disagree", "nothing finished", "the best was stopped"],
)
def test_a_sweep_that_went_wrong_is_not_reported(values: dict[int, float], message: str):
    with pytest.raises(Refused, match=message):
        compare(Way(seconds=1.0, values=values), ALONE, 4)


def test_the_overhead_is_what_one_more_trial_adds():
    goal = overhead(fewer=5.0, more=15.0, extra_trials=20)
    assert (goal.measured, goal.met) == (0.5, True)
    assert overhead(fewer=5.0, more=105.0, extra_trials=20).met is False
