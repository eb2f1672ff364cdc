"""Which shards a run reads: URLs given by a person, matched with their manifest."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from evaluator.photos.manifest import FILE_NAME, HOW_TO_INDEX, Manifest, ShardEntry, ShardError, from_json
from evaluator.photos.sharded import check_size
from trainer.data.tar_stream import expand, read_url
from trainer.data.url_openers import is_local, local_path


@dataclass(frozen=True)
class ShardSet:
    """Shards and where each of them is; `urls[i]` belongs to `manifest.shards[i]`."""

    urls: tuple[str, ...]
    manifest: Manifest

    @cached_property
    def counts(self) -> list[int]:
        """Samples in each shard."""
        return [shard.samples for shard in self.manifest.shards]


def open_shards(shards: str | Sequence[str], manifest: str | None = None) -> ShardSet:
    """Find the manifest of shards and check those on this machine.

    Args:
        shards: Tar URLs with braces as in `s3://bucket/coco-{000..117}.tar`, or a folder or a manifest (`.json`),
            which stand for all of their shards.
        manifest: The manifest's URL; by default `manifest.json` beside the tars.

    Raises:
        ValueError: nothing given, no manifest found, or a shard that its manifest does not list.
        ShardError: a local shard is missing or has another size than its manifest says.
    """
    urls = expand(shards)
    if not urls:
        raise ValueError("no shards given; pass tar URLs, a folder with manifest.json, or a manifest")
    loaded: dict[str, _Listed] = {}
    chosen: list[tuple[str, ShardEntry]] = []
    for url in urls:
        where = manifest or _manifest_of(url)
        if where not in loaded:
            loaded[where] = _Listed.of(_load(where, url), where)
        chosen += _matching(url, where, loaded[where])
    for shard_url, shard in chosen:
        if is_local(shard_url):
            check_size(Path(local_path(shard_url)), shard)
    sizes = next(iter(loaded.values())).manifest.image_sizes
    return ShardSet(tuple(url for url, _ in chosen), Manifest(tuple(shard for _, shard in chosen), sizes))


def resolve(name: str, manifest_url: str) -> str:
    """The URL of a shard that a manifest names."""
    if name.startswith(("/", "pipe:")) or "://" in name:
        return name
    folder, slash, _ = manifest_url.rpartition("/")
    return f"{folder}{slash}{name}"


def _stands_for_all(url: str) -> bool:
    return url.endswith(".json") or (is_local(url) and Path(local_path(url)).is_dir())


def _manifest_of(url: str) -> str:
    if url.endswith(".json"):
        return url
    if _stands_for_all(url):
        return str(Path(local_path(url)) / FILE_NAME)
    if url.startswith("pipe:"):
        raise ValueError(
            f"{url}: a command has no manifest beside it; name one with --data.manifest, or {HOW_TO_INDEX}"
        )
    return resolve(FILE_NAME, url.partition("?")[0])


def _load(where: str, url: str) -> Manifest:
    try:
        text = read_url(where)
    except ShardError as error:
        raise ValueError(f"{url}: its manifest cannot be read ({error}); {_advice(url)}") from error
    return from_json(text, where)


def _advice(url: str) -> str:
    """What to do about something that is given as shards and has no manifest."""
    path = Path(local_path(url))
    if is_local(url) and not path.exists():
        return "nothing is there: check the path"
    if is_local(url) and (path.suffix == ".zip" or (path.is_dir() and not any(path.glob("*.tar")))):
        return f"make shards of these photos first: python -m trainer.shards {url} shards"
    return HOW_TO_INDEX


@dataclass(frozen=True)
class _Listed:
    """A manifest, and its shards by all the names under which they may be given."""

    manifest: Manifest
    by_name: dict[str, ShardEntry]

    @staticmethod
    def of(manifest: Manifest, where: str) -> "_Listed":
        entries = manifest.shards
        resolved = {resolve(shard.name, where): shard for shard in entries}
        return _Listed(manifest, resolved | {shard.name: shard for shard in entries})


def _matching(url: str, where: str, listed: _Listed) -> list[tuple[str, ShardEntry]]:
    if _stands_for_all(url):
        return [(resolve(shard.name, where), shard) for shard in listed.manifest.shards]
    shard = listed.by_name.get(url) or listed.by_name.get(urlsplit(url).path.rpartition("/")[2])
    if shard is None:
        raise ValueError(f"{url} is not in {where}; {HOW_TO_INDEX}")
    return [(url, shard)]
