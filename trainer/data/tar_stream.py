"""The bytes of shards, wherever they are, and the check that they are the ones of their manifest.

The manifest says where every photo lies in its tar, so a local shard is read at the photo's place, and a remote
one by a byte range; network reads that break are resumed at the byte where they broke. Only photo bytes are
ever decoded, and nothing is unpickled.
"""

import http.client
import logging
import math
import os
import random
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

# webdataset reads this when it is imported: its own decoders must not unpickle members either.
os.environ.setdefault("WDS_SECURE", "1")

from webdataset.shardlists import expand_urls
from webdataset.tariterators import base_plus_ext

from evaluator.photos.manifest import ShardError
from trainer.data import url_openers
from trainer.data.url_openers import OPENERS, Readable, scheme_of

ATTEMPTS = 8
"""Tries in a row before a network read counts as failed: the pauses between them are about a minute together, in
which a server can be started again."""
PATIENCE_S = 120.0
"""Seconds after the first of those failures in which another try may begin, where each waits for a timeout: less
than what a job has to save and end."""
FIRST_PAUSE_S = 0.5
"""Mean pause after the first failed try; doubled after each further one."""
SLOWEST = 1024
"""Bytes per second below which a connection counts as stalled, over `url_openers.TIMEOUT_S`."""
PROGRESS = 1 << 15
"""Bytes after which tries are counted from the first again."""
_SKIP_CHUNK = 1 << 20
_TELL_EVERY_S = 60.0
_told: dict[str, float] = {}
"""When it was last said that a server does not answer."""
log = logging.getLogger(__name__)
_PHOTO_SUFFIXES = ("jpg", "jpeg", "png", "webp")


def expand(urls: str | Sequence[str]) -> list[str]:
    """Expand braces as in `coco-{000..117}.tar`, in a list of URLs too."""
    given = [urls] if isinstance(urls, str) else urls
    return [url for pattern in given for url in expand_urls(pattern)]


def is_photo_member(name: str) -> bool:
    """Whether a tar member is a photo, by webdataset's rule: the suffix is what follows the name's first dot."""
    _, suffix = base_plus_ext(name)
    return suffix is not None and suffix.lower() in _PHOTO_SUFFIXES


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
                self._fail("the connection was closed early")
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
        if self._networked and self._waited > url_openers.TIMEOUT_S:
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
        """Whether an end of input here is the network's fault; files and commands simply end."""
        return self._networked and self._end is not None and self.position < self._end


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
    stream, parts = ByteStream(url), []
    try:
        while part := stream.read_some(_SKIP_CHUNK):
            parts.append(part)
    finally:
        stream.close()
    return b"".join(parts)
