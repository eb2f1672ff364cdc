"""The work folder: which run a start goes on with."""

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer import run_folder
from trainer.config import Config, override
from trainer.config.presets import tiny
from trainer.run_folder import CONFIG_FILE, RESULTS_FILE, Claim, RunFolder, open_run


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return override(tiny(), {"run.work": str(tmp_path), "run.name": "named"})


def with_checkpoint(folder: Path) -> None:
    (folder / "checkpoints" / "000000000008-000").mkdir(parents=True)


def nothing(folder: Path) -> None:
    """As far as the first start came."""


def test_the_first_start_makes_the_run(tmp_path: Path, config: Config):
    opened = open_run(config, resume=False, or_start=True)
    assert (opened.made, opened.resumed, opened.finished) == (True, False, False)
    assert opened.folder.path == tmp_path / "named"
    assert not opened.folder.differences(config)


@pytest.mark.parametrize(
    ("left", "resumed", "finished"),
    [
        pytest.param(nothing, False, False, id="ended before its first checkpoint"),
        pytest.param(with_checkpoint, True, False, id="ended after it"),
        pytest.param(lambda folder: (folder / RESULTS_FILE).write_text("{}"), False, True, id="came to its end"),
    ],
)
def test_a_later_start_goes_on_with_it(
    config: Config, left: Callable[[Path], object], resumed: bool, finished: bool
):
    folder = open_run(config, resume=False, or_start=True).folder
    left(folder.path)
    opened = open_run(config, resume=False, or_start=True)
    assert (opened.made, opened.resumed, opened.finished) == (False, resumed, finished)
    assert opened.folder == folder


def test_a_start_that_was_killed_before_its_config_was_written_is_done_again(tmp_path: Path, config: Config):
    (tmp_path / "named").mkdir()
    assert not open_run(config, resume=False, or_start=True).made, "it is not ours to take away"
    assert (tmp_path / "named" / CONFIG_FILE).exists()


def test_a_continuation_may_have_other_readers_and_micro_batches(config: Config):
    with_checkpoint(open_run(config, resume=False).folder.path)
    other = override(
        config, {"data.workers": 3, "data.cache": "cache", "engine.micro_batch": 4, "engine.bucket_mb": 50}
    )
    assert open_run(other, resume=True).resumed
    with pytest.raises(ValueError, match="seed is 0 there and 1 here"):
        open_run(override(other, {"seed": 1}), resume=True)


def test_other_settings_are_refused_whatever_the_first_start_has_left(config: Config):
    with_checkpoint(open_run(config, resume=False, or_start=True).folder.path)
    other = override(config, {"recipe.loss.entropy": 0.5})
    with pytest.raises(
        ValueError, match=r"other settings: recipe\.loss\.entropy is 0\.01 there and 0\.5 here; give the same"
    ):
        open_run(other, resume=False, or_start=True)


def test_without_a_name_no_start_knows_its_run(config: Config):
    with pytest.raises(ValueError, match=r"give --run\.name too"):
        open_run(override(config, {"run.name": ""}), resume=False, or_start=True)


def test_resume_prefers_the_run_with_the_same_micro_batch(config: Config):
    """Another one may go on, but batch norm would see other groups; the newest run is not spoilt unasked."""
    folders = {}
    for number, size in enumerate((4, 8)):
        one = override(config, {"run.name": f"of-{size}", "engine.micro_batch": size})
        folders[size] = open_run(one, resume=False).folder
        with_checkpoint(folders[size].path)
        os.utime(folders[size].path / CONFIG_FILE, (number, number))
    for wanted, found in {4: 4, 8: 8, 16: 8}.items():
        asked = override(config, {"run.name": "", "engine.micro_batch": wanted})
        assert open_run(asked, resume=True).folder == folders[found]


def test_a_run_without_a_checkpoint_is_begun_again_as_both_messages_say(config: Config):
    folder = open_run(config, resume=False).folder
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"--resume-or-start --run\.name named"):
            open_run(config, resume=resume)
    with_checkpoint(folder.path)
    with pytest.raises(ValueError, match="or --resume to continue it"):
        open_run(config, resume=False)


@pytest.mark.parametrize("or_start", [False, True])
def test_a_config_is_written_by_the_job_that_has_the_run(config: Config, or_start: bool):
    """Of several that start at once, an array say, the others must not change what it was started with."""

    def refuse(folder: RunFolder) -> None:
        assert not (folder.path / CONFIG_FILE).exists()
        raise ValueError("another one has it")

    with pytest.raises(ValueError, match="another one has it"):
        open_run(config, resume=False, or_start=or_start, claim=refuse)
    assert not (Path(config.run.work) / "named" / CONFIG_FILE).exists()


class Elsewhere:
    """A lock that a process on another machine seems to hold."""

    def __init__(self, folder: Path) -> None:
        self.file = (folder / "lock").open("w")
        json.dump({"pid": 7, "host": "elsewhere", "since": "noon"}, self.file)
        self.file.flush()
        fcntl.flock(self.file, fcntl.LOCK_EX)
        self.said: list[str] = []

    def vanish(self, said: str) -> None:
        self.said.append(said)
        self.file.close()


def test_a_run_of_a_machine_that_vanished_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A server of files keeps its locks for a while."""
    monkeypatch.setattr(run_folder, "_BETWEEN_TRIES_S", 0.0)
    other = Elsewhere(tmp_path)
    claim = Claim(other.vanish, patience=600.0)
    claim.take(RunFolder(tmp_path))
    assert other.said == [f"run {tmp_path} belongs to process 7 on elsewhere, since noon: waiting 600 s at most"]
    claim.release()


def test_a_run_on_a_machine_that_lives_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run_folder, "_BETWEEN_TRIES_S", 0.0)
    other = Elsewhere(tmp_path)
    with pytest.raises(ValueError, match=r"is being trained already \(process 7 on elsewhere"):
        Claim(other.said.append, patience=0.3).take(RunFolder(tmp_path))
    assert len(other.said) == 1
    other.file.close()
