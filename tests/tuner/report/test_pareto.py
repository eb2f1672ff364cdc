from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.records import Measure, Report, Status, Trial
from tuner.report.analysis import comparable, front

PSNR, LPIPS = Measure("ab_psnr", "max", "ab PSNR, dB"), Measure("lpips", "min", "LPIPS")
BOTH = (PSNR, LPIPS)


def trial(number: int, psnr: float | None, lpips: float | None, status: Status = "finished") -> Trial:
    metrics = {"ab_psnr": None if psnr is None else float(psnr), "lpips": lpips}
    return Trial(f"t{number}", number, status, {}, (Report(10, "ping-1", 1.0, metrics),))


def numbers(trials: Sequence[Trial]) -> list[int]:
    return [one.number for one in trials]


def test_only_trials_that_none_beats_stay_and_the_first_metric_orders_them():
    trials = [trial(0, 20, 0.1), trial(1, 22, 0.2), trial(2, 21, 0.2), trial(3, 19, 0.3), trial(4, 21, 0.15)]
    assert numbers(front(trials, BOTH)) == [1, 4, 0]


def test_equal_trials_all_stay_and_one_metric_leaves_the_best():
    trials = [trial(0, 20, 0.1), trial(1, 20, 0.1), trial(2, 19, 0.1)]
    assert numbers(front(trials, BOTH)) == [0, 1]
    assert numbers(front(trials, [PSNR])) == [0, 1]


def test_a_trial_that_was_stopped_or_lacks_a_metric_is_not_compared_with_finished_ones():
    trials = [trial(0, 20, 0.1), trial(1, 99, 0.0, "stopped"), trial(2, 99, None), trial(3, 99, 0.0, "failed")]
    assert numbers(front(trials, BOTH)) == [0]
    assert numbers(comparable(trials, [PSNR])) == [0, 2]
    assert numbers(comparable(trials[1:], BOTH)) == [1], "where none is finished, those that were stopped"
    assert front([], BOTH) == []


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_the_front_is_what_its_definition_says(points: list[tuple[int, int]]):
    trials = [trial(number, float(x), float(y)) for number, (x, y) in enumerate(points)]
    kept = {
        number
        for number, (x, y) in enumerate(points)
        if not any(a >= x and b <= y and (a, b) != (x, y) for a, b in points)
    }
    assert set(numbers(front(trials, BOTH))) == kept


@pytest.mark.parametrize("measure", BOTH)
def test_the_best_on_any_metric_is_always_kept(measure: Measure):
    trials = [trial(number, 20.0 + number % 3, 0.1 * (number % 4)) for number in range(12)]
    kept = front(trials, BOTH)
    best = (max if measure.direction == "max" else min)(one.value(measure.name) or 0.0 for one in trials)
    assert best in {one.value(measure.name) for one in kept}
