"""Checkpoints are whole or absent, whatever happens while one is written."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from tests import ROOT
from trainer.checkpoint import STATE_FILE, Checkpoints


def state(value: float) -> dict[str, object]:
    return {"weights": torch.full((1000,), value), "progress": {"images_seen": int(value)}}


def test_what_was_saved_is_loaded_and_only_a_few_are_kept(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert checkpoints.load() is None
    for images in (100, 200, 300):
        checkpoints.save(state(images), images, stage=1)
    assert [path.name for path in checkpoints.list()] == ["000000000200-001", "000000000300-001"]
    loaded = checkpoints.load()
    assert loaded is not None
    assert torch.equal(loaded["weights"], torch.full((1000,), 300.0))


def test_the_end_of_a_stage_is_newer_than_the_same_place_before_it(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(state(1.0), 4096, stage=0)
    checkpoints.save(state(2.0), 4096, stage=1)
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded["progress"] == {"images_seen": 2}


def test_a_recipe_may_have_a_thousand_stages(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for stage in (998, 999, 1000):
        checkpoints.save(state(float(stage)), 100, stage)
    assert [path.name for path in checkpoints.list()] == ["000000000100-999", "000000000100-1000"]


def test_an_old_one_that_cannot_be_removed_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Another reader has it open on a file server, say."""
    checkpoints, rename = Checkpoints(tmp_path, keep=1), Path.rename

    def held(path: Path, target: Path) -> Path:
        if path.name.startswith("0"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return rename(path, target)

    checkpoints.save(state(1.0), 100, stage=0)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", held)
        checkpoints.save(state(2.0), 200, stage=0)
    assert len(checkpoints.list()) == 2
    assert "000000000100-000 cannot be removed: [Errno 16]" in caplog.text
    checkpoints.save(state(3.0), 300, stage=0)
    assert [path.name for path in tmp_path.iterdir()] == ["000000000300-000"]


def test_a_full_disk_costs_only_the_new_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(state(1.0), 100, stage=0)

    def full_disk(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"No space left on device.*earlier ones stand"):
        checkpoints.save(state(2.0), 200, stage=0)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["000000000100-000"]
    loaded = checkpoints.load()
    assert loaded is not None
    assert loaded["weights"][0] == 1


def test_a_disk_that_is_really_full_costs_only_the_new_checkpoint(tmp_path: Path):
    """A file system of 1 MB, of which half a checkpoint of a kill takes most; in a namespace that ends with it."""
    child = textwrap.dedent(
        f"""
        import torch
        from pathlib import Path
        from trainer.checkpoint import Checkpoints
        folder = Path({str(tmp_path)!r})
        checkpoints = Checkpoints(folder, keep=2)
        checkpoints.save({{"weights": torch.ones(1000)}}, 1, 0)
        left = folder / ".unfinished-000000000002-000"
        left.mkdir()
        (left / "state.pt").write_bytes(bytes(900_000))
        checkpoints.save({{"weights": torch.ones(100_000)}}, 2, 0)
        try:
            checkpoints.save({{"weights": torch.ones(400_000)}}, 3, 0)
        except OSError as error:
            print(error)
        print(*sorted(path.name for path in folder.iterdir()))
        print(len(checkpoints.load()["weights"]))
        """
    )
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("this system does not let us mount a small file system (unshare -rm)")
    command = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$0" "$@"', sys.executable, "-c", child]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    error, names, length = done.stdout.splitlines()
    assert error.endswith("could not be written ([Errno 28] No space left on device); earlier ones stand")
    assert names == "000000000001-000 000000000002-000"
    assert length == "100000"


def test_a_kill_while_writing_leaves_the_previous_checkpoint(tmp_path: Path):
    """The child kills itself with half of the file written; what it leaves is loaded, and cleaned up."""
    child = textwrap.dedent(
        f"""
        import os, signal, torch
        from pathlib import Path
        from trainer.checkpoint import Checkpoints
        checkpoints = Checkpoints(Path({str(tmp_path)!r}), keep=1)
        checkpoints.save({{"weights": torch.ones(10)}}, 100, 0)
        def half(state, file):
            file.write(b"half of a checkpoint")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        torch.save = half
        checkpoints.save({{"weights": torch.zeros(10)}}, 200, 0)
        """
    )
    died = subprocess.run([sys.executable, "-c", child], check=False)
    assert died.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2  # the whole one and a remainder
    checkpoints = Checkpoints(tmp_path, keep=1)
    loaded = checkpoints.load()
    assert loaded is not None
    assert torch.equal(loaded["weights"], torch.ones(10))
    checkpoints.save(state(3.0), 300, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["000000000300-000"]


def test_a_damaged_checkpoint_says_what_to_do(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    path = checkpoints.save(state(1.0), 100, 0)
    (path / STATE_FILE).write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"cannot be read .*; remove it to continue from the one before"):
        checkpoints.load()
