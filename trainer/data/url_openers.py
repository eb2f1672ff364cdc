"""Open a URL's bytes at a position: local paths, `http(s)://`, `s3://` and `pipe:COMMAND`.

An opener raises `ShardError` for what another try cannot mend (missing, refused) and `OSError` or
`HTTPException` for what it might.
"""

import http.client
import os
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

from evaluator.photos.manifest import ShardError

TIMEOUT_S = 30.0
"""Seconds without a byte after which a connection counts as broken."""
_TRY_LATER = (408, 425, 429)
_ENDS_EARLIER = "ends before byte {}, so it is cut short or was replaced; copy it again, or index what is there"
_CHUNK = 1 << 20
_CHECK_S3 = "check the URL, AWS_ENDPOINT_URL and the AWS keys"
_S3_CONNECTIONS = 16
_S3_LOCK = threading.Lock()


@runtime_checkable
class Readable(Protocol):
    """What an opener returns."""

    def read(self, amount: int, /) -> bytes:
        """Up to `amount` bytes, none at the end."""
        ...

    def close(self) -> object:
        """Give the source back."""
        ...


class Opened(NamedTuple):
    """An open source."""

    file: Readable
    total: int | None
    """Bytes of the whole source, where that is known."""
    whole: bool
    """Whether it goes on behind the last byte asked for, because the source knows no ranges."""


def is_local(url: str) -> bool:
    """Whether a URL is a path on this machine."""
    return scheme_of(url) == "file"


def local_path(url: str) -> str:
    """The path of a local URL, with or without `file://`."""
    return unquote(urlsplit(url).path) if url.startswith("file://") else url


def scheme_of(url: str) -> str:
    """`file`, `http`, `https`, `s3` or `pipe`.

    Raises:
        ValueError: another scheme.
    """
    scheme = "pipe" if url.startswith("pipe:") else url.partition("://")[0] if "://" in url else "file"
    if scheme not in OPENERS:
        raise ValueError(f"{url}: cannot read {scheme}://; use a path, {', '.join(sorted(OPENERS))}")
    return scheme


def _open_file(url: str, start: int, stop: int | None) -> Opened:
    try:
        file = Path(local_path(url)).open("rb", buffering=1 << 18)  # noqa: SIM115  ByteStream closes it
    except OSError as error:
        raise ShardError(f"{url}: cannot be opened: {error.strerror}; check the path") from error
    file.seek(start)
    return Opened(file, os.fstat(file.fileno()).st_size, whole=True)


def _open_http(url: str, start: int, stop: int | None) -> Opened:
    wanted = {"Range": _byte_range(start, stop)} if start or stop is not None else {}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=wanted), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if _passes(error.code):
            raise
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise ShardError(f"{url}: {_ENDS_EARLIER.format(start)}") from error
        raise ShardError(f"{url}: the server answers {error.code} {error.reason}; check the URL") from error
    if answer.status == http.client.PARTIAL_CONTENT:
        return Opened(_HttpBody(answer), _total_of(answer.headers.get("Content-Range", "")), whole=False)
    body = _HttpBody(answer)
    _discard_or_close(body, start)  # a server without ranges sends everything
    length = answer.headers.get("Content-Length")
    return Opened(body, int(length) if length else None, whole=True)


class _HttpBody:
    """What has arrived, without waiting for all that was asked for: so that a slow server can be told."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.read, self.close = answer.read1, answer.close


def _passes(status: int) -> bool:
    """Whether an HTTP status may be another one later."""
    return status >= 500 or status in _TRY_LATER


def _discard_or_close(file: Readable, count: int) -> None:
    try:
        while count > 0 and (part := file.read(min(_CHUNK, count))):
            count -= len(part)
    except BaseException:
        file.close()  # nobody else knows it yet
        raise


def _byte_range(start: int, stop: int | None) -> str:
    return f"bytes={start}-" if stop is None else f"bytes={start}-{stop - 1}"


def _total_of(content_range: str) -> int | None:
    """The whole size in `bytes 0-99/1234`."""
    total = content_range.rpartition("/")[2]
    return int(total) if total.isdigit() else None


def _open_s3(url: str, start: int, stop: int | None) -> Opened:
    """Through boto3, which takes keys, region and endpoint from the usual AWS_* variables and files."""
    try:
        import boto3  # noqa: F401  the client below needs it
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, SSLError
        from botocore.exceptions import ConnectionError as Unreachable
    except ImportError as error:
        raise ShardError(f"{url}: s3:// needs boto3; install it with: pip install -e '.[cluster]'") from error
    where = urlsplit(url)
    options = {"Range": _byte_range(start, stop)} if start or stop is not None else {}
    try:
        answer = _s3_client().get_object(Bucket=where.netloc, Key=where.path.lstrip("/"), **options)
    except SSLError as error:
        raise ShardError(f"{url}: {error}; {_CHECK_S3}") from error
    except (HTTPClientError, Unreachable) as error:
        raise OSError(str(error)) from error
    except ClientError as error:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if _passes(status):
            raise OSError(str(error)) from error
        reason = _ENDS_EARLIER.format(start) if status == 416 else f"{error}; {_CHECK_S3}"
        raise ShardError(f"{url}: {reason}") from error
    except BotoCoreError as error:
        raise ShardError(f"{url}: {error}; {_CHECK_S3}") from error
    total = _total_of(answer["ContentRange"]) if options else answer["ContentLength"]
    return Opened(_S3Body(answer["Body"]), total, whole=not options)


def _s3_client() -> Any:
    """This process's client: making one takes as long as reading some photos, and a fork must not share it."""
    settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    with _S3_LOCK:  # threads may use a client together but not make one
        return _new_s3_client(os.getpid(), settings)


@lru_cache(maxsize=1)
def _new_s3_client(process: int, settings: tuple[tuple[str, str], ...]) -> Any:
    from boto3.session import Session
    from botocore.config import Config

    # Tries are counted where bytes are read: here too, they would multiply.
    once = Config(
        connect_timeout=TIMEOUT_S,
        read_timeout=TIMEOUT_S,
        retries={"total_max_attempts": 1},
        max_pool_connections=_S3_CONNECTIONS,
    )
    return Session().client("s3", config=once)


class _S3Body:
    """An S3 answer whose broken connections are OSErrors, as everywhere else."""

    def __init__(self, body: Readable) -> None:
        self._body = body
        self.close: Callable[[], object] = body.close

    def read(self, amount: int, /) -> bytes:
        from botocore.exceptions import HTTPClientError, IncompleteReadError

        try:
            return self._body.read(amount)
        except (HTTPClientError, IncompleteReadError) as error:
            raise OSError(str(error)) from error


def _open_pipe(url: str, start: int, stop: int | None) -> Opened:
    pipe = _Pipe(url)
    _discard_or_close(pipe, start)
    return Opened(pipe, None, whole=True)


class _Pipe:
    """The output of a shell command that the person who starts the training wrote."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._process = subprocess.Popen(url.removeprefix("pipe:"), shell=True, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._output: IO[bytes] = self._process.stdout

    def read(self, amount: int, /) -> bytes:
        part = self._output.read(amount)
        if not part and self._process.wait():
            raise ShardError(f"{self._url}: the command failed with exit code {self._process.returncode}")
        return part

    def close(self) -> None:
        self._output.close()
        self._process.terminate()
        self._process.wait()


OPENERS: dict[str, Callable[[str, int, int | None], Opened]] = {
    "file": _open_file,
    "http": _open_http,
    "https": _open_http,
    "s3": _open_s3,
    "pipe": _open_pipe,
}
