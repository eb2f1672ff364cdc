"""The command as a person types it: help, mistakes, a whole small run, a signal, a resume."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evaluator.registry.mlflow_registry import connect, default_tracking_uri, load_colorizer, load_guide, versions
from evaluator.system.environment import commit
from tests import ROOT
from tests.trainer.small_training import SMALL_UNET, own
from trainer.config import flatten
from trainer.config.presets import PRESETS
from trainer.main import main, parse
from trainer.run_folder import start_run

pytestmark = pytest.mark.training

SMALL = (
    *SMALL_UNET,
    *("--data.batch-size", "8"),
    *(
        "--recipe.rounds.pretrain-color",
        "0.012",
        "--recipe.rounds.pretrain-edit",
        "0.004",
        "--recipe.rounds.ping",
        "0.004",
    ),
    *("--recipe.rounds.pong", "0.004", "--validation.photos", "4", "--validation.clicks", "0", "1", "2"),
    *("--engine.threads", "1", "--engine.precision", "fp32", "--run.checkpoint-every", "8"),
)


def test_no_words_mean_the_tiny_preset_and_the_first_word_may_name_one():
    assert parse([]).config == PRESETS["tiny"]()
    for name, preset in PRESETS.items():
        assert parse([name]).config == preset()
    assert own(parse(["paper", "--recipe.loss.entropy", "0.05", "--resume"]).config).loss.entropy == 0.05
    assert parse(["paper", "--data.train", "a.tar", "b.tar"]).config.data.train == ("a.tar", "b.tar")


def test_help_names_and_explains_every_setting(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        parse(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name in flatten(PRESETS["tiny"]()):
        assert f"--{name.replace('_', '-')}" in text
    assert "lambda_entropy" in text


def test_an_unknown_preset_gets_a_suggestion(capsys: pytest.CaptureFixture[str]):
    assert main(["papr"]) == 2
    assert "there is no preset 'papr'; did you mean paper?" in capsys.readouterr().err


def test_an_unknown_option_gets_a_suggestion_and_exit_code_2(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["--data.image-sise", "64"])
    assert ended.value.code == 2
    assert "--data.image-size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data.image-size", "65"], "data.image_size is 65; these networks need a multiple of 32"),
        (["--engine.precision", "fp16"], "engine.precision is fp16 on a CPU"),
        (["--data.train", "nowhere.tar"], "nowhere.tar"),
        (["--data.validation", "nowhere.zip"], "nowhere.zip"),
        (["--resume"], "nothing to resume: there is no run at all in"),
    ],
)
def test_wrong_input_is_one_message_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
):
    assert main(["--run.work", str(tmp_path / "runs"), "--recipe.loss.perceptual", "off", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") < 12
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of a run that came to its end, made by the command itself."""
    work = tmp_path_factory.mktemp("work")
    assert main(["--run.work", str(work), "--run.name", "whole", *SMALL]) == 0
    return work


def test_a_run_leaves_tables_pictures_and_registered_networks(finished: Path):
    run = finished / "whole"
    for name in (
        "config.json",
        "results.json",
        "clicks.png",
        "curves.png",
        "validation.txt",
        "validation.csv",
    ):
        assert (run / name).stat().st_size > 0, name
    results = json.loads((run / "results.json").read_text())
    policies = {"random", "editnet-oracle", "editnet-blind", "no network"}
    assert {row["policy"] for row in results["results"]} == policies
    assert "no network: the colors of the same random clicks" in " ".join(
        (run / "validation.txt").read_text().split()
    )
    assert {row["clicks"] for row in results["results"]} == {0, 1, 2}
    uri = default_tracking_uri(finished)
    found = {version.name: version for version in versions(uri)}
    assert set(found) == {"colornet", "editnet-oracle", "editnet-blind"}
    assert all("champion" in version.aliases for version in found.values())


def test_mlflow_has_the_whole_run(finished: Path):
    import mlflow

    client = mlflow.MlflowClient(default_tracking_uri(finished))
    experiment = client.get_experiment_by_name("chromaclick")
    assert experiment is not None
    run = next(r for r in client.search_runs([experiment.experiment_id]) if r.info.run_name == "whole")
    assert run.info.status == "FINISHED"
    assert run.data.params["recipe.choice.estimator"] == "argmax_ste"
    assert set(run.data.params) >= set(flatten(PRESETS["tiny"]()))
    assert run.data.tags["perceptual"] == "off"
    assert run.data.tags["mlflow.source.git.commit"] == commit()
    losses = client.get_metric_history(run.info.run_id, "pretrain-color/l1")
    assert [point.step for point in losses] == [8, 16, 24, 32, 40, 48, 56]
    for policy in ("editnet-blind", "no network"):
        assert f"validation/{policy}/ab_psnr_at_2" in run.data.metrics
    kept = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert kept >= {"clicks.png", "curves.png", "validation.txt", "validation.csv", "config.json"}


def test_registered_networks_are_the_trained_ones(finished: Path):
    """The champion from the registry against the weights in the last checkpoint, at another batch and size."""
    from trainer.networks import ColorNet, EditNet

    uri = default_tracking_uri(finished)
    last = sorted((finished / "whole" / "checkpoints").iterdir())[-1]
    engines = torch.load(last / "state.pt", weights_only=True)["engines"]
    torch.manual_seed(0)
    lightness, clicks, ab = torch.rand(3, 1, 24, 32), torch.rand(3, 3, 24, 32), torch.rand(3, 2, 24, 32)
    color = ColorNet((8, 8, 16))
    color.load_state_dict(engines["color"]["network"])
    with torch.no_grad():
        found = load_colorizer("models:/colornet@champion", uri)(lightness, clicks)
        assert torch.allclose(found, color.eval()(lightness, clicks), atol=1e-5)
        for variant, truth in (("oracle", ab.flip(0)), ("blind", None)):
            edit = EditNet(variant, (4, 8, 8))  # pyright: ignore[reportArgumentType]: a variant
            edit.load_state_dict(engines[f"edit_{variant}"]["network"])
            guide = load_guide(f"models:/editnet-{variant}@champion", uri)
            expected = edit.eval()(lightness, ab, clicks, truth)
            assert torch.allclose(guide(lightness, ab, clicks, truth), expected, atol=1e-5)
            assert guide.contract.hint_size == (3, 3)


def test_later_runs_do_not_take_the_champion(finished: Path):
    assert main(["--run.work", str(finished), "--run.name", "second", "--seed", "1", *SMALL]) == 0
    champions = [v.version for v in versions(default_tracking_uri(finished)) if "champion" in v.aliases]
    assert [int(version) for version in champions] == [1, 1, 1]


def test_a_name_that_is_taken_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--run.work", str(finished), "--run.name", "whole", *SMALL]) == 2
    assert "whole is finished; give another --run.name\n" in capsys.readouterr().err


def test_a_finished_run_is_not_resumed(finished: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--run.work", str(finished), "--run.name", "whole", "--resume", *SMALL]) == 2
    assert "whole: finished" in capsys.readouterr().err


def test_what_mlflow_did_not_get_of_a_finished_run_is_sent_when_it_is_resumed(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    work = tmp_path / "work"
    shutil.copytree(finished, work)
    client = connect(default_tracking_uri(work))
    run = next(one for one in client.search_runs(["1"]) if one.info.run_name == "whole")
    file, folder = work / "whole" / "results.json", work / "whole"
    results = json.loads(file.read_text())
    del results["registered"]["editnet-blind"]
    file.write_text(json.dumps(results))
    before = [int(one.version) for one in versions(default_tracking_uri(work)) if one.name == "editnet-blind"]
    entry = {"kind": "metric", "key": "late", "value": 3.5, "step": 7, "time": 1}
    unsent = folder / f"unsent-{run.info.run_id}.jsonl"
    unsent.write_text(json.dumps(entry) + "\n")
    words = ["--run.work", str(work), "--run.name", "whole", *SMALL]
    for again in ("--resume", "--resume-or-start"):
        assert main([*words, again]) == 0
        (point,) = client.get_metric_history(run.info.run_id, "late")
        assert (point.value, point.step) == (3.5, 7)
        assert json.loads(file.read_text())["registered"]["editnet-blind"] == max(before) + 1
        assert not unsent.exists()
        assert client.get_run(run.info.run_id).info.status == "FINISHED"
    said = capsys.readouterr().out
    assert f"Registered editnet-blind version {max(before) + 1}" in said
    assert said.count("nothing is left to do") == 1


def test_a_finished_run_is_nothing_to_do_for_a_start_that_may_resume(
    finished: Path, capsys: pytest.CaptureFixture[str]
):
    before = (finished / "whole" / "results.json").read_bytes()
    assert main(["--run.work", str(finished), "--run.name", "whole", "--resume-or-start", *SMALL]) == 0
    assert "whole is finished: nothing is left to do" in capsys.readouterr().out
    assert (finished / "whole" / "results.json").read_bytes() == before


def test_the_two_ways_to_resume_are_not_given_together(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["--resume", "--resume-or-start"])
    assert ended.value.code == 2
    assert "give one of them" in capsys.readouterr().err


def test_a_signal_to_all_processes_spares_the_readers_until_the_state_is_saved(
    tmp_path: Path, numbered_shards: Path
):
    """Slurm signals every process of a step, the loader's workers too."""
    words = [
        "--run.work",
        str(tmp_path),
        "--run.name",
        "all",
        *SMALL,
        "--data.workers",
        "1",
        "--recipe.rounds.pretrain-color",
        "9",
    ]
    command = [sys.executable, "trainer/main.py", *words, "--data.train", str(numbered_shards)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        before = []
        for line in process.stdout:
            before.append(line)
            if "after pretrain-color" in line:  # so the workers have been at work
                os.killpg(process.pid, signal.SIGTERM)
        assert process.wait() == 0
    assert "Saved on SIGTERM" in "".join(before)


def test_a_preset_is_the_first_word_and_not_an_option(capsys: pytest.CaptureFixture[str]):
    assert main(["--preset", "paper"]) == 2
    assert "--preset is only a label; write the preset first" in capsys.readouterr().err


def test_networks_that_were_not_trained_are_not_registered(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = [*SMALL, "--recipe.rounds.pretrain-edit", "0", "--recipe.rounds.cycles", "0"]
    assert main(["--run.work", str(tmp_path), *words]) == 0
    assert f"python -m evaluator serve --work {tmp_path}\n" in capsys.readouterr().out
    assert [version.name for version in versions(default_tracking_uri(tmp_path))] == ["colornet"]


def test_a_run_that_could_not_be_opened_leaves_nothing_to_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def no_server(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no server in tests")

    monkeypatch.setattr("trainer.session.open_tracker", no_server)
    assert main(["--run.work", str(tmp_path), *SMALL]) == 2
    assert "no server in tests" in capsys.readouterr().err
    assert main(["--run.work", str(tmp_path), "--resume", *SMALL]) == 2
    assert "nothing to resume" in capsys.readouterr().err


def test_a_later_start_that_could_not_be_opened_leaves_the_folder_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    def no_server(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no server in tests")

    words = ["--run.work", str(tmp_path), "--run.name", "named", "--resume-or-start", *SMALL]
    start_run(parse(words).config)
    (tmp_path / "named" / "unsent.jsonl").write_text("metrics of the first start")
    monkeypatch.setattr("trainer.session.open_tracker", no_server)
    assert main(words) == 2
    assert "no server in tests" in capsys.readouterr().err
    assert (tmp_path / "named" / "unsent.jsonl").exists()


@pytest.mark.parametrize(
    "launcher",
    [pytest.param((), marks=pytest.mark.slow), ("-m", "accelerate.commands.launch", "--num_processes", "1")],
)
def test_sigterm_saves_and_the_same_command_with_resume_ends_like_an_uninterrupted_run(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], launcher: tuple[str, ...]
):
    """The signal goes to the process that a person started: the trainer itself, or its launcher."""
    command = [sys.executable, *launcher, "trainer/main.py", "--run.work", str(tmp_path), "--run.name", "stopped"]
    root = ROOT
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*command, *SMALL], cwd=root, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        before = []
        for line in process.stdout:  # ends when the trainer has ended
            before.append(line)
            if line.startswith("new run"):
                process.send_signal(signal.SIGTERM)
        assert process.wait() == (-signal.SIGTERM if launcher else 0)
    assert "Saved on SIGTERM" in "".join(before)
    assert list((tmp_path / "stopped" / "checkpoints").iterdir())

    other = [*SMALL, "--recipe.loss.entropy", "0.5"]
    assert main(["--run.work", str(tmp_path), "--resume", *other]) == 2
    assert "stopped: recipe.loss.entropy is 0.01 there and 0.5 here" in capsys.readouterr().err

    assert main(["--run.work", str(tmp_path), "--resume", *SMALL]) == 0
    stopped, whole = (
        json.loads((folder / "results.json").read_text()) for folder in (tmp_path / "stopped", finished / "whole")
    )
    assert stopped["results"] == whole["results"]
    assert stopped["curve"] == whole["curve"]
