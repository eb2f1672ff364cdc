"""Bytes of shards from wherever they are: local paths, `http(s)://`, `s3://` and `pipe:COMMAND`.

The manifest says where every photo lies in its tar, so a local shard is read at the photo's place, and a remote
one by a byte range; network reads that break are resumed at the byte where they broke. Only photo bytes are
ever decoded, and nothing is unpickled.
"""

import http.client
import os
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

# webdataset reads this when it is imported: its own decoders must not unpickle members either.
os.environ.setdefault("WDS_SECURE", "1")

from webdataset.shardlists import expand_urls

from trainer.manifest import ShardEntry

ATTEMPTS = 5
"""Tries for each network read before it counts as failed."""
FIRST_PAUSE_S = 0.5
"""Pause after the first failed try; doubled after each further one."""
TIMEOUT_S = 30.0
_SKIP_CHUNK = 1 << 20
_TRY_LATER = (408, 425, 429)


class ShardError(RuntimeError):
    """A shard that is missing, cut short, or other than its manifest says."""


class Readable(Protocol):
    """What an opener returns."""

    def read(self, amount: int, /) -> bytes:
        """Up to `amount` bytes, none at the end."""
        ...

    def close(self) -> object:
        """Give the source back."""
        ...


class Opened(NamedTuple):
    """An open source and how many bytes the whole of it has, where that is known."""

    file: Readable
    total: int | None


def expand(urls: str | Sequence[str]) -> list[str]:
    """Expand braces as in `coco-{000..117}.tar`, in a list of URLs too."""
    given = [urls] if isinstance(urls, str) else urls
    return [url for pattern in given for url in expand_urls(pattern)]


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
    if scheme not in _OPENERS:
        raise ValueError(f"{url}: cannot read {scheme}://; use a path, {', '.join(sorted(_OPENERS))}")
    return scheme


class ByteStream:
    """A URL's bytes from `position` on, forwards only.

    Args:
        url: Path, `http(s)://`, `s3://` or `pipe:`.
        position: First byte wanted.
        stop: First byte not wanted; None reads to the end.
        expected: Bytes of the whole shard by its manifest.

    Raises:
        ShardError: from every method: missing, refused, broken off after all tries, or another size than
            `expected`.
    """

    def __init__(self, url: str, position: int = 0, stop: int | None = None, expected: int | None = None) -> None:
        self.url, self.position, self._stop, self._expected = url, position, stop, expected
        self._open_url = _OPENERS[scheme_of(url)]
        self._file: Readable | None = None

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
        reason = ""
        for attempt in range(ATTEMPTS):
            try:
                part = self._opened().read(count)
                if part or not self._broke_off():
                    self.position += len(part)
                    return part
                reason = "the connection was closed early"
            except (OSError, http.client.HTTPException) as error:
                reason = str(error) or type(error).__name__
            self.close()
            if attempt + 1 < ATTEMPTS:
                time.sleep(FIRST_PAUSE_S * 2**attempt)
        raise ShardError(f"{self.url}: cannot read byte {self.position} in {ATTEMPTS} tries: {reason}")

    def close(self) -> None:
        """Close the connection, file or command; a later read opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> Readable:
        if self._file is None:
            self._file, total = self._open_url(self.url, self.position, self._stop)
            if self._expected is not None and total not in (None, self._expected):
                raise ShardError(
                    f"{self.url}: has {total} bytes, its manifest says {self._expected}: cut short or replaced; "
                    "copy it again, or write a new manifest with: python -m trainer.shards index"
                )
        return self._file

    def _broke_off(self) -> bool:
        """Whether an end of input here is the network's fault; files and commands simply end."""
        end = self._stop if self._stop is not None else self._expected
        return self.url.startswith(("http", "s3")) and end is not None and self.position < end


def read_url(url: str) -> bytes:
    """All bytes of a small file.

    Raises:
        ShardError: it is missing or cannot be read.
    """
    stream, parts = ByteStream(url), []
    try:
        while part := stream.read_some(_SKIP_CHUNK):
            parts.append(part)
    finally:
        stream.close()
    return b"".join(parts)


def member_name(header: bytes, shard: ShardEntry, index: int) -> str:
    """The name in a photo's tar header; the check that a shard is the one that its manifest describes.

    Raises:
        ShardError: no header there, or one of another size.
    """
    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise ShardError(_not_the_shard(shard, index, str(error))) from error
    if member.size != shard.sizes[index]:
        raise ShardError(_not_the_shard(shard, index, f"{member.size} bytes there, {shard.sizes[index]} listed"))
    return member.name


def _not_the_shard(shard: ShardEntry, index: int, reason: str) -> str:
    return (
        f"{shard.name}: photo {index} is not where its manifest says ({reason}); the shard was replaced: copy it "
        "again, or write a new manifest with: python -m trainer.shards index"
    )


def _open_file(url: str, start: int, stop: int | None) -> Opened:
    try:
        file = Path(local_path(url)).open("rb", buffering=1 << 18)
    except OSError as error:
        raise ShardError(f"{url}: cannot be opened: {error.strerror}; check the path") from error
    file.seek(start)
    return Opened(file, os.fstat(file.fileno()).st_size)


def _open_http(url: str, start: int, stop: int | None) -> Opened:
    wanted = {"Range": _byte_range(start, stop)} if start or stop is not None else {}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=wanted), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code >= 500 or error.code in _TRY_LATER:
            raise
        raise ShardError(f"{url}: the server answers {error.code} {error.reason}; check the URL") from error
    if answer.status == http.client.PARTIAL_CONTENT:
        return Opened(answer, _total_of(answer.headers.get("Content-Range", "")))
    _discard(answer, start)  # a server without ranges sends everything
    length = answer.headers.get("Content-Length")
    return Opened(answer, int(length) if length else None)


def _discard(file: Readable, count: int) -> None:
    while count > 0 and (part := file.read(min(_SKIP_CHUNK, count))):
        count -= len(part)


def _byte_range(start: int, stop: int | None) -> str:
    return f"bytes={start}-" if stop is None else f"bytes={start}-{stop - 1}"


def _total_of(content_range: str) -> int | None:
    """The whole size in `bytes 0-99/1234`."""
    total = content_range.rpartition("/")[2]
    return int(total) if total.isdigit() else None


def _open_s3(url: str, start: int, stop: int | None) -> Opened:
    """Through boto3, which takes keys, region and endpoint from the usual AWS_* variables and files."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
    except ImportError as error:
        raise ShardError(f"{url}: s3:// needs boto3; install it with: pip install -e '.[cluster]'") from error
    where = urlsplit(url)
    options = {"Range": _byte_range(start, stop)} if start or stop is not None else {}
    try:
        client = boto3.client("s3", config=Config(connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S))
        answer = client.get_object(Bucket=where.netloc, Key=where.path.lstrip("/"), **options)
    except HTTPClientError as error:
        raise OSError(str(error)) from error
    except (BotoCoreError, ClientError) as error:
        raise ShardError(f"{url}: {error}; check the URL, AWS_ENDPOINT_URL and the AWS keys") from error
    total = _total_of(answer["ContentRange"]) if options else answer["ContentLength"]
    return Opened(_S3Body(answer["Body"]), total)


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
    _discard(pipe, start)
    return Opened(pipe, None)


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


_OPENERS: dict[str, Callable[[str, int, int | None], Opened]] = {
    "file": _open_file,
    "http": _open_http,
    "https": _open_http,
    "s3": _open_s3,
    "pipe": _open_pipe,
}
