"""The bytes of shards, wherever they are, and the check that they are the ones of their manifest.

The manifest says where every photo lies in its tar, so a local shard is read at the photo's place, and a remote
one by a byte range; network reads that break are resumed at the byte where they broke. Only photo bytes are
ever decoded, and nothing is unpickled.
"""

import http.client
import os
import time
from collections.abc import Sequence

# webdataset reads this when it is imported: its own decoders must not unpickle members either.
os.environ.setdefault("WDS_SECURE", "1")

from webdataset.shardlists import expand_urls
from webdataset.tariterators import base_plus_ext

from evaluator.photos.manifest import ShardError
from trainer.data.url_openers import OPENERS, Readable, scheme_of

ATTEMPTS = 5
"""Tries for each network read before it counts as failed."""
FIRST_PAUSE_S = 0.5
"""Pause after the first failed try; doubled after each further one."""
_SKIP_CHUNK = 1 << 20
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
        ShardError: from every method: missing, refused, broken off after all tries, or another size than
            `expected`.
    """

    def __init__(self, url: str, position: int = 0, stop: int | None = None, expected: int | None = None) -> None:
        self.url, self.position, self._stop, self._expected = url, position, stop, expected
        self._open_url = OPENERS[scheme_of(url)]
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
