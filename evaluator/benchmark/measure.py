"""Measuring a process's share of the photos, part by part; and the FID, from stored clicks."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyarrow import parquet

from evaluator.benchmark.store import ROWS_FILE, Coverage, schema, to_table, write_part
from evaluator.metrics.fid import Fid
from evaluator.photos.dataset import PhotoSource
from evaluator.photos.prefetch import Cut, LeftOut, Ready, read_ahead
from evaluator.policies import Policy
from evaluator.protocol.evaluate import evaluate
from evaluator.protocol.no_network import measure_ruler
from evaluator.protocol.results import RULER, Protocol, Results
from evaluator.protocol.rollout import Photos
from evaluator.registry.networks import Colorizer, run_network
from kernels.color import lab_to_rgb, to_uint8

Piece = range
"""Photos that follow each other and are measured together."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is measured, with what, and where the results go."""

    colorizer: Colorizer
    policies: Mapping[str, Policy]
    photos: PhotoSource
    protocol: Protocol
    cut: Cut
    metrics: Sequence[str]
    device: torch.device
    out: Path
    workers: int = 2
    """Threads that decode ahead."""
    autocast: torch.dtype | None = None
    ruler: Colorizer | None = None
    """Measured beside the policies as `RULER`; None: not at all."""

    @property
    def names(self) -> list[str]:
        """Of everything that results have: the policies, and the ruler last."""
        return [*self.policies, *([RULER] if self.ruler else [])]

    @property
    def clicks_per_photo(self) -> int:
        """Clicks that are placed on a photo, all policies and the ruler together."""
        return len(self.names) * self.protocol.clicks[-1]

    def colorize(self, policy: str) -> Colorizer:
        """What colors after the clicks of one of `names`."""
        if policy == RULER:
            assert self.ruler is not None
            return self.ruler
        return partial(run_network, self.colorizer, autocast=self.autocast)


def pieces(count: int, done: Collection[int], batch_size: int) -> list[Piece]:
    """The photos that are left, in runs of at most `batch_size` that follow each other."""
    left = (index for index in range(count) if index not in done)
    runs = (list(run) for _, run in groupby(enumerate(left), key=lambda pair: pair[1] - pair[0]))
    spans = [range(run[0][1], run[-1][1] + 1) for run in runs]
    return [span[first : first + batch_size] for span in spans for first in range(0, len(span), batch_size)]


def measure(
    task: Task,
    mine: Sequence[Piece],
    on_clicks: Callable[[int], None] = lambda count: None,
    on_piece: Callable[[Piece], None] = lambda piece: None,
) -> None:
    """Measure pieces and write each as a part. What is written stays, whatever happens later.

    Args:
        task: what and where.
        mine: this process's pieces.
        on_clicks: called with the number of clicks just placed.
        on_piece: called with each piece that is written.
    """
    indices = chain.from_iterable(mine)
    depth = 2 * max(map(len, mine), default=1)
    loaded = read_ahead(task.photos, indices, task.cut, workers=task.workers, depth=depth)
    try:
        for piece in mine:
            photos = list(islice(loaded, len(piece)))
            ready = [photo for photo in photos if isinstance(photo, Ready)]
            results = [_evaluate(task, run, on_clicks) for run in _runs(ready)]
            on_clicks((len(photos) - len(ready)) * task.clicks_per_photo)
            table = to_table(Results.merge(results), task.photos.names) if results else None
            write_part(task.out, table or schema(task.metrics).empty_table(), _coverage(photos))
            on_piece(piece)
    finally:
        loaded.close()


def _evaluate(task: Task, photos: Sequence[Ready], on_clicks: Callable[[int], None]) -> Results:
    rgb, first = torch.stack([photo.rgb for photo in photos]), photos[0].index
    results = evaluate(
        task.colorizer,
        task.policies,
        rgb,
        task.protocol,
        task.device,
        first_index=first,
        metrics=task.metrics,
        autocast=task.autocast,
        on_progress=_steps(on_clicks),
    )
    if task.ruler is None:
        return results
    ruler = measure_ruler(
        rgb,
        task.protocol,
        task.device,
        colorizer=task.ruler,
        first_index=first,
        metrics=task.metrics,
        on_progress=_steps(on_clicks),
    )
    return results.beside(ruler)


def _steps(on_clicks: Callable[[int], None]) -> Callable[[int, int], None]:
    """Tells of the clicks since the last call, where it is told of all."""
    placed = 0

    def advance(done: int, total: int) -> None:
        nonlocal placed
        on_clicks(done - placed)
        placed = done

    return advance


def _runs(photos: Sequence[Ready]) -> Iterator[list[Ready]]:
    """Runs of photos whose indices follow each other: a photo's noise is a function of its index."""
    for _, run in groupby(enumerate(photos), key=lambda pair: pair[1].index - pair[0]):
        yield [photo for _, photo in run]


def _coverage(photos: Sequence[Ready | LeftOut]) -> Coverage:
    ready = [photo for photo in photos if isinstance(photo, Ready)]
    return Coverage(
        measured={photo.index: photo.sha256 for photo in ready},
        left_out={photo.index: photo.reason for photo in photos if isinstance(photo, LeftOut)},
        enlarged=sum(photo.enlarged for photo in ready),
    )


MakeFid = Callable[[torch.device], Fid]


@torch.no_grad()
def fid_rows(
    task: Task, budgets: Sequence[int], make: MakeFid = Fid, on_photos: Callable[[int], None] = lambda count: None
) -> list[dict[str, Any]]:
    """The FID of each policy and of the ruler at some numbers of clicks, with one pass over the photos for each.

    Args:
        task: the finished measurement.
        budgets: measured numbers of clicks.
        make: makes the accumulator.
        on_photos: called with the number of photos just colored.

    Raises:
        WeightsUnavailable: see `evaluator.metrics.fid`.
        ValueError: a photo that was measured can no longer be read.
    """
    rows = []
    for policy in task.names:
        for clicks in budgets:
            fid = make(task.device)
            for indices, flat in _clicked(task, policy, clicks):
                _add(fid, task, policy, indices, flat)
                on_photos(len(indices))
            value = fid.compute()
            rows.append({"policy": policy, "clicks": clicks, "value": value if np.isfinite(value) else None})
    return rows


def _add(fid: Fid, task: Task, policy: str, indices: list[int], flat: np.ndarray) -> None:
    rgb = torch.stack(_reread(task, indices)).to(task.device)
    batch = Photos.from_rgb(rgb, seed=task.protocol.seed, first_index=indices[0])
    positions = torch.from_numpy(flat).to(task.device)
    clicks = task.protocol.robot.click_map(batch.truth_ab, positions, batch.keys, task.protocol.hint_size)
    ab = task.colorize(policy)(batch.lightness, clicks)
    fid.update(rgb, to_uint8(lab_to_rgb(batch.lightness, ab)))


def _reread(task: Task, indices: Sequence[int]) -> list[torch.Tensor]:
    found = read_ahead(task.photos, indices, task.cut, workers=task.workers, depth=len(indices))
    photos = []
    for photo in found:
        if not isinstance(photo, Ready):
            raise ValueError(
                f"{task.photos.names[photo.index]} was measured and cannot be read now: {photo.reason}"
            )
        photos.append(photo.rgb)
    return photos


def _clicked(task: Task, policy: str, clicks: int) -> Iterator[tuple[list[int], np.ndarray]]:
    """Indices that follow each other, and the flat positions of their clicks, (photos, clicks)."""
    columns = ["index", "click_rows", "click_cols", "width"]
    wanted = [("policy", "==", policy), ("clicks", "==", clicks)]
    rows = parquet.read_table(task.out / ROWS_FILE, columns=columns, filters=wanted).to_pylist()
    for _, run in groupby(enumerate(rows), key=lambda pair: pair[1]["index"] - pair[0]):
        followers = (row for _, row in run)
        while batch := list(islice(followers, task.protocol.batch_size)):
            yield [row["index"] for row in batch], np.stack([_flat(row) for row in batch])


def _flat(row: dict[str, Any]) -> np.ndarray:
    rows, cols = (np.asarray(row[name], dtype=np.int64) for name in ("click_rows", "click_cols"))
    return rows * row["width"] + cols
