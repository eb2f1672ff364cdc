"""A demo server in its own process, which tests may kill and start again on the same port."""

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress

from tests import ROOT

COMMAND = (sys.executable, "-m", "tests.evaluator.service.demo")
_START_SECONDS, _STOP_SECONDS = 180.0, 60.0
"""Only a failure takes so long; without a bound it would hold up all tests for ever."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """The service with made-up networks."""

    command = COMMAND

    def __init__(self, *flags: str) -> None:
        self.port = free_port()
        self.flags = flags
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns when the networks are ready: the demo then prints a line."""
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        words = [*self.command, "--port", str(self.port), *self.flags]
        self._process = subprocess.Popen(
            words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._process.stdout is not None
        late = threading.Timer(_START_SECONDS, self._process.kill)
        late.start()
        line = self._process.stdout.readline()
        late.cancel()
        assert line.startswith("ready"), f"the demo server said {line!r} and ended with {self._process.poll()}"

    def kill(self) -> None:
        """At once and with its workers, as if the machine had lost its power."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(_STOP_SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None

    def stop(self) -> None:
        """Let it end its workers, too."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        finally:
            self.kill()
