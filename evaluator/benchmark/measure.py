"""Measuring a process's share of the photos, part by part."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path

import torch

from evaluator.benchmark.store import Coverage, schema, to_table, write_part
from evaluator.inference import Colorizer, run_network
from evaluator.photos.ahead import Cut, LeftOut, Ready, read_ahead
from evaluator.photos.source import PhotoSource
from evaluator.policies import Policy
from evaluator.protocol import evaluate
from evaluator.results import RULER, Protocol, Results
from evaluator.ruler import measure_ruler

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
        """What colours after the clicks of one of `names`."""
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
