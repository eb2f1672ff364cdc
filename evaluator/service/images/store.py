"""Bounded LRU store of photos on disk, by the hash of their file.

A photo is one safetensors file: it is there whole or not at all, nothing in it is code, and one `stat` tells its
size and its last use. Several processes may share the folder.
"""

import fcntl
import hashlib
import os
import re
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8, UInt16
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor
from torch.nn.functional import interpolate

from evaluator.service.images.decode import FULL, GreyPhoto, TooLarge, to_stored

BASE_SIDE = 1024
"""Long side of the smaller lightness that is kept beside the full one: nothing larger is ever shown."""
_ID = re.compile(r"[0-9a-f]{64}")
_SUFFIX = ".safetensors"
_IN_MEMORY = 16
"""Photos that a process keeps at hand, some 5 MB each."""
_SIZES = 3
"""Sizes of one photo's lightness that are kept at hand."""
_STALE = 600.0
"""Seconds after which a file that nobody finished is removed."""


class PhotoMissing(ValueError):
    """Raised for a photo that the store does not have, perhaps no longer."""


_KEPT_PREFIX = b"chromaclick: with colours\0"
"""No file that anybody can find has the same hash."""


def photo_id(data: bytes, keep_colours: bool) -> str:
    """Id of an uploaded file; a different one where colors are kept, so that only their uploader gets them."""
    digest = hashlib.sha256(data)
    return hashlib.sha256(_KEPT_PREFIX + digest.digest()).hexdigest() if keep_colours else digest.hexdigest()


def fitted(height: int, width: int, long_side: int) -> tuple[int, int]:
    """Height and width with a long side of at most `long_side`; never enlarged."""
    scale = min(1.0, long_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredPhoto:
    """A photo in the store; thread-safe."""

    id: str
    height: int
    width: int
    grey: bool
    colours_kept: bool
    exif: bytes
    working: Float[Tensor, "1 1 h w"]
    """Lightness as the networks see it."""
    path: Path
    base: UInt16[np.ndarray, "base_h base_w"]
    """Lightness at `BASE_SIDE`."""
    _sizes: OrderedDict[int, Tensor] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def lightness_at(self, long_side: int) -> Float[Tensor, "1 1 h w"]:
        """L* / 100, with a long side of at most `long_side`.

        Raises:
            ValueError: above `BASE_SIDE`.
        """
        if not 1 <= long_side <= BASE_SIDE:
            raise ValueError(f"long side is {long_side}; give 1 to {BASE_SIDE}, or take the full lightness")
        with self._lock:
            made = self._sizes.pop(long_side, None)
            if made is None:
                size = fitted(self.height, self.width, long_side)
                made = _shrunk(_to_float(self.base), size)
            self._sizes[long_side] = made
            while len(self._sizes) > _SIZES:
                self._sizes.popitem(last=False)
        return made

    def full_lightness(self) -> UInt16[np.ndarray, "height width"]:
        """L* / 100 * 65535 of the full-size photo, read from the disk.

        Raises:
            PhotoMissing: the photo has left the store.
        """
        with _opened(self.path, self.id) as file:
            return file.get_tensor("lightness")

    def reference(self) -> UInt8[np.ndarray, "h w 3"]:
        """The photo's own colors, long side at most 1024.

        Raises:
            PhotoMissing: the photo has left the store.
            ValueError: its colors were not kept.
        """
        if not self.colours_kept:
            raise ValueError(f"the colours of photo {self.id[:12]} were not kept; send it with keep_colours")
        with _opened(self.path, self.id) as file:
            return file.get_tensor("colours")


class PhotoStore:
    """Photos in a folder, bounded in bytes."""

    def __init__(self, folder: Path, most_bytes: int, working_size: int) -> None:
        self.folder, self.most_bytes, self.working_size = folder, most_bytes, working_size
        folder.mkdir(parents=True, exist_ok=True)
        self._recent: OrderedDict[str, StoredPhoto] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, photo_id: str, photo: GreyPhoto) -> StoredPhoto:
        """Store a photo, evicting others where there is no room.

        Raises:
            ValueError: no id.
            TooLarge: the photo alone is larger than the store may be.
        """
        path = self._path(photo_id)
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=".part")
        os.close(handle)
        temporary = Path(name)
        try:
            save_file(_tensors(photo), temporary, _described(photo))
            self._publish(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return self.get(photo_id)

    def get(self, photo_id: str) -> StoredPhoto:
        """A photo, marked as used last.

        Raises:
            ValueError: no id.
            PhotoMissing: it is not there.
        """
        path = self._path(photo_id)
        try:
            os.utime(path)
        except FileNotFoundError as error:
            with self._lock:
                self._recent.pop(photo_id, None)
            raise _missing(photo_id) from error
        with self._lock:
            photo = self._recent.pop(photo_id, None)
        photo = photo or _load(path, photo_id, self.working_size)
        with self._lock:
            self._recent[photo_id] = photo
            while len(self._recent) > _IN_MEMORY:
                self._recent.popitem(last=False)
        return photo

    def size(self) -> int:
        """Bytes of all photos."""
        return sum(size for _, size, _ in self._files())

    def _path(self, photo_id: str) -> Path:
        if not _ID.fullmatch(photo_id):
            raise ValueError(f"{photo_id[:80]!r} is no photo id; an id has 64 characters of 0-9 and a-f")
        return self.folder / (photo_id + _SUFFIX)

    def _publish(self, temporary: Path, path: Path) -> None:
        """Make room, then rename the photo into place, one process at a time."""
        size = temporary.stat().st_size
        if size > self.most_bytes:
            have = f"{self.most_bytes / 2**20:.0f} MiB"
            raise TooLarge(
                f"the photo takes {size / 2**20:.0f} MiB in a store of {have}; enlarge it (--store-mib)"
            )
        with self._alone():
            self._make_room(self.most_bytes - size, keep=path)
            temporary.replace(path)

    def _make_room(self, most: int, keep: Path) -> None:
        self._remove_unfinished()
        files = sorted(entry for entry in self._files() if entry[2] != keep)
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= most:
                break
            path.unlink(missing_ok=True)
            total -= size

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """Last use in ns, bytes and path of every photo."""
        for entry in os.scandir(self.folder):
            if entry.name.endswith(_SUFFIX):
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    yield status.st_mtime_ns, status.st_size, Path(entry.path)

    def _remove_unfinished(self) -> None:
        """Remove temporary files of processes that were killed while they wrote."""
        for path in self.folder.glob(".*.part"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE:
                    path.unlink()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _tensors(photo: GreyPhoto) -> dict[str, np.ndarray]:
    height, width = photo.lightness.shape
    size = fitted(height, width, BASE_SIDE)
    small = (
        photo.lightness if size == (height, width) else to_stored(_shrunk(_to_float(photo.lightness), size)[0, 0])
    )
    colours = {} if photo.colours is None else {"colours": photo.colours}
    tensors = {"lightness": photo.lightness, "base": small, "exif": np.frombuffer(photo.exif, np.uint8), **colours}
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def _described(photo: GreyPhoto) -> dict[str, str]:
    height, width = photo.lightness.shape
    return {"grey": "yes" if photo.grey else "no", "height": str(height), "width": str(width)}


def _load(path: Path, photo_id: str, working_size: int) -> StoredPhoto:
    with _opened(path, photo_id) as file:
        about = file.metadata()
        base, exif = file.get_tensor("base"), file.get_tensor("exif").tobytes()
        colours_kept = "colours" in file.keys()  # noqa: SIM118  it is no dict
    height, width = int(about["height"]), int(about["width"])
    return StoredPhoto(
        id=photo_id,
        height=height,
        width=width,
        grey=about["grey"] == "yes",
        colours_kept=colours_kept,
        exif=exif,
        working=_shrunk(_to_float(base), fitted(height, width, working_size)),
        path=path,
        base=base,
    )


@contextmanager
def _opened(path: Path, photo_id: str) -> Iterator[safe_open]:
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except FileNotFoundError as error:
        raise _missing(photo_id) from error
    except SafetensorError as error:
        path.unlink(missing_ok=True)
        raise _missing(photo_id) from error


def _missing(photo_id: str) -> PhotoMissing:
    return PhotoMissing(f"the store does not have photo {photo_id[:12]} (any more); send it again")


def _to_float(lightness: np.ndarray) -> Float[Tensor, "1 1 h w"]:
    return torch.from_numpy(lightness.astype(np.float32)).div_(FULL)[None, None]


def _shrunk(lightness: Float[Tensor, "1 1 h w"], size: tuple[int, int]) -> Float[Tensor, "1 1 small_h small_w"]:
    """The lightness shrunk with antialiasing, as training photos were."""
    if lightness.shape[-2:] == size:
        return lightness
    return interpolate(lightness, size=size, mode="bilinear", antialias=True)
