"""Programs on PATH that stand in for a cluster's own and write down how they were called."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NOTE = 'printf "%s\\n" "$(basename "$0") $*" >> "$CALLS"\n'


def write_stubs(folder: Path, stubs: Mapping[str, str]) -> None:
    """Make a bash program of each text, under its name."""
    folder.mkdir(exist_ok=True)
    for name, text in stubs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}")
        (folder / name).chmod(0o755)


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """This process's, with the stubs in front, and without what a cluster has set already."""
    cluster = ("SLURM_", "RAY_", "PET_", "TORCHELASTIC_", "MASTER_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(cluster)}
    return kept | {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(folder / "calls")} | variables


def calls(folder: Path) -> list[str]:
    """How the stubs were called, in order."""
    file = folder / "calls"
    return file.read_text().splitlines() if file.exists() else []


@contextmanager
def session(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process with text pipes that takes all of its descendants with it when the block fails."""
    with subprocess.Popen(command, text=True, start_new_session=True, **options) as process:
        try:
            yield process
        except BaseException:
            with suppress(ProcessLookupError):  # also when the first process is gone, and others are not
                os.killpg(process.pid, signal.SIGKILL)
            raise


def finished(command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """What a command wrote; it and its descendants are killed where it takes longer than a quarter of an hour."""
    with session(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as process:
        out, errors = process.communicate(timeout=900)
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)
