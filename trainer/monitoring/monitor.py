"""Monitor of the training loop: speed, waits, memory, slow and hanging ranks."""

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from trainer.config import Config
from trainer.data.batch import Batch
from trainer.engines import Cluster, Engine
from trainer.monitoring.console import Screen
from trainer.monitoring.profiler import Traces
from trainer.monitoring.prometheus import NORM, Figure, MetricsFile, losses_and_norms
from trainer.monitoring.stragglers import Meter, Pace, Stragglers, slowest
from trainer.monitoring.watchdog import Watchdog


class Watch:
    """Monitor of the loop on one rank; while entered it also ends a job that hangs (see `watchdog`)."""

    def __init__(self, config: Config, cluster: Cluster, engines: Mapping[str, Engine], screen: Screen) -> None:
        self.dog = Watchdog(cluster, config.engine.timeout)
        self.traces: Traces | None = None
        self.metrics_file: MetricsFile | None = None
        """For Prometheus; on the main process."""
        self._cluster, self._engines, self._screen = cluster, engines, screen
        self._batch_size, self._compiles = config.data.batch_size, config.engine.compile
        self._meter = Meter(config.run.watch_every, socket.gethostname())
        self._stragglers = Stragglers()
        self._paces: list[Pace] = []
        self._norms: dict[str, float] = {}
        self._latest: list[Figure] = []

    def __enter__(self) -> "Watch":
        self.dog.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.dog.__exit__(*error)
        if self.metrics_file:
            self.metrics_file.write([*self._latest, Figure("running", 0)])

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Context of a stage's steps; the watchdog allows the first one more time, as it compiles."""
        self.dog.compiling(self._compiles)
        return self.traces.stage(name) if self.traces else nullcontext()

    def read(self, batches: Iterator[Batch]) -> Batch:
        """The next batch, with the wait for it timed."""
        self.dog.mark("reading photos")
        with self._meter.reading():
            batch = next(batches)
        self.dog.mark("computing losses")
        return batch

    @contextmanager
    def validating(self) -> Iterator[None]:
        """Context of a validation, for which networks are compiled again."""
        self.dog.mark("validating")
        self.dog.compiling(self._compiles)
        yield
        self.dog.compiling(False)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Context of the exchange between ranks before the backward pass."""
        self.dog.mark("waiting for the other ranks")
        with self._meter.waiting():
            yield
        self.dog.mark("computing gradients")

    def step(self, losses: Mapping[str, float], counts: Mapping[str, int]) -> dict[str, float]:
        """End a step; returns metrics to log every so many steps, at the same steps on every rank.

        Args:
            losses: the step's, with gradient norms; empty where it was left out.
            counts: of photos, stages and what was left out, under names in `trainer.monitoring.prometheus.HELP`.
        """
        self.dog.compiling(False)
        if self.traces:
            self.traces.step()
        self._norms |= {name.rpartition(NORM)[2]: value for name, value in losses.items() if f"/{NORM}" in name}
        pace = self._meter.step()
        if pace:
            self._paces = self._cluster.gather(pace)
            if said := self._stragglers.update(self._paces):
                self._screen.warn(said)
        if self.metrics_file and (pace or self.metrics_file.is_due()):
            self._latest = self._figures(losses, counts)
            if self.metrics_file.is_due():
                self.metrics_file.write([*self._latest, Figure("running", 1)])
        return self._to_log() if pace else {}

    def in_words(self) -> str:
        """Latest figures for the progress line; empty before the first."""
        if not self._paces:
            return ""
        pace = self._paces[0]
        norms = ", ".join(f"{name} {norm:.3g}" for name, norm in self._norms.items())
        words = [f"data wait {pace.reading / pace.step:.0%}", f"gradients {norms or 'none yet'}"]
        if len(self._paces) > 1:
            words.append("slowest rank {} x{:.2f}".format(*slowest(self._paces)))
        if self._cluster.device.type == "cuda":
            words.append(f"{self._gpu_memory() / 1e9:.1f} GB")
        words += [f"{name} scale {scale:g}" for name, scale in self._loss_scales().items()]
        return ", ".join(words)

    def _to_log(self) -> dict[str, float]:
        """Metrics for the tracker, including those of all ranks."""
        pace = self._paces[0]
        values = {
            "step_seconds": pace.step,
            "data_wait_share": pace.reading / pace.step,
            **{f"loss_scale_{name}": scale for name, scale in self._loss_scales().items()},
        }
        if self._cluster.device.type == "cuda":
            values["gpu_memory_gigabytes"] = self._gpu_memory() / 1e9
        if len(self._paces) > 1:
            rank, factor = slowest(self._paces)
            values |= {"slowest_rank": float(rank), "slowest_rank_factor": factor}
            for number, of_rank in enumerate(self._paces):
                values[f"ranks/{number}/own_seconds"] = of_rank.own
                values[f"ranks/{number}/reading_seconds"] = of_rank.reading
        return values

    def _figures(self, losses: Mapping[str, float], counts: Mapping[str, int]) -> list[Figure]:
        """Figures for Prometheus."""
        figures = [
            Figure("last_step_seconds", time.time()),
            *(Figure(name, value) for name, value in counts.items()),
            *losses_and_norms(losses),
            *(Figure("loss_scale", scale, (("network", name),)) for name, scale in self._loss_scales().items()),
        ]
        if self._cluster.device.type == "cuda":
            figures.append(Figure("gpu_memory_bytes", self._gpu_memory()))
        if self._paces:
            pace = self._paces[0]
            figures += [
                Figure("images_per_second", self._batch_size / pace.step),
                Figure("step_seconds", pace.step),
                Figure("data_wait_share", pace.reading / pace.step),
            ]
        for rank, of_rank in enumerate(self._paces):
            labels = (("rank", str(rank)), ("host", of_rank.host))
            figures.append(Figure("rank_own_seconds", of_rank.own, labels))
            figures.append(Figure("rank_reading_seconds", of_rank.reading, labels))
        return figures

    def _gpu_memory(self) -> int:
        """Peak bytes of tensors on this process's GPU."""
        return torch.cuda.max_memory_allocated(self._cluster.device)

    def _loss_scales(self) -> dict[str, float]:
        scales = {name: engine.loss_scale for name, engine in self._engines.items()}
        return {name: scale for name, scale in scales.items() if scale is not None}
