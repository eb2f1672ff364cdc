"""One update of a phase: gradients over micro-batches, a verdict shared by all ranks, one optimizer step."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from evaluator.system.interrupts import StopRequest
from trainer.checkpoint import Progress
from trainer.config import Config
from trainer.engines import Cluster, Engine, Verdict, backward, share_gradients
from trainer.monitoring.console import Screen
from trainer.monitoring.monitor import Watch
from trainer.recipes.base import Phase, Step, Term

SCALER_PATIENCE = 20
"""fp16's loss scaler finds its scale by overflowing: so many steps in a row may be that."""


class TrainingBroke(RuntimeError):
    """Raised when the loss was not finite too many times in a row."""


class Update:
    """Update of the networks that a phase trains, on one batch."""

    def __init__(self, config: Config, cluster: Cluster, watch: Watch, screen: Screen) -> None:
        """Divide each rank's share of a batch into micro-batches.

        Raises:
            ValueError: `engine.micro_batch` does not divide it.
        """
        self._config, self._cluster, self._watch, self._screen = config, cluster, watch, screen
        local = config.data.batch_size // cluster.world_size
        self.micro_batch = config.engine.micro_batch or local
        """Photos that one backward pass sees on this rank."""
        if local % self.micro_batch:
            raise ValueError(
                f"engine.micro_batch is {self.micro_batch}, but each process has {local} photos of a batch "
                f"(data.batch_size {config.data.batch_size} over {cluster.world_size}); give a divisor "
                f"of {local}, or another data.batch_size"
            )

    def __call__(
        self, phase: Phase, trained: list[Engine], step: Step, progress: Progress, skipped: int, stop: StopRequest
    ) -> tuple[dict[str, float], bool]:
        """Take one optimizer step, unless a loss or gradient is not finite on any rank; all ranks decide alike.

        Args:
            phase: whose loss.
            trained: the engines of its networks, entered for training.
            step: the batch and what else the loss sees.
            progress: counts steps that are left out, and photos that readers replaced.
            skipped: those photos of this rank, since it was called last.
            stop: whether this rank was asked to stop.

        Returns:
            The loss' terms, norms of gradients and the learning rate, means over the ranks, or nothing for a step
            that was left out; and whether some rank was asked to stop.

        Raises:
            TrainingBroke: the loss was not finite several times in a row.
        """
        values, verdict = self._accumulate(trained, phase, step, skipped, stop)
        broken = _not_finite(values)
        progress.skipped_photos += verdict.skipped
        norms: dict[str, float] = {}
        if verdict.finite:
            norms = {engine.name: engine.clip() for engine in trained}
            broken = [f"gradient of {name}" for name in _not_finite(norms)]
        if not verdict.finite or broken:
            for engine in trained:
                engine.undo(clipped=bool(norms))
            everyone = [name for names in self._cluster.gather(broken) for name in names]
            self._skip(phase, trained, progress, everyone)
            return {}, verdict.stop
        schedule = phase.schedule
        so_far = step.progress if schedule.over == "stage" else step.span_progress
        lr = schedule.at(phase.optimizer.lr, so_far)
        for engine in trained:
            engine.step(lr)
        progress.broken_in_row[phase.name] = 0
        gradients = {f"gradient_norm_{name}": norm for name, norm in norms.items()}
        return self._cluster.mean({**values, **gradients, "lr": lr}), verdict.stop

    def _accumulate(
        self, trained: list[Engine], phase: Phase, step: Step, skipped: int, stop: StopRequest
    ) -> tuple[dict[str, float], Verdict]:
        """Accumulate the gradients of the batch's micro-batches; returns the mean of each loss term.

        The ranks meet before the backward pass that shares their gradients, in which all would be equally late:
        who keeps the others waiting, or stands still, is seen there (`trainer.monitoring.stragglers`,
        `trainer.monitoring.watchdog`). A loss that is not finite goes through that pass too, as the other ranks'
        do.
        """
        for engine in trained:
            engine.begin()
        scenes = step.scene.split(self.micro_batch)
        sums: dict[str, Tensor] = {}
        values: dict[str, float] = {}
        verdict = Verdict(finite=True, stop=False, skipped=0)
        for index, scene in enumerate(scenes, start=1):
            last = index == len(scenes)
            own = slice((index - 1) * self.micro_batch, index * self.micro_batch)
            labels = {name: values[own] for name, values in step.labels.items()}
            with share_gradients(trained, last):
                terms = phase.loss(replace(step, scene=scene, labels=labels))
                for name, term in terms.items():
                    value = term.value.detach()
                    sums[name] = sums[name] + value if name in sums else value
                if last:
                    means = torch.stack(list(sums.values())) / len(scenes)
                    values = dict(zip(sums, means.tolist(), strict=True))
                    verdict = self._agree(values, skipped, stop)
                backward(total(terms) / len(scenes), trained)
            if not last:
                for engine in trained:
                    engine.end_of_micro_batch()
        return values, verdict

    def _agree(self, values: Mapping[str, float], skipped: int, stop: StopRequest) -> Verdict:
        with self._watch.waiting():
            return self._cluster.agree(
                finite=not _not_finite(values), stop=stop.signal_name is not None, skipped=skipped
            )

    def _skip(self, phase: Phase, trained: list[Engine], progress: Progress, broken: list[str]) -> None:
        """Count a skipped step; stop after several in a row."""
        progress.skipped_steps += 1
        in_row = progress.broken_in_row[phase.name] = progress.broken_in_row.get(phase.name, 0) + 1
        names = ", ".join(sorted(set(broken)))
        self._screen.warn(f"{phase.name}: {names} not finite at photo {progress.images_seen}; step skipped")
        patience = self._config.run.patience
        if any(engine.scales_loss for engine in trained):
            patience = max(patience, SCALER_PATIENCE)
        if in_row >= patience:
            raise TrainingBroke(
                f"{names} was not finite in {in_row} steps in a row, last in phase {phase.name} at photo "
                f"{progress.images_seen}; lower the learning rate, or use engine.precision fp32"
            )


def _not_finite(values: Mapping[str, float]) -> list[str]:
    return [name for name, value in values.items() if not math.isfinite(value)]


def total(terms: Mapping[str, Term]) -> Tensor:
    """Weighted sum of the loss terms, which a step minimises."""
    return torch.stack([term.value * term.weight for term in terms.values() if term.weight]).sum()
