"""Servers that benchmarks read shards from: byte ranges by HTTP, and moto as a stand-in for S3.

Each is a process of its own on 127.0.0.1, so that serving takes no time of the readers' interpreter, and ends when
its standard input does: with the benchmark, however that ends. `python -m tests.benchmarks.servers http FOLDER
LOG` and `... s3` print their address and serve.
"""

import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tests import ROOT

_HERE = "127.0.0.1"
_BUCKET = "photos"
_ANY_KEYS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}


class Asked(NamedTuple):
    """One request for bytes of a file."""

    name: str
    """The file, relative to the folder served."""
    start: int
    stop: int


class HttpFolder(NamedTuple):
    """A folder that is served."""

    url: str
    log: Path

    def asked(self) -> list[Asked]:
        """All requests so far, in order."""
        lines = (line.rsplit(" ", 2) for line in self.log.read_text().splitlines())
        return [Asked(name, int(start), int(stop)) for name, start, stop in lines]


@contextmanager
def http_folder(folder: Path, log: Path) -> Iterator[HttpFolder]:
    """Serve a folder with byte ranges; `log` gets a line for each request.

    Raises:
        OSError: the server does not start.
    """
    log.touch()
    with _running("http", str(folder), str(log)) as url:
        yield HttpFolder(url, log)


def why_no_s3() -> str:
    """What the stand-in for S3 lacks here; '' where it can run."""
    missing = [name for name in ("moto", "flask", "boto3") if find_spec(name) is None]
    return f"{', '.join(missing)} not installed: pip install -e '.[test]'" if missing else ""


@contextmanager
def s3_folder(folder: Path) -> Iterator[str]:
    """Put the files of a folder into a bucket and set the AWS_* variables for it; the bucket's `s3://` URL.

    Raises:
        OSError: the server does not start, or does not take a file.
    """
    before = dict(os.environ)
    with _running("s3") as address:
        _put(f"{address}/{_BUCKET}", b"")
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            _put(f"{address}/{_BUCKET}/{path.name}", path.read_bytes())
        os.environ.update(_ANY_KEYS | {"AWS_ENDPOINT_URL": address})
        try:
            yield f"s3://{_BUCKET}"
        finally:
            for name in {*_ANY_KEYS, "AWS_ENDPOINT_URL"}:
                os.environ.pop(name)
                os.environ.update({name: before[name]} if name in before else {})


def _put(url: str, data: bytes) -> None:
    headers = {"Content-Type": "application/octet-stream"}  # else moto takes it for a form
    urllib.request.urlopen(urllib.request.Request(url, data, headers, method="PUT"), timeout=60).close()


@contextmanager
def _running(*words: str) -> Iterator[str]:
    """This module as a process; the address that it prints."""
    command = [sys.executable, "-m", "tests.benchmarks.servers", *words]
    root = ROOT
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise OSError(f"the {words[0]} server of the benchmark ended at once: {' '.join(command)}")
            yield url
        finally:
            process.stdin.close()


class _RangeHandler(SimpleHTTPRequestHandler):
    """The standard library's file server with the part of HTTP's ranges that shards need: `bytes=FIRST-LAST`."""

    def __init__(self, *args, log: Path, lock: threading.Lock, **more) -> None:
        self._log, self._lock = log, lock
        super().__init__(*args, **more)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the screen: `do_GET` writes the log."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            start = int(wanted[1]) if wanted else 0
            stop = min(size, int(wanted[2]) + 1) if wanted and wanted[2] else size
            if start >= stop:
                self.send_error(416)
                return
            self._note(path, start, stop)
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            self.send_header("Content-Length", str(stop - start))
            self.end_headers()
            if wanted:
                file.seek(start)
                self.wfile.write(file.read(stop - start))
            else:
                shutil.copyfileobj(file, self.wfile)

    def _note(self, path: Path, start: int, stop: int) -> None:
        """Before the answer: whoever has that finds the line."""
        name = path.relative_to(self.directory).as_posix()
        with self._lock, self._log.open("a") as log:
            log.write(f"{name} {start} {stop}\n")


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    """With the default of 5, readers' simultaneous connections wait a second for their second try."""


def _serve_http(folder: str, log: str) -> str:
    handler = partial(_RangeHandler, directory=folder, log=Path(log), lock=threading.Lock())
    server = _Server((_HERE, 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://{_HERE}:{server.server_port}"


def _serve_s3() -> str:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for every request
    server = ThreadedMotoServer(ip_address=_HERE, port=0, verbose=False)
    server.start()
    return f"http://{_HERE}:{server.get_host_and_port()[1]}"


if __name__ == "__main__":
    print({"http": _serve_http, "s3": _serve_s3}[sys.argv[1]](*sys.argv[2:]), flush=True)
    sys.stdin.read()
