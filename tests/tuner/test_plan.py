import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from trainer.config import flatten
from tuner.__main__ import main
from tuner.config import Options
from tuner.plan import FINISHED, SWEEPS, Course, Plan, words
from tuner.records import SWEEP_FILE, Sweep, Trial, write_trials
from tuner.report.tables import asked
from tuner.resources import Machine
from tuner.search.presets import smoke


def new(work: Path, **changes: Any) -> Plan:
    return Plan.new(Options(**{"preset": "smoke", "work": work, "name": "one", **changes}))


def test_a_plan_is_the_preset_with_the_options_over_it(tmp_path: Path, monkeypatch):
    ready(monkeypatch)
    plan = new(
        tmp_path,
        set=(
            ("seed=4", "recipe.loss.heatmap=0.5", "data.image_size=64"),
            ("recipe.choice.estimator=reinmax", "validation.clicks=[0,2]"),
        ),
        metric=(("ab_ssim,lpips",),),
        budget="3, 1h",
        seed=9,
    )
    flat = flatten(plan.base)
    assert (flat["seed"], flat["recipe.loss.heatmap"], flat["recipe.choice.estimator"]) == (4, 0.5, "reinmax")
    assert flat["validation.clicks"] == (0, 2)
    assert flat["run.work"] == str(tmp_path.resolve())
    assert [measure.name for measure in plan.sweep.metrics] == ["ab_ssim", "lpips"]
    assert (plan.budget.trials, plan.budget.seconds) == (3, 3600)
    assert (plan.sweep.search, plan.sweep.scheduler, plan.sweep.seed) == ("tpe", "asha", 9)
    assert plan.sweep.tracking_uri.startswith("sqlite:///")
    assert str(tmp_path.resolve()) in plan.sweep.tracking_uri


def test_a_plan_comes_back_from_its_folder(tmp_path: Path, monkeypatch):
    ready(monkeypatch)
    file = tmp_path / "space.yaml"
    file.write_text("recipe.loss.entropy: {log_uniform: [1e-3, 1e-1], extra: [0]}\nseed: [0, 1]\n")
    plan = new(tmp_path, space=file, metric=(("lpips", "ab_psnr"),), set=(("seed=2", "data.image_size=64"),))
    assert Plan.read(plan.folder) == plan
    assert Plan.resumed(Options(work=tmp_path)) == plan


def ready(monkeypatch: pytest.MonkeyPatch, why: str | None = None) -> None:
    """Say whether LPIPS has its weights."""
    monkeypatch.setattr("tuner.objectives.unavailable", lambda name: why)


def test_lpips_that_cannot_be_measured_is_refused_before_any_trial(tmp_path: Path, monkeypatch):
    ready(monkeypatch, "no weights")
    with pytest.raises(ValueError, match="lpips cannot be measured here: no weights"):
        new(tmp_path, metric=(("lpips",),), set=(("data.image_size=64",),))
    assert not (tmp_path / SWEEPS).exists()


def test_the_base_can_be_a_file_of_the_trainer(tmp_path: Path):
    first = new(tmp_path)
    file = tmp_path / "base.yaml"
    file.write_text("preset: tiny\nrecipe.loss.heatmap: 0.7\nrecipe.network: unet\nrecipe.guide: own\n")
    second = new(tmp_path, name="two", config=file)
    assert flatten(second.base)["recipe.loss.heatmap"] == 0.7
    assert second.base.preset == "tiny"
    assert second.course != first.course


def test_resuming_takes_the_newest_unfinished_sweep(tmp_path: Path):
    with pytest.raises(ValueError, match="no sweep at all"):
        Plan.resumed(Options(work=tmp_path))
    first, second = new(tmp_path, name="a"), new(tmp_path, name="b")
    os.utime(first.folder / SWEEP_FILE, (1, 1))
    done = Sweep.read(second.folder)
    done.options[FINISHED] = "now"
    done.write(second.folder)
    assert Plan.resumed(Options(work=tmp_path)).folder == first.folder
    with pytest.raises(ValueError, match="all sweeps are finished"):
        Plan.resumed(Options(work=tmp_path, name="b"))
    with pytest.raises(ValueError, match="no sweep c"):
        Plan.resumed(Options(work=tmp_path, name="c"))


def test_resuming_takes_another_budget_and_refuses_what_would_have_no_effect(tmp_path: Path):
    before = new(tmp_path, budget="8, 1h")
    after = Plan.resumed(Options(work=tmp_path, budget="9, 2h", address="auto"), lambda _: [Machine(2, 0)])
    assert (after.budget.trials, after.budget.seconds) == (9, 7200)
    assert Plan.read(before.folder) == after
    again = Plan.resumed(Options(work=tmp_path, budget="40, 3h"), lambda _: [Machine(2, 0)])
    assert again.budget.trials == 40
    assert "TPE drew the first 4 trials at random" in " ".join(asked(again.sweep, [], False)), "as many as of 8"
    for changes in ({"metric": (("lpips",),)}, {"parallel": 2}, {"share_pretraining": False}):
        name = next(iter(changes)).replace("_", "-")
        with pytest.raises(ValueError, match=f"--{name} would have no effect; leave it out. It takes --name"):
            Plan.resumed(Options(**{"work": tmp_path, **changes}))
    with pytest.raises(ValueError, match="a trial needs 1 core, and the cluster has 0"):
        Plan.resumed(Options(work=tmp_path), lambda _: [])


def test_a_search_that_has_ended_takes_no_more_trials(tmp_path: Path):
    plan = new(tmp_path, budget="1")
    write_trials(plan.folder, [Trial(id="a", number=0, status="running", values={})])
    with pytest.raises(ValueError, match="all 1 trials of the sweep have begun"):
        Plan.resumed(Options(work=tmp_path, budget="5"))
    evolving = new(tmp_path, name="pbt", scheduler="pbt", budget="4")
    with pytest.raises(ValueError, match="population stays at 4"):
        Plan.resumed(Options(work=tmp_path, name=evolving.sweep.name, budget="5"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metric", "ab_psnrr"], "did you mean ab_psnr"),
        (["--set", "recipe.loss.entropi=1"], "did you mean recipe.loss.entropy"),
        (["--set", "recipe.loss.entropy"], "write NAME=VALUE"),
        (["--set", "recipe.loss.entropy=high"], "recipe.loss.entropy cannot be 'high'"),
        (["--budget", "soon"], "is no amount"),
        (["--space", "missing.yaml"], "cannot be read"),
        (["--config", "missing.json"], "cannot be read"),
        (["--name", "../up"], "plain folder name"),
        (["--mutate", "recipe.loss.entropy"], "no effect without --scheduler pbt"),
        (["--scheduler", "pbt", "--mutate", "recipe.loss.heatmap"], "recipe.loss.heatmap is not searched"),
        (["--scheduler", "pbt", "--budget", "3"], "population of 3 is too small"),
        (["--scheduler", "pbt", "--search", "grid"], "grid has no effect with pbt"),
        (["--scheduler", "pbt", "--workers", "2"], "pbt with --workers above 1 could copy no weights"),
        (["--scheduler", "pbt", "--parallel", "2"], "--parallel has no effect with pbt"),
        (["--set", 'data.train=["nowhere/0.tar"]'], "nowhere"),
        (["--cpus", "1000"], "a trial needs 1000 cores"),
        (["--parallel", "1000"], "has room for"),
        (["--gpus", "1000"], "1000 GPUs"),
        (["repotr"], "no command 'repotr'"),
        (["report", "nowhere"], "no sweep"),
    ],
)
def test_what_a_person_got_wrong_is_one_message_and_exit_code_2(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = words if words[0].startswith("re") else ["--preset", "smoke", "--work", str(tmp_path), *words]
    assert main(options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert not (tmp_path / SWEEPS).exists(), "nothing is left behind"


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("recipe.rounds.cycles", "[1, 2]"),
        ("validation.hint_size", "[1, 2]"),
        ("engine.threads", "[1, 2]"),
        ("data.batch_size", "[1, 2]"),
        ("data.image_size", "[32, 64]"),
        ("data.manifest", "[a.json, b.json]"),
    ],
)
def test_what_all_trials_must_share_is_not_searched(path: str, values: str, tmp_path: Path):
    space = tmp_path / "space.yaml"
    space.write_text(f"{path}: {values}\n")
    with pytest.raises(ValueError, match=f"{path} cannot be searched"):
        new(tmp_path / "runs", space=space)


def test_shapes_that_would_all_be_the_same_are_not_searched(tmp_path: Path):
    space = tmp_path / "space.yaml"
    space.write_text("recipe.choice.temperature.shape: [constant, exponential]\n")
    with pytest.raises(ValueError, match=r"choice\.temperature\.shape is searched, but every shape stays at 1"):
        new(tmp_path / "runs", space=space)
    new(tmp_path / "runs", space=space, set=(("recipe.choice.temperature.end=0.5",),))


def test_a_grid_is_whole_unless_the_budget_says_otherwise(tmp_path: Path):
    space = tmp_path / "space.yaml"
    space.write_text("recipe.loss.entropy: [0.0, 0.1, 0.2]\nrecipe.clicks.interactions: [1, 2, 3, 4]\n")
    assert new(tmp_path / "runs", name="a", space=space, search="grid").budget.trials == 12
    assert new(tmp_path / "runs", name="b", space=space, search="grid", budget="5").budget.trials == 5


@pytest.mark.parametrize("words", [["--workers", "0"], ["--cpus", "0"], ["--gpus", "-1"], ["--search", "best"]])
def test_an_option_that_cannot_be_is_exit_code_2_too(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_a_sweep_is_not_begun_twice(tmp_path: Path):
    new(tmp_path)
    with pytest.raises(ValueError, match=r"one exists; give another --name, or --resume"):
        new(tmp_path)


def test_help_needs_no_heavy_library():
    code = (
        "import sys; from tuner.__main__ import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'ray', 'optuna', 'torch', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=ROOT)


def test_pbt_perturbs_the_schedules_that_are_searched(tmp_path: Path):
    plan = new(tmp_path, scheduler="pbt", budget="2h")
    assert plan.mutated == ("recipe.choice.temperature.start", "recipe.choice.temperature.end")
    assert plan.population == 8
    assert plan.sweep.search == "random"
    named = new(tmp_path, name="named", scheduler="pbt", mutate=(("recipe.loss.entropy",),))
    assert named.mutated == ("recipe.loss.entropy",)


def test_the_course_is_the_trainings_own_arithmetic():
    course = Course.of(smoke().base, share_pretraining=True)
    assert course.ends == (2048, 2560, 2816, 3072, 3328, 3584)
    assert course.own == (512, 768, 1024, 1280, 1536)
    assert course.shortest == 256
    alone = Course.of(smoke().base, share_pretraining=False)
    assert alone.own == course.ends


def test_words_may_be_separated_by_commas():
    assert words((("a,b", "c"), ("d",))) == ("a", "b", "c", "d")
