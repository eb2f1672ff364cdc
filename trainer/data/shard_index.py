"""A manifest for tars that others made."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evaluator.photos.manifest import ImageSizes, Manifest
from trainer.data.tar_scan import Scan, scan_tar
from trainer.data.tar_stream import ByteStream, is_photo_member
from trainer.data.url_openers import is_local, local_path

_CONNECTIONS = 8


def index_shards(
    urls: Sequence[str], out: Path, advance: Callable[[int], object]
) -> tuple[Manifest, list[str], Counter[str]]:
    """Read every tar once, wherever it is, and describe it.

    Args:
        urls: The tars.
        out: Where the manifest will be; tars in the same folder are named without one, so that both can move.
        advance: Called with 1 for each tar that is done.

    Returns:
        The manifest, the members that are named like photos but are none, and the suffixes of other members.

    Raises:
        ValueError: no tar given, or no photo in them.
        ShardError: a tar is missing, compressed, cut short or damaged.
    """
    if not urls:
        raise ValueError("no tar given; pass their URLs, with braces for many: coco-{000..117}.tar")

    def scan(url: str) -> Scan:
        stream = ByteStream(url)
        try:
            return scan_tar(_name(url, out), _Reading(stream), is_photo_member)
        finally:
            stream.close()
            advance(1)

    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        scans = list(pool.map(scan, urls))
    sizes = ImageSizes.of(size for found in scans for size in found.image_sizes)
    manifest = Manifest(tuple(found.entry for found in scans), sizes)
    others = sum((found.others for found in scans), Counter[str]())
    if not manifest.samples:
        raise ValueError(
            f"no photo in {len(urls)} tars, only {dict(others)}; photos end in jpg, jpeg, png or webp"
        )
    broken = [f"{found.entry.name}: {member}" for found in scans for member in found.broken]
    return manifest, broken, others


class _Reading:
    """A ByteStream as tarfile wants it."""

    def __init__(self, stream: ByteStream) -> None:
        self.read = stream.read_some


def _name(url: str, out: Path) -> str:
    """Relative to the manifest where the tar lies beside it, else the whole URL."""
    if not is_local(url):
        return url
    path = Path(os.path.abspath(local_path(url)))
    return path.name if path.parent == Path(os.path.abspath(out)).parent else str(path)
