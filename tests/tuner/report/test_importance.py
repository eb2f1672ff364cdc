from dataclasses import replace

import pytest

from tests.tuner.made_up_sweep import made_up_sweep
from tuner.records import Report, Sweep, Trial, read_trials
from tuner.report.analysis import common_report, importance


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, list[Trial]]:
    folder = made_up_sweep(tmp_path_factory.mktemp("sweep") / "made-up", 60)
    return Sweep.read(folder), read_trials(folder)


@pytest.mark.training
def test_the_setting_that_makes_the_difference_comes_first_and_those_without_effect_get_nothing(
    made_up: tuple[Sweep, list[Trial]],
):
    sweep, trials = made_up
    found = importance(sweep, trials, sweep.metric)
    assert found
    joint = {one.path: one.share for one in found.shares if not one.conditional}
    assert set(joint) == {
        "recipe.choice.estimator",
        "recipe.loss.entropy",
        "recipe.choice.temperature.shape",
        "recipe.choice.temperature.start",
        "seed",
    }
    assert found.shares[0].path == "recipe.choice.estimator"
    assert joint["recipe.choice.estimator"] > 0.8
    assert all(
        joint[path] < 0.05 for path in joint if path not in ("recipe.choice.estimator", "recipe.loss.entropy")
    )
    assert 0.9 < sum(joint.values()) <= 1.0 + 1e-6


def test_another_metric_has_another_reason(made_up: tuple[Sweep, list[Trial]]):
    sweep, trials = made_up
    found = importance(sweep, trials, sweep.metrics[2])
    assert found
    assert found.shares[0].path == "recipe.loss.entropy"
    assert found.shares[0].share > 0.9


def test_a_conditional_setting_is_judged_among_the_trials_that_have_it(made_up: tuple[Sweep, list[Trial]]):
    sweep, trials = made_up
    found = importance(sweep, trials, sweep.metric)
    assert found
    (conditional,) = [one for one in found.shares if one.conditional]
    assert conditional.path == "recipe.choice.temperature.end"
    moving = [one for one in trials if one.status == "finished" and conditional.path in one.values]
    assert conditional.trials == len(moving) < found.trials


def test_trials_are_compared_at_the_latest_report_that_half_of_them_reached(made_up: tuple[Sweep, list[Trial]]):
    sweep, trials = made_up
    found = importance(sweep, trials, sweep.metric)
    assert found
    finished = [one for one in trials if one.status == "finished"]
    assert found.trials == len(finished)
    assert found.images_seen == finished[0].reports[-1].images_seen
    assert found.measured == sum(bool(one.reports) for one in trials)

    cut = [replace(one, reports=one.reports[:1]) if one.number % 3 else one for one in trials]
    seen, values = common_report(cut, sweep.metric)
    assert seen == finished[0].reports[0].images_seen
    assert len(values) == found.measured


def test_few_trials_are_said_to_be_too_few(made_up: tuple[Sweep, list[Trial]]):
    sweep, trials = made_up
    found = importance(sweep, trials[:20], sweep.metric)
    assert found
    assert "too few" in found.doubt
    assert "wait for 50" in found.doubt
    many = [replace(one, id=f"{one.id}-{copy}") for copy in range(2) for one in trials]
    again = importance(sweep, many, sweep.metric)
    assert again
    assert again.doubt == ""


def test_nothing_is_computed_from_three_trials_or_from_equal_ones(made_up: tuple[Sweep, list[Trial]]):
    sweep, trials = made_up
    finished = [one for one in trials if one.status == "finished"]
    assert importance(sweep, finished[:3], sweep.metric) is None
    assert importance(sweep, [], sweep.metric) is None
    level = (Report(10, "pong-1", 1.0, {"ab_psnr": 20.0}),)
    assert importance(sweep, [replace(one, reports=level) for one in finished], sweep.metric) is None
    assert common_report([], sweep.metric) == (0, {})
