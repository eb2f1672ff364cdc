"""Photo files in zips (COCO's `train2017.zip`), folders and on their own."""

import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

PHOTO_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True, order=True)
class SourceFile:
    """A file in a source, whether photo or not."""

    name: str
    """Path inside the source, with forward slashes."""
    source: str
    """The zip, folder or file that a person named."""
    fingerprint: str
    """Changes when the file does: CRC and size in a zip, size and time of change on disk."""

    def read(self) -> bytes:
        """Bytes of the file.

        Raises:
            OSError: it cannot be read.
            zipfile.BadZipFile: it is damaged inside its zip.
        """
        path = Path(self.source)
        if path.is_dir():
            return (path / self.name).read_bytes()
        return _zip(self.source).read(self.name) if _is_zip(self.source) else path.read_bytes()


def list_files(source: Path) -> list[SourceFile]:
    """All files of a source, sorted by name; a folder with its subfolders.

    Raises:
        ValueError: the source does not exist.
    """
    if source.is_dir():
        files = [path for path in source.rglob("*") if path.is_file()]
        found = [_on_disk(path.relative_to(source).as_posix(), source, path) for path in files]
    elif not source.is_file():
        raise ValueError(f"{source} does not exist; give zips, folders or photos")
    elif _is_zip(str(source)):
        members = [member for member in _zip(str(source)).infolist() if not member.is_dir()]
        found = [SourceFile(m.filename, str(source), f"{m.CRC:08x}-{m.file_size}") for m in members]
    else:
        found = [_on_disk(source.name, source, source)]
    return sorted(found)


def list_photos(source: Path) -> list[SourceFile]:
    """Files of a source with a photo's suffix; a ValueError where there is no such source."""
    return [file for file in list_files(source) if Path(file.name).suffix.lower() in PHOTO_SUFFIXES]


def _on_disk(name: str, source: Path, path: Path) -> SourceFile:
    status = path.stat()
    return SourceFile(name, str(source), f"{status.st_size}-{status.st_mtime_ns}")


@lru_cache(maxsize=64)
def _is_zip(path: str) -> bool:
    return zipfile.is_zipfile(path)


@lru_cache(maxsize=8)
def _zip(path: str) -> zipfile.ZipFile:
    """Cached open zip of this process: reading the directory of COCO's takes a second."""
    return zipfile.ZipFile(path)
