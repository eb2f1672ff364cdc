"""Indexed sets of photos: a folder, a zip, or local shards with their manifest."""

import hashlib
import json
import os
import typing
from collections.abc import Sequence
from pathlib import Path

from evaluator.photos.files import SourceFile, list_photos
from evaluator.photos.manifest import FILE_NAME, Manifest, from_json
from evaluator.photos.sharded import LocalShards, check_size


@typing.runtime_checkable
class PhotoSource(typing.Protocol):
    """Photos in a fixed order; thread-safe."""

    @property
    def names(self) -> Sequence[str]:
        """Name of each photo, by index."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hexadecimal hash that changes when a photo is added, removed or changed."""
        ...

    def read(self, index: int) -> bytes:
        """Bytes of a photo. Raises an OSError, a BadZipFile or a ShardError when they cannot be read."""
        ...


class FilePhotos:
    """Photos of a folder and its subfolders, or of a zip, by name."""

    def __init__(self, files: Sequence[SourceFile], limit: int | None = None) -> None:
        self._files = list({file.name: file for file in files}.values())[:limit]
        self.names = [_readable(file.name) for file in self._files]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of names with sizes and CRCs (zip) or times of change (folder)."""
        return _sha256([[file.name, file.fingerprint] for file in self._files])

    def read(self, index: int) -> bytes:
        """Bytes of a photo."""
        return self._files[index].read()


class ShardPhotos:
    """Photos of local shards, in the manifest's order."""

    def __init__(self, manifest: Manifest, folder: Path, limit: int | None = None) -> None:
        paths = [folder / shard.name for shard in manifest.shards]
        for path, shard in zip(paths, manifest.shards, strict=True):
            check_size(path, shard)
        self._shards = LocalShards([str(path) for path in paths], manifest.shards)
        places = [(s, i) for s, shard in enumerate(manifest.shards) for i in range(shard.samples)]
        self._places = places[:limit]
        self.fingerprint = _sha256([manifest.hash, len(self._places)])
        self.names = self._names(manifest)

    def read(self, index: int) -> bytes:
        """Bytes of a photo."""
        return self._shards.read(*self._places[index])[1]

    def _names(self, manifest: Manifest) -> list[str]:
        """Names inside the tars, with the tar's own where two agree."""
        names = [self._shards.name(*place) for place in self._places]
        if len(set(names)) == len(names):
            return names
        tars = [manifest.shards[shard].name for shard, _ in self._places]
        return [f"{tar}/{name}" for tar, name in zip(tars, names, strict=True)]


def open_photos(source: Path, limit: int | None = None) -> FilePhotos | ShardPhotos:
    """Photo source for a folder, a zip, a folder with `manifest.json`, a manifest, or one photo.

    Args:
        source: where they are.
        limit: take only the first so many: by name, or in the manifest's order.

    Raises:
        ValueError: nothing there, no photo in it, no good manifest, or a limit below 1.
        ShardError: a shard is missing or not the one of its manifest.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; take at least 1 photo")
    manifest = source / FILE_NAME if source.is_dir() else source
    if manifest.suffix == ".json" and manifest.is_file():
        photos = ShardPhotos(from_json(manifest.read_bytes(), str(manifest)), manifest.parent, limit)
    else:
        photos = FilePhotos(list_photos(source), limit)
    if not photos.names:
        raise ValueError(f"{source} holds no photo; give a folder or zip of photos, or shards with {FILE_NAME}")
    return photos


def _readable(name: str) -> str:
    """A name as valid Unicode: bytes that are not UTF-8 become escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _sha256(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
