"""Servers as processes of their own: started, waited for, stopped."""

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg2

NOBODY = 65534
"""The user without rights."""
_PAUSE = 0.1


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


@contextmanager
def running(
    name: str, words: Sequence[str], log: Path, url: str, seconds: float, more: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers at a URL."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            words,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(more or {})},
            cwd=log.parent,
            start_new_session=True,
        )
        try:
            _wait(name, process, url, seconds, log)
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with its own processes; nothing of it is kept
            process.wait()


def _wait(name: str, process: subprocess.Popen[bytes], url: str, seconds: float, log: Path) -> None:
    """Until a server answers with 200."""
    late = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < late:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                assert answer.status == 200
                return
        except (urllib.error.URLError, OSError):
            time.sleep(_PAUSE)
    how = "did not answer" if process.poll() is None else f"ended with {process.returncode}"
    raise AssertionError(f"{name} {how}; its log ends with\n{log.read_text()[-3000:]}")


@contextmanager
def postgres(programs: Path, password: str) -> Iterator[str]:
    """A PostgreSQL server with a database and a user `mlflow`; its address. In memory as far as it can be."""
    with TemporaryDirectory(prefix="postgres-") as name:
        folder, port = Path(name), free_port()
        (folder / "password").write_text(password)
        for path in (folder, folder / "password"):
            if not os.getuid():
                os.chown(path, NOBODY, NOBODY)
        start = ["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", "--username=mlflow", "--no-sync"]
        _run(programs / "initdb", *start, f"--pwfile={folder}/password", "--pgdata", f"{folder}/data")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        control = (programs / "pg_ctl", "--pgdata", f"{folder}/data", "--wait")
        _run(*control, "--timeout=30", "--log", f"{folder}/log", "--options", options, "start")
        try:
            _create_database(port, password)
            yield f"127.0.0.1:{port}"
        finally:
            _run(*control, "--mode=immediate", "stop")


def _create_database(port: int, password: str) -> None:
    connection = psycopg2.connect(
        host="127.0.0.1", port=port, user="mlflow", password=password, dbname="postgres", connect_timeout=10
    )
    connection.autocommit = True  # a database cannot be made within a transaction
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE mlflow")


def _run(*words: Path | str) -> None:
    """Run a program of PostgreSQL, which refuses to be root."""
    somebody = [] if os.getuid() else ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    done = subprocess.run(
        [*somebody, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/"
    )
    assert done.returncode == 0, done.stderr


def postgres_programs() -> Path | None:
    """The folder with `initdb` and `postgres`; the newest of Debian's."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    anywhere = shutil.which("initdb")
    return Path(anywhere).resolve().parent if anywhere else None
