"""How many photos per second one core prepares: shards and batched Lab beside the usual ways.

The usual way is a `Dataset` over JPEG files: Pillow decodes, torchvision resizes and crops, scikit-image converts
each photo to Lab, a `DataLoader` makes batches; webdataset's recipe does the same from shards. Ours is shards ->
`ShardLoader` -> Lab on whole batches: on the GPU where there is one, else on the CPU, compiled where there is a
C++ compiler. All ways read the same photos and are held to the same cores.

    python -m tests.benchmarks loader [PHOTOS] [--workers N] [--no-sources] [--json FILE]

A second table (`tests.benchmarks.trainer.loader_sources`) has all cores, reader processes, and shards on disk, by
HTTP and from a stand-in for S3, with and without a cache.
"""

import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from PIL import Image
from torchvision.transforms import RandomCrop, Resize

from evaluator.photos.decode import center_crop, decode_rgb
from evaluator.photos.files import PHOTO_SUFFIXES, list_files
from evaluator.system.environment import usable_cores
from kernels.color import rgb_to_lab
from tests.benchmarks.harness import Goal, Refused, at_least, interleave, quantiles, report
from tests.benchmarks.trainer.loader_paths import SCALE_JITTER, Conversion, Workload, usual_lab
from tests.benchmarks.trainer.loader_sources import measure_sources
from trainer.data.embedded import photographs
from trainer.data.worker import random_crop
from trainer.recipes.lab_batch import lab_converter
from trainer.shards.build import StoreSettings, build_all, plan_jobs

GOAL = 5.0
TOLERANCE = 1e-3
"""Largest difference of the two ways' lightness and ab on the same pixels."""
EXAMPLES = 256
EXAMPLE_SIZE = (363, 272)
"""Width and height in pixels of the example photos."""
_MIN_SHARDS = 4
"""webdataset refuses fewer shards than workers."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Compare images/s per core of the data path with the usual way."""

    source: Annotated[Path | None, tyro.conf.Positional] = None
    """A zip or folder of photos; default: crops of scikit-image's photographs."""
    photos: int = 512
    """Use at most so many photos."""
    image_size: int = 256
    """Side of the crops in pixels."""
    batch_size: int = 32
    """Photos per batch."""
    workers: int = 0
    """Worker processes of all ways in the first table; 0 decodes in the main process."""
    cores: int = 1
    """Cores that each way of the first table may use."""
    repeats: int = 5
    """Measurements of each way in the first table, taken in turns."""
    sources: bool = True
    """Make the second table: local, HTTP, S3, cold and warm caches, on all cores."""
    source_workers: tuple[int, ...] = (1, 2)
    """Worker processes of all ways in the second table."""
    source_repeats: int = 3
    """Measurements of each way in the second table, taken in turns."""
    json: Path | None = None
    """Write the report here too."""

    def __post_init__(self) -> None:
        if not 1 <= self.cores <= usable_cores():
            raise ValueError(f"--cores is {self.cores}; this machine lends 1 ... {usable_cores()}")
        if self.photos < self.batch_size or min(self.repeats, self.source_repeats) < 1:
            raise ValueError(
                f"--photos is {self.photos}, --batch-size {self.batch_size}, --repeats {self.repeats}, "
                f"--source-repeats {self.source_repeats}; give at least one batch and one repeat"
            )
        if not self.source_workers or not all(0 <= count <= _MIN_SHARDS for count in self.source_workers):
            raise ValueError(f"--source-workers is {self.source_workers}; give numbers in 0 ... {_MIN_SHARDS}")


def main(args: Sequence[str]) -> int:
    """Check that the ways agree, time them, report."""
    options = tyro.cli(Arguments, prog="python -m tests.benchmarks loader", args=args)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    conversions = _conversions(device)
    with tempfile.TemporaryDirectory() as folder:
        workload = _prepare(options, Path(folder), device)
        difference = max(_difference(workload, lab) for lab in conversions.values())
        if not difference <= TOLERANCE:
            raise Refused(f"the two ways differ by {difference:.2e}, more than {TOLERANCE}: no speeds")
        with _held_to(options.cores):
            measured = interleave(_ways(options, workload, conversions), options.repeats)
            stages = _stages(workload.files[:64], options.image_size, conversions)
        sources: list[dict[str, object]] = []
        if options.sources:
            quickest = list(conversions.values())[-1]
            sources = measure_sources(workload, quickest, options.source_workers, options.source_repeats)
    rows, goals = _rows(options, measured, stages)
    title = (
        f"{len(workload.files)} photos, crops of {options.image_size} px; per core: {options.cores} cores, "
        f"{options.workers} workers; {'/'.join(map(str, options.source_workers))} workers: all cores"
    )
    report(f"{title}; largest difference {difference:.1e}", rows + sources, goals, options.json)
    return 0


def _rows(
    options: Arguments, measured: Mapping[str, Sequence[float]], stages: Mapping[str, Sequence[float]]
) -> tuple[list[dict[str, object]], list[Goal]]:
    """Of the first table; the usual way comes first, webdataset's recipe second."""
    middle = {name: float(np.median(values)) for name, values in measured.items()}
    usual, _, *ours = middle
    rows: list[dict[str, object]] = [
        {
            "way": name,
            "workers": options.workers,
            "unit": "images/s per core",
            **quantiles(values),
            "times usual": middle[name] / middle[usual],
        }
        for name, values in measured.items()
    ]
    rows += [{"way": name, "unit": "ms per image", **quantiles(values)} for name, values in stages.items()]
    return rows, [
        at_least(f"images/s per core, {name} / usual", GOAL, middle[name] / middle[usual]) for name in ours
    ]


def _conversions(device: torch.device) -> dict[str, Conversion]:
    """Lab on this device; on a CPU also in one compiled pass, where a compiler is found."""
    found: dict[str, Conversion] = {f"Lab on {device.type}": rgb_to_lab}
    if device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")):
        found["Lab on cpu, compiled"] = lab_converter(compiled=True)
    return found


def _prepare(options: Arguments, folder: Path, device: torch.device) -> Workload:
    """The same photos as loose files and as shards."""
    loose = folder / "photos"
    loose.mkdir()
    photos = _photos_of(options.source) if options.source else _example_photos()
    for number, data in enumerate(islice(photos, options.photos)):
        (loose / f"{number:06d}.jpg").write_bytes(data)
    shards = folder / "shards"
    files = sorted(loose.iterdir())
    shard_size = max(1, min(256, len(files) // _MIN_SHARDS))
    build_all(plan_jobs([loose], shards, StoreSettings(), shard_size, 0), shards, 1, lambda count: None)
    return Workload(
        files=files, shards=shards, image_size=options.image_size, batch_size=options.batch_size, device=device
    )


def _photos_of(source: Path) -> Iterator[bytes]:
    for file in list_files(source):
        if Path(file.name).suffix.lower() in PHOTO_SUFFIXES:
            yield file.read()


def _example_photos() -> Iterator[bytes]:
    """Random windows of scikit-image's photographs as JPEGs, about as large as the photos of a prepared COCO."""
    images = [image for image in photographs().values() if min(image.size) >= EXAMPLE_SIZE[1]]
    random = np.random.default_rng(0)
    for number in range(EXAMPLES):
        image = images[number % len(images)]
        width = min(EXAMPLE_SIZE[0], image.width)
        left, top = random.integers(image.width - width + 1), random.integers(image.height - EXAMPLE_SIZE[1] + 1)
        file = io.BytesIO()
        window = image.crop((int(left), int(top), int(left) + width, int(top) + EXAMPLE_SIZE[1]))
        window.convert("RGB").save(file, "JPEG", quality=90)
        yield file.getvalue()


def _difference(workload: Workload, lab: Conversion) -> float:
    """The largest difference of lightness and ab between the two ways, on a batch of identical pixels."""
    files = workload.files[: workload.batch_size]
    rgb = torch.stack([center_crop(decode_rgb(path.read_bytes()), workload.image_size) for path in files])
    ours = torch.cat(lab(rgb.to(workload.device)), dim=1).cpu()
    usual = torch.stack([torch.cat(usual_lab(photo.permute(1, 2, 0).numpy())) for photo in rgb])
    return (ours - usual).abs().max().item()


def _ways(
    options: Arguments, workload: Workload, conversions: Mapping[str, Conversion]
) -> dict[str, Callable[[], float]]:
    """For each way a function that prepares all photos once and returns images/s per core; usual ones first."""
    workers, shards = options.workers, str(workload.shards)
    ways: dict[str, Callable[[], int]] = {
        "usual: files, Pillow, scikit-image": lambda: workload.usual(workers),
        "webdataset's recipe: shards, Pillow, scikit-image": lambda: workload.webdataset(workers),
    }
    for name, lab in conversions.items():
        ways[f"ours: shards, {name}"] = lambda lab=lab: workload.ours(workers, lab, shards)
    return {name: lambda way=way: workload.photos_per_second(way) / options.cores for name, way in ways.items()}


def _stages(
    files: Sequence[Path], image_size: int, conversions: Mapping[str, Conversion]
) -> dict[str, list[float]]:
    """What each step costs on one core, in ms per image: where the difference comes from."""
    encoded = [path.read_bytes() for path in files]
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in encoded]
    decoded = [decode_rgb(data) for data in encoded]
    crops = torch.stack([center_crop(rgb, image_size) for rgb in decoded])
    arrays = [rgb.permute(1, 2, 0).numpy() for rgb in crops]
    scale, crop = Resize(image_size + SCALE_JITTER // 2), RandomCrop(image_size)
    steps: dict[str, Callable[[], object]] = {
        "usual: decode": lambda: [Image.open(io.BytesIO(data)).convert("RGB").load() for data in encoded],
        "usual: resize the photo, crop": lambda: [crop(scale(image)) for image in images],
        "usual: Lab one by one, float64": lambda: [usual_lab(array) for array in arrays],
        "ours: decode": lambda: [decode_rgb(data) for data in encoded],
        "ours: crop, resize the crop": lambda: [random_crop(i, image_size, 0, (0.0, 0.5, 0.5)) for i in decoded],
    }
    if not torch.cuda.is_available():
        for name, lab in conversions.items():
            steps[f"ours: {name}, batched"] = lambda lab=lab: [lab(part) for part in crops.split(32)]

    def timed(step: Callable[[], object]) -> float:
        begin = time.perf_counter()
        step()
        return (time.perf_counter() - begin) / len(files) * 1e3

    return interleave({name: lambda step=step: timed(step) for name, step in steps.items()}, 5)


@contextmanager
def _held_to(cores: int) -> Iterator[None]:
    """Keep this process and those it starts on so many cores, where the system can."""
    threads = torch.get_num_threads()
    torch.set_num_threads(cores)
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else None
    try:
        if allowed:
            os.sched_setaffinity(0, sorted(allowed)[-cores:])
        yield
    finally:
        if allowed:
            os.sched_setaffinity(0, allowed)
        torch.set_num_threads(threads)
