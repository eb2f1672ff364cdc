"""Colouring photos again from the clicks that are stored, for what has no value per photo: the FID."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
from pyarrow import parquet

from evaluator.benchmark.measure import Task
from evaluator.benchmark.store import ROWS_FILE
from evaluator.fid import Fid
from evaluator.photos.ahead import Ready, read_ahead
from evaluator.rollout import Photos
from kernels.color import lab_to_rgb, to_uint8

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
        on_photos: called with the number of photos just coloured.

    Raises:
        WeightsUnavailable: see `evaluator.fid`.
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
