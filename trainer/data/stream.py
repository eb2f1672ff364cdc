"""Any tars, without a manifest, through webdataset's own pipeline: the exact loader's batches in a looser order.

A row of epochs, each with all tars in a new order, is dealt to the processes and their workers tar by tar; each
worker shuffles the photos of its tars in a buffer. The row has no end, so all ranks take the same number of steps
whatever the tars hold. With fewer tars than workers each worker draws its own at random, again and again.

The order is a function of the seed, the rank, the worker and `images_seen` at the start. A resumed training goes
on at the same number of photos, in another order.
"""

import bz2
import gzip
import hashlib
import io
import lzma
import random
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import count
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

import torch
from torch import Tensor
from webdataset import filters
from webdataset.gopen import Pipe, gopen, gopen_schemes, set_options
from webdataset.pipeline import DataPipeline
from webdataset.shardlists import ResampledShards, SimpleShardList, split_by_node, split_by_worker
from webdataset.tariterators import tar_file_expander
from webdataset.utils import pytorch_worker_info

from evaluator.photos.decode import BrokenPhoto, decode_rgb
from evaluator.photos.manifest import FILE_NAME, TAR_BLOCK, ShardError
from kernels.noise import fold
from trainer.data.reader import open_shards
from trainer.data.sampling import block_for
from trainer.data.storage import as_file, expand, is_photo_member, local_path, open_url, scheme_in
from trainer.data.worker import Loaded, PartReader, Settings, WorkerLoader, random_crop

PHOTOS_PER_TAR = 1000
"""What a tar without a manifest is taken to hold, where a round has to have a length."""
TAR_NAMES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
"""Endings of the tars in a folder."""
BARREN_TARS = 8
"""Tars without a single photo after each other at which a reader gives up."""
_COMMAND_ENDS_S = 10.0
"""Seconds that a command may run on after its output has ended."""
_END = 2 * TAR_BLOCK
"""Empty bytes at the end of a tar."""
# Purposes keep the draws of one (seed, images_seen) apart.
_TARS, _BUFFER, _CROPS = 1, 2, 3
_BROKEN = (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError, ValueError, ShardError, TimeoutExpired)
"""What a tar or a photo raises that is missing or damaged."""


class StreamLoader(WorkerLoader):
    """Endless equal batches of random crops from any tars.

    Args:
        tars: URLs (paths, `http(s)://`, `s3://`, `pipe:`, and what webdataset opens, such as `gs://`; with
            braces), compressed or not; folders of tars; manifests, which stand for their shards.
        image_size: Side of the square crops in pixels.
        batch_size: Photos in this rank's part of a global batch.
        round_photos: Photos that count as one round; 0: as many as the manifests list, else `PHOTOS_PER_TAR` each.
        seed: Names the order and the crops, >= 0.
        rank: This process; webdataset must see it as the same one of as many.
        world_size: Processes that train together.
        workers: Processes that decode for this rank; 0 decodes in the calling process.
        scale_jitter: The short side is scaled to image_size + 0 ... scale_jitter pixels before the random crop.
        corrupt_limit: See `WorkerLoader`; a tar that cannot be read counts as one photo.
        pin_memory: See `WorkerLoader`.
        prefetch: See `WorkerLoader`.

    Raises:
        ValueError: a setting out of its range, no tar, one that is not there, or an address that nothing opens.
        ShardError: a local shard is not the one of its manifest.
    """

    def __init__(
        self,
        tars: str | Sequence[str],
        image_size: int,
        batch_size: int,
        *,
        round_photos: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        scale_jitter: int = 20,
        corrupt_limit: float = 0.01,
        pin_memory: bool = False,
        prefetch: int = 4,
    ) -> None:
        settings = Settings(
            image_size=image_size,
            batch_size=batch_size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            workers=workers,
            scale_jitter=scale_jitter,
            shuffle_block=block_for(max(1, batch_size * world_size)),
        )
        super().__init__(settings, corrupt_limit=corrupt_limit, pin_memory=pin_memory, prefetch=prefetch)
        if (seen := pytorch_worker_info()) != (rank, world_size, 0, 1):
            raise ValueError(
                f"webdataset takes this process for rank {seen[0]} of {seen[1]}, worker {seen[2]} of {seen[3]}, "
                f"and the training for rank {rank} of {world_size}; start it with accelerate launch, and set "
                "no RANK, WORLD_SIZE, WORKER or NUM_WORKERS"
            )
        self._urls, photos = find_tars(tars)
        self._round = round_photos or photos

    @property
    def samples_per_epoch(self) -> int:
        """Photos that count as one round, over all ranks together."""
        return self._round

    @property
    def signature(self) -> dict[str, object]:
        """What a resumed training must share; the tars by their names, for they may have been moved."""
        names = sorted(url if scheme_in(url) == "pipe" else url.rpartition("/")[2] for url in self._urls)
        return {
            "order": "stream",
            "data": hashlib.sha256("\n".join(names).encode()).hexdigest(),
            "image_size": self.settings.image_size,
            "seed": self.settings.seed,
            "scale_jitter": self.settings.scale_jitter,
        }

    def _reader(self, images_seen: int) -> Any:
        return StreamReader(self._urls, self.settings, images_seen)


def find_tars(tars: str | Sequence[str]) -> tuple[list[str], int]:
    """The URL of every tar, and the number of photos in them, or what is taken for it.

    Raises:
        ValueError: no tar, one that is not there, or an address that nothing opens.
        ShardError: a local shard is not the one of its manifest.
    """
    urls: list[str] = []
    photos = 0
    for url in expand(tars):
        scheme = scheme_in(url)
        folder = Path(local_path(url)) if scheme == "file" else Path()
        if url.endswith(".json") or (scheme == "file" and (folder / FILE_NAME).is_file()):
            shards = open_shards(url)
            urls += shards.urls
            photos += shards.manifest.samples
            continue
        if scheme == "file" and folder.is_dir():
            found = sorted(str(path) for path in folder.iterdir() if path.name.endswith(TAR_NAMES))
        elif scheme == "file" and not folder.is_file():
            raise ValueError(f"{url}: nothing is there: check the path")
        elif scheme not in ("file", "s3", *gopen_schemes):
            known = ", ".join(sorted({"s3", *gopen_schemes} - {"__default__"}))
            raise ValueError(f"{url}: cannot read {scheme}://; use a path, {known}")
        else:
            found = [url]
        urls += found
        photos += PHOTOS_PER_TAR * len(found)
    if not urls:
        raise ValueError(
            f"{tars}: no tar there; give their addresses, or a folder of {', '.join(TAR_NAMES)} files"
        )
    return urls, photos


class StreamReader(PartReader):
    """One worker's parts of the batches, read by webdataset."""

    def __init__(self, urls: Sequence[str], settings: Settings, images_seen: int) -> None:
        self._urls, self._settings, self._images_seen = list(urls), settings, images_seen
        self._failures: list[str] = []
        self._broken_photos = 0
        self._barren_tars = 0

    def _parts(self, worker: int) -> Iterator[Loaded]:
        size, photos = self._settings.image_size, len(self._settings.lanes(worker))
        crops = self._pipeline(worker, photos)
        while True:
            rgb = torch.empty(photos, 3, size, size, dtype=torch.uint8)
            for target in rgb:
                target.copy_(next(crops))
            failures, self._failures = tuple(self._failures), []
            yield Loaded(rgb, failures)

    def _pipeline(self, worker: int, photos: int) -> Iterator[Tensor]:
        """The endless crops of one worker, which hands over so many photos of each batch."""
        settings = self._settings
        start = (settings.seed, self._images_seen)
        reader = settings.rank * settings.readers + worker
        self._buffer = settings.shuffle_block * photos
        draws = random.Random(fold(_CROPS, *start, reader))
        expander = filters.pipelinefilter(tar_file_expander)
        if len(self._urls) < settings.world_size * settings.readers:
            seed = fold(_TARS, *start)
            tars = [ResampledShards(self._urls, seed=seed, worker_seed=partial(int, reader), deterministic=True)]
        else:
            tars = [partial(self._epochs, start), split_by_node, split_by_worker]
        pipeline = DataPipeline(
            *tars,
            self._opened,
            expander(handler=self._tar_failed, select_files=is_photo_member, eof_value=None),
            self._found,
            filters.shuffle(self._buffer, seed=fold(_BUFFER, *start, reader)),
            filters.map(partial(self._crop, draws), handler=self._photo_failed),
        )
        return iter(pipeline)

    def _epochs(self, start: tuple[int, int]) -> Iterator[dict[str, str]]:
        """All tars again and again, in an order of its own each time; the same for all workers."""
        for epoch in count():
            yield from SimpleShardList(self._urls, seed=fold(_TARS, *start, epoch))

    def _opened(self, tars: Iterator[dict[str, str]]) -> Iterator[dict[str, Any]]:
        """Each tar with its bytes; one that cannot be opened is counted and left out."""
        for tar in tars:
            if self._barren_tars == BARREN_TARS:
                last = self._failures[-1] if self._failures else f"{tar['url']}: no photo in it"
                raise ShardError(f"{BARREN_TARS} tars after each other gave no photo; the last one: {last}")
            self._barren_tars += 1
            self._url, self._told = tar["url"], False
            with ExitStack() as stack:
                try:
                    file = _open(tar["url"])
                    stack.callback(_close_early, file)
                    stream = _Whole(_unpacked(file))
                    yield {**tar, "stream": stream}
                    stream.check_end()
                    file.close()  # here a command says that it failed
                except _BROKEN as error:
                    self._tar_failed(error)

    def _found(self, photos: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for photo in photos:
            self._barren_tars = 0
            yield photo

    def _crop(self, draws: random.Random, photo: Mapping[str, Any]) -> Tensor:
        size, scale_jitter = self._settings.image_size, self._settings.scale_jitter
        scale, row, col = draws.random(), draws.random(), draws.random()
        try:
            rgb = decode_rgb(photo["data"], size + scale_jitter)
        except BrokenPhoto as error:
            raise BrokenPhoto(f"{photo['__url__']}: {photo['fname']}: {error}") from error
        self._broken_photos = 0
        return random_crop(rgb, size, scale_jitter, (scale, row, col))

    def _photo_failed(self, error: Exception) -> bool:
        """Webdataset's handler of a photo: count a corrupt one and go on."""
        if not isinstance(error, BrokenPhoto):
            raise error
        self._failures.append(str(error))
        self._broken_photos += 1
        if self._broken_photos > self._buffer:
            raise ShardError(f"{error}; nor can any of the {self._buffer} photos before it be decoded")
        return True

    def _tar_failed(self, error: Exception) -> bool:
        """Webdataset's handler of a tar: count one that is damaged, once, and go on."""
        if not isinstance(error, _BROKEN):
            raise error
        if not self._told:
            self._told = True
            reason = getattr(error, "strerror", None) or (error.args or [type(error).__name__])[0]
            text = str(reason).partition(" @ ")[0].removeprefix(f"{self._url}: ")
            self._failures.append(f"{self._url}: {text}; the rest of this tar is left out")
        return True


class _Whole:
    """A tar's bytes, and whether they end as a whole tar does: tarfile ends without a word at a broken header."""

    def __init__(self, file: Any) -> None:
        self._file, self._end = file, b""

    def read(self, amount: int, /) -> bytes:
        """Up to `amount` bytes, fewer only at the end."""
        part = self._file.read(amount)
        self._end = (self._end + part[-_END:])[-_END:]
        return part

    def check_end(self) -> None:
        """Read the rest of it; a ShardError where that is not what a whole tar ends with."""
        rest = False
        while part := self.read(1 << 20):
            rest = rest or any(part)
        if rest or any(self._end) or len(self._end) < _END:
            raise ShardError("cut short or damaged")


def _open(url: str) -> io.BufferedReader:
    """A tar's bytes: files, http and s3 as everywhere here, with tries; the rest by webdataset's openers."""
    scheme = scheme_in(url)
    if scheme in ("file", "http", "https", "s3"):
        return open_url(url)
    if scheme == "pipe":  # as gopen would, which refuses it where pickles are refused
        opened = Pipe(url.removeprefix("pipe:"), mode="rb", shell=True, bufsize=1 << 16, ignore_status=[141, -13])
    else:
        opened = gopen(url)
    set_options(opened, timeout=_COMMAND_ENDS_S)
    return as_file(opened.read, opened.close)


def _close_early(file: io.BufferedReader) -> None:
    """Close a tar that is read no further; its command has no say any more."""
    with suppress(OSError, TimeoutExpired):
        file.close()


def _unpacked(file: io.BufferedReader) -> Any:
    """What is in a packed file, told by how it begins; any other file as it is."""
    begin = file.peek(6)
    for magic, unpack in {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}.items():
        if begin.startswith(magic):
            return unpack(file)
    return file
