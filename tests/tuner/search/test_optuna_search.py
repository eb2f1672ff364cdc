import json
import pickle
import random
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from tests.tuner.toy import BEST, height
from tuner.config import Options
from tuner.plan import Course, Plan
from tuner.records import ERROR, LEGS, PARENT, POINT, Measure, Report, Trial, write_trials
from tuner.resources import Machine
from tuner.search import pbt
from tuner.search.optuna_search import Asha, SpaceSearch
from tuner.search.pbt import Pbt, mutation
from tuner.search.presets import smoke
from tuner.search.space import Domain, Space

PSNR = Measure("ab_psnr", "max", "ab PSNR, dB")
COURSE = Course(ends=(1000, 1100, 1200, 1300, 1400), shared=1000)


def searcher(search: str, seed: int = 0, trials: int | None = None) -> SpaceSearch:
    preset = smoke()
    return SpaceSearch(Space(preset.domains, preset.base), PSNR, search, seed, trials)


def run_all(search: SpaceSearch, count: int) -> list[tuple[dict[str, Any], float]]:
    """Suggest and complete, one after another."""
    found = []
    for number in range(count):
        values = search.suggest(str(number))[POINT]
        result = {"ab_psnr": height(values), "images_seen": 100, "training_iteration": 1}
        search.on_trial_result(str(number), result)
        search.on_trial_complete(str(number), result)
        found.append((values, height(values)))
    return found


def test_tpe_finds_the_planted_optimum_and_random_search_does_not_come_as_near():
    tpe, random = run_all(searcher("tpe", seed=1), 60), run_all(searcher("random", seed=1), 60)
    values, top = max(tpe, key=lambda one: one[1])
    assert values["recipe.choice.estimator"] == BEST["recipe.choice.estimator"]
    assert top > 29.9
    late = [sum(value for _, value in trials[30:]) / 30 for trials in (tpe, random)]
    assert late[0] > late[1] + 1, "what it learned shows in the mean of the later half"


@pytest.mark.parametrize("search", ["tpe", "random", "grid"])
def test_a_seed_repeats_a_search(search: str):
    assert run_all(searcher(search, seed=5), 15) == run_all(searcher(search, seed=5), 15)


def test_searching_ends_with_the_number_of_trials_or_the_grid():
    search = searcher("random", trials=3)
    run_all(search, 3)
    assert search.suggest("more") == Searcher.FINISHED
    grid = searcher("grid")
    points = len(Space(smoke().domains, smoke().base).grid())
    assert len({json.dumps(values, sort_keys=True) for values, _ in run_all(grid, points)}) == points
    assert grid.suggest("more") == Searcher.FINISHED


@pytest.mark.parametrize("search", ["tpe", "random"])
def test_each_point_is_tried_with_all_seeds(search: str):
    preset = smoke()
    space = Space((*preset.domains, Domain(path="seed", kind="choice", values=(7, 8, 9))), preset.base)
    found = [values for values, _ in run_all(SpaceSearch(space, PSNR, search, 0, 12), 12)]
    assert [values.pop("seed") for values in found] == [7, 8, 9] * 4
    points = [json.dumps(values) for values in found]
    assert [points.count(point) for point in points] == [3] * 12


def test_tpe_learns_earlier_where_there_are_few_trials():
    few, many = searcher("tpe", trials=8), searcher("tpe", trials=80)
    assert [search._study.sampler._n_startup_trials for search in (few, many)] == [4, 10]  # pyright: ignore


def test_a_restored_search_takes_the_budget_of_its_folder(tmp_path: Path):
    plan = Plan.new(Options(preset="smoke", work=tmp_path, name="one", budget="2"), lambda _: [Machine(8, 0)])
    search = SpaceSearch(plan.space, PSNR, "random", 0, 2, plan.folder)
    run_all(search, 2)
    assert search.suggest("more") == Searcher.FINISHED
    search.save(str(tmp_path / "state"))
    replace(plan.sweep, budget="3").write(plan.folder)
    search.restore(str(tmp_path / "state"))
    assert search.suggest("more") != Searcher.FINISHED


def test_a_search_goes_on_after_it_was_saved(tmp_path: Path):
    one, other = searcher("tpe", seed=2), searcher("tpe", seed=99)
    run_all(one, 12)
    one.suggest("open")
    one.save(str(tmp_path / "state"))
    other.restore(str(tmp_path / "state"))
    for search in (one, other):
        search.on_trial_complete("open", {"ab_psnr": 3.0, "images_seen": 1, "training_iteration": 1})
    assert run_all(one, 5) == run_all(other, 5)


def states(search: SpaceSearch) -> list[str]:
    return [trial.state.name for trial in search._study.trials]


def test_optuna_learns_how_each_trial_ended():
    search = searcher("tpe")
    for name in ("whole", "stopped", "broke", "died", "blind", "running"):
        search.suggest(name)
        search.on_trial_result(name, {"ab_psnr": 20.0, "images_seen": 100, "training_iteration": 1})
    search.on_trial_complete("whole", {"ab_psnr": 20.0, "images_seen": 100, "training_iteration": 1})
    search.on_trial_complete("stopped", {"ab_psnr": 19.0, "images_seen": 200, "training_iteration": 2})
    search.on_trial_complete("broke", {"ab_psnr": None, ERROR: "no", "images_seen": 0, "training_iteration": 2})
    search.on_trial_complete("died", error=True)
    search.on_trial_complete("blind", {"ab_psnr": float("nan"), "images_seen": 100, "training_iteration": 1})
    assert states(search) == ["COMPLETE", "PRUNED", "FAIL", "FAIL", "FAIL", "RUNNING"]
    stopped = search._study.trials[1]
    assert stopped.intermediate_values == {100: 20.0, 200: 19.0}


def test_a_report_that_a_resumed_trial_repeats_counts_once():
    search = searcher("tpe")
    search.suggest("resumed")
    for iteration, value in ((1, 20.0), (2, 20.5)):
        search.on_trial_result("resumed", {"ab_psnr": value, "images_seen": 100, "training_iteration": iteration})
    assert search._study.trials[0].intermediate_values == {100: 20.0}


def result(images: int, value: float | None) -> dict[str, Any]:
    return {"images_seen": images, "ab_psnr": value}


def named(name: str) -> Any:
    return SimpleNamespace(trial_id=name)


def test_asha_counts_a_trials_own_photos_and_spares_its_last_report(tmp_path: Path):
    scheduler = Asha(PSNR, COURSE, tmp_path)
    for name in "abc":
        scheduler.on_trial_add(None, named(name))
    assert scheduler.on_trial_result(None, named("a"), result(1100, 20.0)) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, named("b"), result(1100, 10.0)) == TrialScheduler.STOP
    assert scheduler.on_trial_result(None, named("c"), result(1100, 30.0)) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, named("c"), result(1200, 30.0)) == TrialScheduler.CONTINUE
    assert scheduler.on_trial_result(None, named("a"), result(1200, 5.0)) == TrialScheduler.STOP
    assert scheduler.on_trial_result(None, named("c"), result(1400, 0.0)) == TrialScheduler.CONTINUE
    for name in "abc":
        scheduler.on_trial_complete(None, named(name), {})


def test_asha_decides_nothing_without_the_metric(tmp_path: Path):
    scheduler = Asha(PSNR, COURSE, tmp_path)
    for name in "ab":
        scheduler.on_trial_add(None, named(name))
    assert scheduler.on_trial_result(None, named("a"), result(1100, 20.0)) == TrialScheduler.CONTINUE
    for value in (None, float("nan")):
        assert scheduler.on_trial_result(None, named("b"), result(1100, value)) == TrialScheduler.CONTINUE


def test_asha_remembers_the_trials_of_an_earlier_session(tmp_path: Path):
    before = pickle.dumps(Asha(PSNR, COURSE, tmp_path))
    report = Report(1100, "pretrain-edit", 1.0, {"ab_psnr": 25.0})
    write_trials(tmp_path, [Trial(id="a", number=0, status="finished", values={}, reports=(report,))])
    scheduler = pickle.loads(before)
    scheduler.on_trial_add(None, named("b"))
    assert scheduler.on_trial_result(None, named("b"), result(1100, 20.0)) == TrialScheduler.STOP


@pytest.mark.parametrize(
    "domain",
    [
        Domain(path="recipe.clicks.interactions", kind="integer", low=1, high=3),
        Domain(path="recipe.loss.entropy", kind="log_uniform", low=1e-3, high=0.1),
        Domain(path="recipe.choice.temperature.warmup", kind="uniform", low=0.1, high=0.5),
    ],
)
def test_mutations_draw_from_the_whole_domain(domain: Domain):
    draw = mutation(domain)
    assert callable(draw)
    values = [draw() for _ in range(200)]
    low, high = domain.limits
    assert all(low <= value <= high for value in values)
    assert min(values) < low + (high - low) / 3
    assert max(values) > high - (high - low) / 3


@dataclass(frozen=True, eq=False)
class Copied:
    """What of a Ray trial is read when it is copied."""

    trial_id: str
    config: dict[str, Any]


def copied(seed: int) -> dict[str, Any]:
    """The config of a trial that takes over a better one's weights."""
    preset = smoke()
    space = Space(preset.domains, preset.base)
    scheduler = Pbt(PSNR, COURSE, space, ["recipe.loss.entropy", "recipe.choice.temperature.start"], seed)
    point = {
        "recipe.choice.estimator": "argmax_ste",
        "recipe.loss.entropy": 0.02,
        "recipe.choice.temperature.start": 1.0,
    }
    donor, other = Copied("x_00001", {POINT: point}), named("x_00002")
    scheduler._trial_state = {donor: SimpleNamespace(last_result={"images_seen": 1100})}  # pyright: ignore
    with pbt._drawn_from(seed, "00002", 1100):
        config, _ = scheduler._get_new_config(other, donor)
    return config


def test_mutations_follow_the_seed():
    assert copied(1) == copied(1)
    assert len({json.dumps(copied(seed)[POINT]) for seed in range(5)}) > 1


def test_pbt_draws_from_its_own_place_in_the_seeds_stream_and_leaves_others_theirs(monkeypatch):
    drawn: list[float] = []

    def perturb(self: Any, controller: Any, trial: Any, result: Any) -> str:
        drawn.append(random.random())
        return TrialScheduler.CONTINUE

    monkeypatch.setattr(pbt.PopulationBasedTraining, "on_trial_result", perturb)
    preset = smoke()
    for seed, name in ((1, "x_00002"), (1, "y_00002"), (2, "x_00002")):
        scheduler = Pbt(PSNR, COURSE, Space(preset.domains, preset.base), ["recipe.loss.entropy"], seed)
        random.seed(0)
        scheduler.on_trial_result(None, named(name), result(1100, 20.0))
        assert random.random() == random.Random(0).random()
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_copy_knows_which_settings_made_its_weights():
    config = copied(1)
    first, second = config[LEGS]
    assert (first["images_seen"], first["trial"], first["values"]["recipe.loss.entropy"]) == (0, "x_00001", 0.02)
    assert (second["images_seen"], second["trial"], second["values"]) == (1100, "x_00002", config[POINT])
    assert config[PARENT] == "x_00001"
