"""A server in a process of its own, for benchmarks: started, found, watched and stopped."""

import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.benchmarks.harness import Refused

_START_SECONDS = 900
"""Some ten seconds, and many times that on a busy machine."""
_STOP_SECONDS = 30


class Server:
    """`python -m evaluator serve` with some flags, at a free port.

    Raises:
        Refused: it ended, or was not ready in time; what it said is in the message.
    """

    def __init__(self, flags: Sequence[str]) -> None:
        self._flags = flags
        self.url = ""

    def __enter__(self) -> "Server":
        self._log = tempfile.TemporaryFile("w+")
        command = [sys.executable, "-m", "evaluator", "serve", "--port", "0", *self._flags]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        late = threading.Timer(_START_SECONDS, self._process.kill)
        late.start()
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        late.cancel()
        found = re.search(r"http://\S+", line)
        if found is None:
            self.__exit__()
            raise Refused(f"the server did not start: {self._said}")
        self.url = found[0]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.seek(0)
        self._said = self._log.read()[-2000:]
        self._log.close()

    def memory(self) -> int:
        """Bytes of memory that the server and its processes hold now."""
        return memory_of(self._process.pid)

    def own_memory(self) -> int:
        """That without files, such as libraries, whose share grows when other programs that had them open end."""
        return memory_of(self._process.pid, ("Pss_Anon", "Pss_Shmem"))


def memory_of(pid: int, kinds: Sequence[str] = ("Pss",)) -> int:
    """Bytes of memory of a process and all of its descendants, each with its share of what is shared (PSS).

    Args:
        pid: of the process.
        kinds: lines of the kernel's `smaps_rollup` to add up; default: all memory.
    """
    return sum(_bytes(one, kinds) for one in _family(pid))


def _family(pid: int) -> list[int]:
    """A process and all of its descendants."""
    children: list[str] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread has just ended
            children += file.read_text().split()
    return [pid, *[one for child in children for one in _family(int(child))]]


def _bytes(pid: int, kinds: Sequence[str]) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    # The first line has no size: it names the range of addresses.
    sizes = {name: text for name, _, text in (line.partition(":") for line in lines[1:])}
    return sum(1024 * int(sizes[kind].removesuffix("kB")) for kind in kinds if kind in sizes)
