"""One job in a run's folder: the second is refused by name, and a kill frees the folder at once."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evaluator.system.locks import Busy, Lock, who_has
from tests import ROOT
from tests.trainer.small_training import small_config
from tests.trainer.test_main import SMALL
from trainer.checkpoint import Checkpoints
from trainer.main import main
from trainer.run_folder import start_run

pytestmark = pytest.mark.launch


@contextmanager
def holder(path: Path, then: str = "sys.stdin.read()") -> Iterator[subprocess.Popen[str]]:
    """Another process that has a lock until its input ends."""
    code = f"""
        import os, sys
        from pathlib import Path
        from evaluator.system.locks import Lock
        lock = Lock(Path({str(path)!r}))
        lock.take()
        print("held", flush=True)
        {then}
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_lock_is_taken_by_one_and_names_its_holder(tmp_path: Path):
    path = tmp_path / "lock"
    assert who_has(path) == ""
    with holder(path) as other:
        with pytest.raises(Busy, match=f"process {other.pid} on {socket.gethostname()}, since 20"):
            Lock(path).take()
        assert f"process {other.pid}" in who_has(path)
    assert who_has(path) == ""


def test_a_lock_can_be_released_and_taken_again(tmp_path: Path):
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    first.take()
    with pytest.raises(Busy):
        second.take()
    first.release()
    first.release()
    second.take()
    second.release()


def test_looking_keeps_nobody_out_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "lock"
    path.write_text("{}")
    with path.open() as looker:
        fcntl.flock(looker, fcntl.LOCK_SH)
        assert who_has(path) == ""
        assert path.read_text() == "{}"
        monkeypatch.setattr("evaluator.system.locks.time.sleep", lambda seconds: looker.close())
        lock = Lock(path)
        lock.take()
        assert f"process {os.getpid()}" in who_has(path)
        lock.release()


def test_a_full_disk_leaves_no_lock_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(content: object, file: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    lock = Lock(tmp_path / "lock")
    with monkeypatch.context() as patched:
        patched.setattr("evaluator.system.locks.json.dump", full)
        with pytest.raises(OSError, match="No space left"):
            lock.take()
    assert who_has(lock.path) == ""


def test_where_no_file_has_locks_nobody_holds_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, codes = tmp_path / "lock", [errno.ENOSYS, errno.EIO]
    path.write_text("{}")

    def without(file: object, operation: int) -> None:
        raise OSError(codes.pop(0), "no locks")

    monkeypatch.setattr("evaluator.system.locks.fcntl.flock", without)
    assert who_has(path) == ""
    with pytest.raises(OSError, match="no locks"):
        who_has(path)


def test_a_killed_holder_frees_the_lock_although_its_forked_reader_lives_on(tmp_path: Path):
    """A fork shares its parent's locks: orphaned readers would keep a killed run from being resumed."""
    path = tmp_path / "lock"
    fork = "if not os.fork():\n            print(os.getpid(), flush=True)\n        sys.stdin.read()"
    with holder(path, fork) as other:
        assert other.stdout is not None
        reader = int(other.stdout.readline())
        other.send_signal(signal.SIGKILL)
        other.wait()
        os.kill(reader, 0)  # it is there still
        try:
            assert who_has(path) == ""
        finally:
            os.kill(reader, signal.SIGKILL)


def test_a_run_that_is_being_trained_is_neither_resumed_nor_started_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """The first job meets a file system without locks, and says so."""

    def no_locks(file: object, operation: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    words = ["--run.work", str(tmp_path), "--run.name", "one", *SMALL, "--run.no-publish"]
    words += [
        "--recipe.rounds.pretrain-color",
        "0.004",
        "--recipe.rounds.pretrain-edit",
        "0",
        "--recipe.rounds.cycles",
        "0",
    ]
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", no_locks)
        assert main(words) == 0
    assert "has no locks (Operation not supported): nothing keeps a second job out" in capsys.readouterr().out
    run = tmp_path / "one"
    (run / "results.json").unlink()
    with holder(run / "lock") as other:
        expected = f"one is being trained already (process {other.pid} on {socket.gethostname()}, since "
        for more in ([], ["--resume"]):
            assert main([*words, *more]) == 2
            error = capsys.readouterr().err
            assert expected in error
            assert error.count("\n") == 1
    assert main([*words, "--resume"]) == 0


def test_jobs_that_start_in_the_same_second_get_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("trainer.run_folder.time.strftime", lambda form: "20260101-000000")
    config = small_config(tmp_path, run__name="")
    assert [start_run(config).name for _ in range(3)] == [f"test-20260101-000000{n}" for n in ("", "-2", "-3")]
    assert not Checkpoints(tmp_path / "test-20260101-000000" / "checkpoints", keep=1).list()
