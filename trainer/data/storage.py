"""The bytes of shards by path, http, s3 or pipe:COMMAND, checked against their manifest."""

import http.client
import io
import logging
import math
import os
import random
import select
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

from webdataset import utils
from webdataset.shardlists import expand_urls

from evaluator.photos.manifest import ShardError
from trainer.data import storage

# Its own decoders must not unpickle members, whoever imported webdataset first.
utils.enforce_security = True  # pyright: ignore[reportAttributeAccessIssue]

TIMEOUT_S = 30.0
"""Seconds without a byte after which a connection counts as broken."""
WITHOUT_MANIFEST = "train without a manifest, in no exact order, with --data.order stream"
_TRY_LATER = (408, 425, 429)
_ENDS_EARLIER = "ends before byte {}, so it is cut short or was replaced; copy it again, or index what is there"
_CHUNK = 1 << 20
_CHECK_S3 = "check the URL, AWS_ENDPOINT_URL and the AWS keys"
_S3_CONNECTIONS = 16
_NO_COMMAND = (126, 127)
"""Exit codes of a shell that cannot run or find a program."""
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


def scheme_in(url: str) -> str:
    """What a URL begins with: `pipe`, the part before `://`, or `file` for a path."""
    return "pipe" if url.startswith("pipe:") else url.partition("://")[0] if "://" in url else "file"


def scheme_of(url: str) -> str:
    """`file`, `http`, `https`, `s3` or `pipe`.

    Raises:
        ValueError: another scheme.
    """
    scheme = scheme_in(url)
    if scheme not in OPENERS:
        raise ValueError(
            f"{url}: cannot read {scheme}://; use a path, {', '.join(sorted(OPENERS))}, or {WITHOUT_MANIFEST}"
        )
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
        self._readable = select.poll()
        self._readable.register(self._output, select.POLLIN)

    def read(self, amount: int, /) -> bytes:
        if not self._readable.poll(PATIENCE_S * 1000):
            raise OSError(f"the command wrote nothing for {PATIENCE_S:.0f} s")
        part = os.read(self._output.fileno(), amount)
        if not part and (code := self._process.wait()):
            problem = f"the command failed with exit code {code}"
            if code in _NO_COMMAND:
                raise ShardError(f"{self._url}: {problem}; check that the program is installed")
            raise OSError(problem)
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

ATTEMPTS = 8
"""Tries in a row before a network read counts as failed: the pauses between them are about a minute together, in
which a server can be started again."""
PATIENCE_S = 120.0
"""Seconds after the first of those failures in which another try may begin, where each waits for a timeout: less
than what a job has to save and end."""
FIRST_PAUSE_S = 0.5
"""Mean pause after the first failed try; doubled after each further one."""
SLOWEST = 1024
"""Bytes per second below which a connection counts as stalled, over `TIMEOUT_S`."""
PROGRESS = 1 << 15
"""Bytes after which tries are counted from the first again."""
_SKIP_CHUNK = 1 << 20
_TELL_EVERY_S = 60.0
_told: dict[str, float] = {}
"""When it was last said that a server does not answer."""
log = logging.getLogger(__name__)
_PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def expand(urls: str | Sequence[str]) -> list[str]:
    """Expand braces as in `coco-{000..117}.tar`, in a list of URLs too."""
    given = [urls] if isinstance(urls, str) else urls
    return [url for pattern in given for url in expand_urls(pattern)]


def is_photo_member(name: str) -> bool:
    """Whether a tar member is a photo, by its last suffix: `2019.07.04 picnic.jpg` is one."""
    return PurePosixPath(name).suffix.lower() in _PHOTO_SUFFIXES


class ByteStream:
    """A URL's bytes from `position` on, forwards only.

    Args:
        url: Path, `http(s)://`, `s3://` or `pipe:`.
        position: First byte wanted.
        stop: First byte not wanted; None reads to the end.
        expected: Bytes of the whole shard by its manifest.

    Raises:
        ShardError: from every method: missing, refused, broken off or stalled in all tries, or another size than
            `expected`.
    """

    def __init__(self, url: str, position: int = 0, stop: int | None = None, expected: int | None = None) -> None:
        self.url, self.position, self._stop, self._expected = url, position, stop, expected
        self._open_url = OPENERS[scheme_of(url)]
        self._file: Readable | None = None
        self._end = stop if stop is not None else expected
        self._failures = 0
        self._failing_since = 0.0
        self._since_failure = 0
        self._waited = 0.0
        self._came = 0
        self.whole = False
        """Whether the source, once open, goes on behind `stop`: it knows no ranges."""

    def read(self, count: int) -> bytes:
        """Exactly `count` bytes."""
        parts: list[bytes] = []
        while count > 0:
            part = self.read_some(count)
            if not part:
                raise ShardError(
                    f"{self.url}: ends at byte {self.position}, {count} bytes too early; the shard is cut short: "
                    "copy it again, or index what is there"
                )
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def skip_to(self, position: int) -> None:
        """Read past everything before `position`."""
        while self.position < position:
            self.read(min(_SKIP_CHUNK, position - self.position))

    def read_some(self, count: int) -> bytes:
        """Up to `count` bytes; none at the end."""
        while True:
            try:
                file, begin = self._opened(), time.monotonic()
                part = file.read(count)
                if part or not self._broke_off():
                    self._take(len(part), time.monotonic() - begin)
                    return part
                self._fail(
                    "the command ended early: the shard is cut short"
                    if self.url.startswith("pipe:")
                    else "the connection was closed early"
                )
            except (OSError, http.client.HTTPException) as error:
                self._fail(str(error) or type(error).__name__)

    def close(self) -> None:
        """Close the connection, file or command; a later read opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> Readable:
        if self._file is None:
            self._file, total, self.whole = self._open_url(self.url, self.position, self._stop)
            self._waited, self._came = 0.0, 0
            if self._expected is not None and total not in (None, self._expected):
                raise ShardError(
                    f"{self.url}: has {total} bytes, its manifest says {self._expected}: cut short or replaced; "
                    "copy it again, or write a new manifest with: python -m trainer.shards index"
                )
            if self.whole:
                self._stop = None
            if self._stop is None:
                self._end = total if total is not None else self._expected
        return self._file

    def _take(self, count: int, waited: float) -> None:
        """Note bytes that arrived. A trickle ends the connection, but what it brought stays."""
        self.position += count
        self._since_failure += count
        if self._since_failure >= PROGRESS:
            self._failures = 0
        self._came += count
        self._waited += waited
        if self._networked and self._waited > storage.TIMEOUT_S:
            if self._came < SLOWEST * self._waited:
                self._fail(f"only {self._came} bytes came in {self._waited:.0f} s")
            self._waited, self._came = 0.0, 0

    def _fail(self, reason: str) -> None:
        """Count a failed try and pause before the next one."""
        self.close()
        now = time.monotonic()
        if not self._failures:
            self._failing_since = now
        self._failures += 1
        self._since_failure = 0
        if self._failures >= ATTEMPTS or now - self._failing_since > PATIENCE_S:
            raise ShardError(f"{self.url}: cannot read byte {self.position} in {self._failures} tries: {reason}")
        if self._failures > 1:
            _tell(self.url, reason, now)
        # Many readers that lost one server must not come back all at once.
        time.sleep(FIRST_PAUSE_S * 2 ** (self._failures - 1) * random.uniform(0.5, 1.5))

    @property
    def _networked(self) -> bool:
        return self.url.startswith(("http", "s3"))

    def _broke_off(self) -> bool:
        """Whether an end of input here is the network's or the command's fault; files simply end."""
        return not is_local(self.url) and self._end is not None and self.position < self._end


def _tell(url: str, reason: str, now: float) -> None:
    """Say what reading waits for: once a minute for each server, however many readers wait for it."""
    server = urlsplit(url).netloc
    if now - _told.get(server, -math.inf) >= _TELL_EVERY_S:
        _told[server] = now
        log.warning("%s: %s; trying again, for two minutes at most", url, reason)


def read_url(url: str) -> bytes:
    """All bytes of a small file.

    Raises:
        ShardError: it is missing or cannot be read.
    """
    with open_url(url) as file:
        return file.read()


def open_url(url: str) -> io.BufferedReader:
    """A URL's bytes as an open file, read once; a ShardError from its `read` as from a `ByteStream`."""
    stream = ByteStream(url)
    return as_file(stream.read_some, stream.close)


def as_file(read: Callable[[int], bytes], close: Callable[[], object]) -> io.BufferedReader:
    """A file of what `read` gives: up to so many bytes, none at the end."""
    return io.BufferedReader(_Raw(read, close), 1 << 16)


class _Raw(io.RawIOBase):
    def __init__(self, read: Callable[[int], bytes], close: Callable[[], object]) -> None:
        self._read, self._close = read, close

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        part = self._read(len(buffer))
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        if not self.closed:
            self._close()
        super().close()
