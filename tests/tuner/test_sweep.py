import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from evaluator.registry.mlflow_registry import new_client
from tests import ROOT
from tests.trainer.small_training import own
from tests.tuner.toy import BEST, TOP, climb
from tests.tuner.toy_sweep import NAME, mortal, options, sometimes_wrong
from trainer.config.overrides import read_config
from tuner.callback import SECONDS
from tuner.config import Options
from tuner.plan import FINISHED, SWEEPS, Plan
from tuner.records import BEST_FILE, REPORT_FILE, Sweep, Trial, best, read_trials
from tuner.sweep import Objective, run

pytestmark = pytest.mark.launch


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Ray's own leftovers (sockets, its logger's files) are no warnings of ours."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def sweep(work: Path, objective: Objective, **changes: Any) -> tuple[Plan, list[Trial]]:
    plan = Plan.new(options(work, **changes))
    return plan, run(plan, objective=objective)


def test_a_planted_optimum_is_found_and_failures_do_not_stop_the_sweep(tmp_path: Path):
    plan, trials = sweep(tmp_path, sometimes_wrong, budget="20", parallel=1, metric=(("ab_psnr",),))
    counts = Counter(trial.status for trial in trials)
    assert len(trials) == 20
    assert set(counts) == {"finished", "stopped", "failed"}, counts
    leader = best(trials, plan.sweep.metric)
    assert leader
    assert leader.values["recipe.choice.estimator"] == BEST["recipe.choice.estimator"]
    value = leader.value("ab_psnr")
    assert value
    assert value > TOP * (1 - 0.5**4) - 2, "two dB from the top, which a trial comes to within 1 / 32"
    for trial in trials:
        if trial.status == "failed":
            assert trial.error == "no gumbel_softmax_soft today"
            assert "nor tomorrow" in (plan.folder / "errors" / f"{trial.id}.txt").read_text()
        assert len(trial.reports) == {"finished": 5, "failed": 0}.get(trial.status, len(trial.reports))

    config = read_config(plan.folder / BEST_FILE)
    assert own(config).choice.estimator == BEST["recipe.choice.estimator"]
    assert own(config).loss.entropy == leader.values["recipe.loss.entropy"]
    written = Sweep.read(plan.folder)
    assert written.options[FINISHED]
    assert written.options[SECONDS] > 0
    assert (plan.folder / REPORT_FILE).exists()
    parent = new_client(written.tracking_uri).get_run(written.parent_run)
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best/ab_psnr"] == pytest.approx(value)
    with pytest.raises(ValueError, match="all sweeps are finished"):
        Plan.resumed(Options(work=tmp_path, name=NAME))


@pytest.mark.slow
def test_population_based_training_copies_better_trials_and_perturbs_their_schedules(tmp_path: Path):
    plan, trials = sweep(tmp_path, climb, scheduler="pbt", budget="8")
    assert len(trials) == 8
    assert all(trial.status == "finished" for trial in trials)
    copied = [trial for trial in trials if trial.parent]
    assert copied
    ids = {trial.id for trial in trials}
    for trial in copied:
        assert trial.parent in ids - {trial.id}
        assert len(trial.legs) > 1
        assert trial.legs[-1].values == trial.values
        photos = [leg.images_seen for leg in trial.legs]
        assert photos == sorted(set(photos))
        assert photos[0] == 0
        for path in plan.mutated:
            if path in trial.values:
                low, high = plan.space.domain(path).limits
                assert low <= trial.values[path] <= high


@pytest.mark.slow
def test_a_trial_whose_process_dies_is_tried_again(tmp_path: Path):
    _, trials = sweep(tmp_path, mortal, budget="3", parallel=2, scheduler="none")
    assert [trial.status for trial in trials] == ["finished"] * 3
    assert len(list((tmp_path / SWEEPS / NAME).glob("died-*"))) == 3


@pytest.mark.slow
def test_a_budget_of_photos_ends_the_sweep(tmp_path: Path):
    plan, trials = sweep(tmp_path, climb, budget="10k photos", parallel=1, scheduler="none")
    photos = sum(trial.reports[-1].images_seen - plan.course.shared for trial in trials if trial.reports)
    assert 10_000 <= photos < 10_000 + 2 * plan.course.own[-1]
    assert {trial.status for trial in trials} <= {"finished", "stopped"}


@pytest.mark.slow
def test_a_killed_sweep_goes_on_without_repeating_what_is_finished(tmp_path: Path):
    command = [sys.executable, "-m", "tests.tuner.toy_sweep", str(tmp_path)]
    folder = tmp_path / SWEEPS / NAME
    process = subprocess.Popen([*command, "new"], cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 180
    while sum(trial.status != "running" for trial in read_trials(folder)) < 4:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {trial.id: trial for trial in read_trials(folder) if trial.status != "running"}
    assert FINISHED not in Sweep.read(folder).options

    subprocess.run([*command, "resume"], cwd=ROOT, check=True, timeout=300)
    trials = {trial.id: trial for trial in read_trials(folder)}
    assert len(trials) == 12
    assert all(trial.status in ("finished", "stopped") for trial in trials.values())
    assert all(trials[name].reports == trial.reports for name, trial in before.items())
    starts = Counter((folder / "starts.txt").read_text().split())
    again = [name for name, count in starts.items() if count > 1]
    assert len(again) <= 1, "the one trial that ran when the driver was killed"
    assert Sweep.read(folder).options[FINISHED]
