"""The click protocol: what is measured, on which photos, after how many clicks, with which simulated user.

`evaluate` is the one definition of every validation number: the trainer, the registry and the benchmark call
it.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from evaluator.metrics import DEFAULT, METRICS, Comparison
from evaluator.policies import Policy
from evaluator.protocol.results import Protocol, Results
from evaluator.protocol.rollout import Photos, RolloutStep, before_clicks, colored_steps, rollout
from evaluator.registry.networks import Colorizer
from evaluator.registry.session import PhotoSession
from evaluator.system.threads import each_on_one_core

__all__ = ["Protocol", "Results", "evaluate"]


@torch.no_grad()
def evaluate(
    colorizer: Colorizer,
    policies: Mapping[str, Policy],
    photos: UInt8[Tensor, "n 3 h w"],
    protocol: Protocol,
    device: torch.device | str = "cpu",
    *,
    first_index: int = 0,
    metrics: Sequence[str] = DEFAULT,
    autocast: torch.dtype | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Results:
    """Let a simulated user click as each policy says and measure at the budgets.

    Every photo's result depends on that photo and its index only, not on the batch size or on how photos are
    split: with n processes, each evaluates its part and `Results.merge` joins them. On a CPU photos are taken one
    by one, each on one core, so that all numbers are bit-equal for every batch size, number of threads and split.
    A GPU's may differ in the last bits between batch sizes, which changes a click where two scores tie to within
    that.

    Args:
        colorizer: in evaluation mode, on `device`.
        policies: by name; "random" is what the others are compared with.
        photos: original photos of one size, on any device.
        protocol: budgets, hint size, robot, seed, batch size.
        device: where to compute.
        first_index: index of `photos[0]` in the whole set.
        metrics: names in `METRICS`.
        autocast: dtype in which to run the colorizer under autocast; a `GuidePolicy` has its own.
        on_progress: called with (clicks placed, clicks to place), summed over photos and policies.

    Raises:
        ValueError: no policy, an unknown metric, more clicks than pixels, networks in training mode, or colors
            that are not finite.
    """
    _check(policies, photos, protocol, metrics)
    device = torch.device(device)
    progress = _Progress(len(photos) * len(policies) * protocol.clicks[-1], on_progress)
    shape = len(photos), len(policies), len(protocol.clicks)
    run = _Run(
        colorizer=colorizer,
        autocast=autocast,
        policies=policies,
        photos=photos,
        protocol=protocol,
        device=device,
        first_index=first_index,
        progress=progress,
        columns={name: np.full(shape, np.nan) for name in (*metrics, "seconds_per_click")},
        positions=np.full((*shape[:2], protocol.clicks[-1]), -1, dtype=np.int64),
    )
    at_once = 1 if device.type == "cpu" else protocol.batch_size
    batches = [slice(first, min(first + at_once, len(photos))) for first in range(0, len(photos), at_once)]
    if device.type == "cpu":
        each_on_one_core(run.measure, batches)
    else:
        for rows in batches:
            run.measure(rows)
    return Results.of(protocol, photos.shape[2:], first_index, list(policies), run.columns, run.positions)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    """What `evaluate` does, batch by batch; several threads may measure different batches."""

    colorizer: Colorizer
    autocast: torch.dtype | None
    policies: Mapping[str, Policy]
    photos: UInt8[Tensor, "n 3 h w"]
    protocol: Protocol
    device: torch.device
    first_index: int
    progress: "_Progress"
    columns: dict[str, Float64[np.ndarray, "photos policies budgets"]]
    """Filled in: every metric and `seconds_per_click`."""
    positions: Int64[np.ndarray, "photos policies clicks"]
    """Filled in: flat indices of the clicks."""

    def measure(self, rows: slice) -> None:
        """Let every policy click on these photos, and write down what comes out."""
        protocol = self.protocol
        rgb = self.photos[rows].to(self.device)
        batch = Photos.from_rgb(rgb, seed=protocol.seed, first_index=self.first_index + rows.start)
        with_previous = any(name in METRICS and METRICS[name].needs_previous for name in self.columns)
        session = PhotoSession(self.colorizer, batch.lightness, self.autocast)
        start = before_clicks(session, batch) if self._shares_start(with_previous) else None
        for place, policy in enumerate(self.policies.values()):
            steps = rollout(
                session,
                policy,
                batch,
                start,
                budgets=protocol.clicks,
                hint_size=protocol.hint_size,
                robot=protocol.robot,
                with_previous=with_previous,
                on_click=partial(self.progress.advance, len(rgb)),
            )
            for budget, step in enumerate(steps):
                self._record((rows, place, budget), step, batch, rgb)

    def _shares_start(self, with_previous: bool) -> bool:
        """Whether some policy needs the automatic coloring, which all of them then share."""
        steps = (colored_steps(policy, self.protocol.clicks, with_previous) for policy in self.policies.values())
        return any(0 in of_policy for of_policy in steps)

    def _record(self, cell: tuple[slice, int, int], step: RolloutStep, batch: Photos, rgb: Tensor) -> None:
        """Measure one batch at one budget: the cell is its photos, the policy's place and the budget's."""
        rows, place, _ = cell
        _refuse_non_finite(step.predicted_ab, first_photo=self.first_index + rows.start)
        comparison = Comparison(
            batch.lightness,
            step.predicted_ab,
            batch.truth_ab,
            rgb,
            clicks=step.clicks,
            positions=step.positions,
            previous_ab=step.previous_ab,
            shared=batch.shared,
        )
        placed = step.positions.shape[1]
        self.positions[rows, place, :placed] = step.positions.cpu().numpy()
        for name, column in self.columns.items():
            if name in METRICS:
                column[cell] = METRICS[name].measure(comparison).double().cpu().numpy()
            elif placed:
                column[cell] = step.seconds / (placed * len(rgb))


def _refuse_non_finite(predicted_ab: Tensor, first_photo: int) -> None:
    """A mean leaves out what is undefined, so a broken coloring must not become undefined numbers."""
    finite = predicted_ab.isfinite().flatten(1).all(1).tolist()
    if not all(finite):
        raise ValueError(
            f"the colorizer returned NaN or infinite colours for photo {first_photo + finite.index(False)}; "
            "check its weights, or run it without autocast"
        )


class _Progress:
    """Counts clicks for the caller's progress bar; threads take turns."""

    def __init__(self, total: int, report: Callable[[int, int], None]):
        self.done, self.total, self.report = 0, total, report
        self._turn = threading.Lock()

    def advance(self, clicks: int) -> None:
        with self._turn:
            self.done += clicks
            self.report(self.done, self.total)


def _check(policies: Mapping[str, Policy], photos: Tensor, protocol: Protocol, metrics: Sequence[str]) -> None:
    if not policies:
        raise ValueError("no policies to evaluate; pass at least one, such as {'random': RandomPolicy()}")
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise ValueError(f"unknown metrics {unknown}; choose from {', '.join(METRICS)}")
    height, width = photos.shape[-2:]
    if protocol.clicks[-1] > height * width:
        raise ValueError(
            f"{protocol.clicks[-1]} clicks on photos of {height} x {width} = {height * width} pixels; "
            "ask for fewer clicks or use larger photos"
        )
