"""A job of several processes, started by the launcher, that answers one question after the other over a socket."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

START_SECONDS, ANSWER_SECONDS, END_SECONDS = 300.0, 600.0, 60.0


@dataclass
class RunningJob:
    """A job that waits for questions."""

    processes: int
    running: subprocess.Popen[bytes]
    errors: Path
    """What it writes to stderr."""
    connection: socket.socket
    lines: Any = field(init=False)

    def __post_init__(self) -> None:
        self.connection.settimeout(ANSWER_SECONDS)
        self.lines = self.connection.makefile("rw")

    def ask(self, question: str, **words: Any) -> Any:
        """Ask the job's processes, and wait for their answer.

        Raises:
            RuntimeError: the job died or does not answer, with the end of its errors.
        """
        try:
            self.lines.write(json.dumps({"ask": question, **words}) + "\n")
            self.lines.flush()
            answer = self.lines.readline()
        except OSError as error:
            raise RuntimeError(
                f"{self.processes} processes: {error} at {question}\n{tail(self.errors)}"
            ) from error
        if not answer:
            raise RuntimeError(f"{self.processes} processes died at {question}\n{tail(self.errors)}")
        return json.loads(answer)

    def end(self) -> None:
        """Let the processes leave their group in peace."""
        self.lines.write("null\n")
        self.lines.flush()
        self.running.wait(END_SECONDS)


def tail(file: Path, lines: int = 30) -> str:
    """The last lines of a file."""
    return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])


@contextmanager
def started(
    processes: int, command: Callable[[Path], Sequence[str]], threads: int, folder: Path
) -> Iterator[RunningJob]:
    """Start a job, and end it with all of its processes.

    Args:
        processes: how many it has.
        command: to start it, given the Unix socket that it has to connect to.
        threads: CPU threads of each process.
        folder: for the socket and the job's errors.

    Raises:
        RuntimeError: it did not start.
    """
    address, errors = folder / f"{processes}.socket", folder / f"{processes}.errors"
    cpu = {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true"}
    environment = {**os.environ, **cpu, "OMP_NUM_THREADS": str(threads)}
    with socket.socket(socket.AF_UNIX) as server, errors.open("wb") as stderr:
        server.bind(str(address))
        server.listen(1)
        server.settimeout(1)
        running = subprocess.Popen(
            command(address),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            job = RunningJob(processes, running, errors, _accept(server, running, errors))
            yield job
            job.end()
        finally:
            _kill(running)


def _accept(server: socket.socket, running: subprocess.Popen[bytes], errors: Path) -> socket.socket:
    for _ in range(int(START_SECONDS)):
        try:
            return server.accept()[0]
        except TimeoutError:
            if running.poll() is not None:
                raise RuntimeError(f"a job ended with code {running.returncode}\n{tail(errors)}") from None
    raise RuntimeError(f"a job did not start in {START_SECONDS:.0f} s\n{tail(errors)}")


def _kill(running: subprocess.Popen[bytes]) -> None:
    """End what is left of a job: its session holds all of its processes."""
    if running.poll() is None:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
