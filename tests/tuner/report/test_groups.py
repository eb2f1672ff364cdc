import statistics
from pathlib import Path

import pytest
from scipy.stats import spearmanr

from tests.tuner.made_up_sweep import made_up_sweep, made_up_trial
from tuner.records import Sweep, read_trials
from tuner.report.analysis import association, by_setting, known_value, over_seeds

SETTINGS = {
    "recipe.choice.estimator": "argmax_ste",
    "recipe.loss.entropy": 0.01,
    "recipe.choice.temperature.shape": "constant",
    "recipe.choice.temperature.start": 1.0,
}


def test_groups_by_estimator_have_the_means_and_spreads_of_their_finished_trials(tmp_path: Path):
    folder = made_up_sweep(tmp_path)
    sweep, trials = Sweep.read(folder), read_trials(folder)
    groups = by_setting(sweep, trials, "recipe.choice.estimator")
    assert [group.name for group in groups] == ["argmax_ste", "gumbel_softmax", "gumbel_softmax_soft"]
    finished = [one for one in trials if one.status == "finished"]
    assert sum(len(group.trials) for group in groups) == len(finished)
    for group in groups:
        mine = [one for one in finished if one.values["recipe.choice.estimator"] == group.name]
        values = [known_value(one, sweep.metric) for one in mine]
        spread = group.spread(sweep.metric)
        assert spread
        assert spread.count == len(values)
        assert spread.mean == pytest.approx(sum(values) / len(values))
        assert spread.deviation == pytest.approx(statistics.stdev(values))


def test_many_values_of_a_range_fall_into_its_thirds_and_zero_stays_alone(tmp_path: Path):
    folder = made_up_sweep(tmp_path)
    sweep, trials = Sweep.read(folder), read_trials(folder)
    groups = by_setting(sweep, trials, "recipe.loss.entropy")
    assert [group.name for group in groups] == ["0", "0.001 to 0.0067", "0.0067 to 0.045", "0.045 to 0.3"]
    for group, (low, high) in zip(groups[1:], ((0.001, 0.0067), (0.0067, 0.045), (0.045, 0.3)), strict=True):
        assert all(low * 0.98 <= one.values["recipe.loss.entropy"] <= high * 1.02 for one in group.trials)
    assert all(one.values["recipe.loss.entropy"] == 0 for one in groups[0].trials)


def test_a_few_values_of_a_range_are_shown_one_by_one(tmp_path: Path):
    sweep = Sweep.read(made_up_sweep(tmp_path))
    trials = [
        made_up_trial(n, {**SETTINGS, "recipe.loss.entropy": value})
        for n, value in enumerate((0.1, 0.0, 0.01, 0.1))
    ]
    groups = by_setting(sweep, trials, "recipe.loss.entropy")
    assert [(group.name, len(group.trials)) for group in groups] == [("0", 1), ("0.01", 1), ("0.1", 2)]
    alone = groups[0].spread(sweep.metric)
    assert alone
    assert alone.deviation != alone.deviation, "NaN: one trial has no spread"


def test_trials_that_differ_in_the_seed_alone_are_one_group(tmp_path: Path):
    sweep = Sweep.read(made_up_sweep(tmp_path))
    others = {**SETTINGS, "recipe.loss.entropy": 0.02}
    values = [{**SETTINGS, "seed": 0}, {**SETTINGS, "seed": 1}, {**others, "seed": 0}]
    groups = over_seeds(sweep, [made_up_trial(number, one) for number, one in enumerate(values)])
    assert [[one.number for one in group.trials] for group in groups] == [[0, 1]]
    assert "recipe.loss.entropy 0.01" in groups[0].name
    assert "seed" not in groups[0].name


def test_a_setting_that_is_not_searched_has_no_groups(tmp_path: Path):
    folder = made_up_sweep(tmp_path)
    sweep, trials = Sweep.read(folder), read_trials(folder)
    assert by_setting(sweep, trials, "recipe.optimizer.edit_lr") == []
    assert by_setting(sweep, [], "recipe.choice.estimator") == []


def test_the_association_is_a_rank_correlation_and_needs_five_trials_that_vary(tmp_path: Path):
    folder = made_up_sweep(tmp_path)
    sweep, trials = Sweep.read(folder), read_trials(folder)
    finished = [one for one in trials if one.status == "finished"]
    found = association(trials, "recipe.loss.entropy", sweep.metric)
    assert found
    entropies = [one.values["recipe.loss.entropy"] for one in finished]
    correlation, p_value = spearmanr(entropies, [known_value(one, sweep.metric) for one in finished])
    assert (found.correlation, found.p_value) == pytest.approx((correlation, p_value))
    assert association(finished[:4], "recipe.loss.entropy", sweep.metric) is None
    level = [made_up_trial(number, SETTINGS) for number in range(8)]
    assert association(level, "recipe.loss.entropy", sweep.metric) is None
    assert association(trials, "recipe.choice.estimator", sweep.metric) is None, "no numbers"
