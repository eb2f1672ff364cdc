"""The click protocol: what is measured, on which photos, after how many clicks, with which robot user.

`evaluate` is the one definition of every validation number: the trainer, the registry and the benchmark call
it.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import UInt8
from torch import Tensor

from evaluator.metrics import DEFAULT, METRICS, Comparison
from evaluator.policies import Policy
from evaluator.protocol.results import Protocol, Results
from evaluator.protocol.rollout import Moment, Photos, before_clicks, coloured_steps, rollout
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
    """Let a robot user click as each policy says and measure at the budgets.

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
        ValueError: no policy, an unknown metric, more clicks than pixels, networks in training mode, or colours
            that are not finite.
    """
    _check(policies, photos, protocol, metrics)
    device = torch.device(device)
    results = Results.empty(protocol, photos.shape, first_index, policies, metrics)
    progress = _Progress(len(photos) * len(policies) * protocol.clicks[-1], on_progress)
    run = _Run(colorizer, autocast, policies, photos, protocol, device, metrics, results, progress)
    at_once = 1 if device.type == "cpu" else protocol.batch_size
    batches = [slice(first, min(first + at_once, len(photos))) for first in range(0, len(photos), at_once)]
    if device.type == "cpu":
        each_on_one_core(run.measure, batches)
    else:
        for rows in batches:
            run.measure(rows)
    return results


@dataclass(frozen=True, eq=False)
class _Run:
    """What `evaluate` does, batch by batch; several threads may measure different batches."""

    colorizer: Colorizer
    autocast: torch.dtype | None
    policies: Mapping[str, Policy]
    photos: UInt8[Tensor, "n 3 h w"]
    protocol: Protocol
    device: torch.device
    metrics: Sequence[str]
    results: Results
    progress: "_Progress"

    def measure(self, rows: slice) -> None:
        """Let every policy click on these photos, and write down what comes out."""
        protocol = self.protocol
        rgb = self.photos[rows].to(self.device)
        first_index = int(self.results.photos[0]) + rows.start
        batch = Photos.from_rgb(rgb, seed=protocol.seed, first_index=first_index)
        with_previous = any(METRICS[metric].needs_previous for metric in self.metrics)
        session = PhotoSession(self.colorizer, batch.lightness, self.autocast)
        start = before_clicks(session, batch) if self._shares_start(with_previous) else None
        for name, policy in self.policies.items():
            moments = rollout(
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
            for column, moment in enumerate(moments):
                _record(self.results, name, rows, column, moment, batch, rgb)

    def _shares_start(self, with_previous: bool) -> bool:
        """Whether some policy needs the automatic colouring, which all of them then share."""
        steps = (coloured_steps(policy, self.protocol.clicks, with_previous) for policy in self.policies.values())
        return any(0 in of_policy for of_policy in steps)


def _record(
    results: Results, policy: str, rows: slice, column: int, moment: Moment, batch: Photos, rgb: Tensor
) -> None:
    """Measure one batch at one budget and write it into the results."""
    _refuse_non_finite(moment.predicted_ab, first_photo=int(results.photos[rows][0]))
    comparison = Comparison(
        batch.lightness,
        moment.predicted_ab,
        batch.truth_ab,
        rgb,
        clicks=moment.clicks,
        positions=moment.positions,
        previous_ab=moment.previous_ab,
        shared=batch.shared,
    )
    for metric, values in results.values[policy].items():
        values[rows, column] = METRICS[metric].measure(comparison).double().cpu().numpy()
    placed = moment.positions.shape[1]
    results.positions[policy][rows, :placed] = moment.positions.cpu().numpy()
    if placed:
        results.seconds_per_click[policy][rows, column] = moment.seconds / (placed * len(rgb))


def _refuse_non_finite(predicted_ab: Tensor, first_photo: int) -> None:
    """A mean leaves out what is undefined, so a broken colouring must not become undefined numbers."""
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
