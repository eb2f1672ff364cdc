"""File locks of the work folder, released by the system whenever and however their process ends.

They are `flock`s. Linux passes them to the server of an NFS (a machine that vanished keeps its own until its
lease ends, 90 s by default: `trainer.run_folder.Claim` waits for it) and Lustre needs the mount option `flock`;
none of that was tried here. `localflock` and NFS's `local_lock` see the processes of one machine only.
"""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
"""Error numbers of file systems without locks."""

_A_LOOK_S = 0.1
"""Longer than `who_has` holds a lock."""

_held: set[IO[str]] = set()


class Busy(ValueError):
    """Raised when another process holds the lock; the message names it."""

    def __init__(self, holder: str, host: str) -> None:
        super().__init__(holder)
        self.host = host
        """The machine of that process; empty where it is unknown."""


class Lock:
    """Lock on one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Acquire without waiting, and write the holder into the file.

        Raises:
            Busy: somebody else has it.
            OSError: the file system has no locks (`NO_LOCKS`), or the file cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a+")
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # perhaps `who_has` is looking
                time.sleep(_A_LOOK_S)
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder, host = _holder(file)
            file.close()
            raise Busy(holder, host) from None
        except OSError:
            file.close()
            raise
        try:
            file.truncate(0)
            json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}, file)
            file.flush()
        except OSError:  # a full disk
            with suppress(OSError):  # closing tries to write again, and frees the lock nevertheless
                file.close()
            raise
        self._file = file
        _held.add(file)

    def release(self) -> None:
        """Release the lock; does nothing where it is not held."""
        if self._file:
            _held.discard(self._file)
            self._file.close()
            self._file = None


@contextmanager
def alone(folder: Path, otherwise: str) -> Iterator[None]:
    """Context that holds the folder's lock.

    Args:
        folder: made where it is missing.
        otherwise: what to say where another process holds it.

    Raises:
        ValueError: another process holds it.
    """
    lock = Lock(folder / "lock")
    try:
        lock.take()
    except Busy as error:
        raise ValueError(f"{otherwise} ({error})") from None
    try:
        yield
    finally:
        lock.release()


def who_has(path: Path) -> str:
    """Holder of the lock, in words; empty where it is free, or where files have no locks.

    Several may look at once, and write nothing.
    """
    if not path.exists():
        return ""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(file)[0]
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
    return ""


def _holder(file: IO[str]) -> tuple[str, str]:
    """Holder in words, and its machine."""
    file.seek(0)
    try:
        found = json.loads(file.read())
        return f"process {found['pid']} on {found['host']}, since {found['since']}", str(found["host"])
    except (ValueError, KeyError, TypeError):  # it has taken it this very moment
        return "a process that has just begun", ""


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _forget() -> None:
    """Close inherited locks in a forked child (such as a reader of the loader), which would hold its parent's."""
    for file in _held:
        file.close()
    _held.clear()


os.register_at_fork(after_in_child=_forget)
