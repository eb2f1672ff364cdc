"""Where the shards are, and what a cache on disk is worth: the second table of `tests.benchmarks.trainer.loader`.

Local files, a server with byte ranges (HTTP) and moto (a stand-in for S3) on this machine, which shares its cores
with the readers: what is measured is the readers' and the protocols' work, not a network. A cold cache is an
empty folder, a warm one was filled by an earlier reading of the same photos.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from evaluator.photos.manifest import FILE_NAME
from tests.benchmarks.harness import Refused, interleave, quantiles
from tests.benchmarks.servers import http_folder, s3_folder, why_no_s3
from tests.benchmarks.trainer.loader_paths import Conversion, Workload

UNIT = "photos/s"


@dataclass(frozen=True, kw_only=True)
class _Case:
    """A row: a way, the state of its cache, its workers, and a function that runs it once."""

    way: str
    cache: str
    workers: int
    run: Callable[[], float]


def measure_sources(
    workload: Workload, lab: Conversion, workers: Sequence[int], repeats: int
) -> list[dict[str, object]]:
    """The rows of the table: every way in turns with all others.

    Raises:
        Refused: a source gives other batches than the local shards.
        OSError: a server does not start.
    """
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = {"HTTP": stack.enter_context(http_folder(workload.shards, scratch / "log")).url}
        missing = why_no_s3()
        if not missing:
            urls["S3"] = stack.enter_context(s3_folder(workload.shards))
        urls = {name: f"{url}/{FILE_NAME}" for name, url in urls.items()}
        warm = {name: scratch / f"warm-{name}" for name in urls}
        for name, url in urls.items():
            _check(workload, name, url, warm[name])
        cases = [case for count in workers for case in _cases(workload, lab, count, urls, warm)]
        measured = interleave({str(index): case.run for index, case in enumerate(cases)}, repeats)
    rows = _rows(cases, list(measured.values()))
    if missing:
        rows.append({"way": "ours: S3", "unit": UNIT, "not measured": missing})
    return rows


def _check(workload: Workload, name: str, url: str, cache: Path) -> None:
    """Read all photos from local shards, from `url`, and from there twice through a cache: the same batches."""
    batches = max(1, len(workload.files) // workload.batch_size)
    ways = [(str(workload.shards), None), (url, None), (url, cache), (url, cache)]
    loaders = [workload.loader(0, shards, folder) for shards, folder in ways]
    try:
        for found in islice(zip(*(loader.batches() for loader in loaders), strict=True), batches):
            if not all(torch.equal(found[0].rgb, batch.rgb) for batch in found):
                raise Refused(f"the batches by {name} are not those of the local shards: no speeds")
    finally:
        for loader in loaders:
            loader.close()


def _cases(
    workload: Workload, lab: Conversion, workers: int, urls: dict[str, str], warm: dict[str, Path]
) -> Iterator[_Case]:
    def case(way: str, run: Callable[[], int], cache: str = "-") -> _Case:
        return _Case(way=way, cache=cache, workers=workers, run=lambda: workload.photos_per_second(run))

    def ours(shards: str, cache: Path | None = None) -> Callable[[], int]:
        return lambda: workload.ours(workers, lab, shards, cache)

    yield case("usual: files, Pillow, scikit-image", lambda: workload.usual(workers))
    yield case("webdataset's recipe: local", lambda: workload.webdataset(workers))
    yield case("ours: local", ours(str(workload.shards)))
    for name, url in urls.items():
        yield case(f"ours: {name}", ours(url), "none")
        yield _Case(way=f"ours: {name}", cache="cold", workers=workers, run=_cold(workload, workers, lab, url))
        yield case(f"ours: {name}", ours(url, warm[name]), "warm")


def _cold(workload: Workload, workers: int, lab: Conversion, url: str) -> Callable[[], float]:
    def run() -> float:
        with tempfile.TemporaryDirectory() as folder:  # made and taken away outside of what is timed
            return workload.photos_per_second(lambda: workload.ours(workers, lab, url, Path(folder)))

    return run


def _rows(cases: Sequence[_Case], measured: Sequence[Sequence[float]]) -> list[dict[str, object]]:
    usual = {
        case.workers: float(np.median(values))
        for case, values in zip(cases, measured, strict=True)
        if case.way.startswith("usual")
    }
    return [
        {
            "way": case.way,
            "cache": case.cache,
            "workers": case.workers,
            "unit": UNIT,
            **quantiles(values),
            "times usual": float(np.median(values)) / usual[case.workers],
        }
        for case, values in zip(cases, measured, strict=True)
    ]
