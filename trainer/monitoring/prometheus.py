"""Text file of a training's metrics for Prometheus' node-exporter (textfile collector).

The file is replaced as a whole, so that nobody reads half of it. Its name must end in `.prom`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

FILE = "metrics.prom"
"""In the run's folder, where no other file is named."""
SECONDS_BETWEEN = 15.0
PREFIX = "chromaclick_training_"
NORM = "gradient_norm_"
"""How the loop begins the names of gradient norms, before the network's."""
HELP = {
    "running": "1 while the training runs, 0 after its end",
    "last_step_seconds": "when its latest step ended, in seconds since 1970",
    "images_seen": "photos seen",
    "stage": "index of the present stage",
    "images_per_second": "photos per second of the latest steps, over all processes",
    "step_seconds": "seconds per step of the latest steps",
    "data_wait_share": "share of the latest steps that the main process waited for photos",
    "skipped_steps": "steps left out because a loss or a gradient was not finite",
    "skipped_photos": "unreadable photos that were replaced",
    "gpu_memory_bytes": "most GPU memory in use at once, on the main process",
    "loss": "latest loss of each phase and term",
    "gradient_norm": "latest L2 norm of a network's gradient before clipping",
    "loss_scale": "fp16's loss scale of a network",
    "rank_own_seconds": "seconds per step that a rank does not wait for others",
    "rank_reading_seconds": "seconds per step that a rank waits for photos",
}
"""Every figure, without the prefix."""


@dataclass(frozen=True)
class Figure:
    """A sample; `labels` distinguish it from others of its name."""

    name: str
    """A key of `HELP`."""
    value: float | int
    labels: tuple[tuple[str, str], ...] = ()


class MetricsFile:
    """Text file of samples, rewritten at intervals.

    Args:
        path: the file.
        run: the run's name, a label of every figure.
        warn: told when it cannot be written, once in a row.
    """

    def __init__(self, path: Path, run: str, warn: Callable[[str], None]) -> None:
        self._path, self._run, self._warn = path, run, warn
        self._next = 0.0
        self._fails = False

    def is_due(self) -> bool:
        """Whether the interval since the last write has passed."""
        return time.monotonic() >= self._next

    def write(self, figures: list[Figure]) -> None:
        """Replace the file atomically; a full disk causes a warning."""
        self._next = time.monotonic() + SECONDS_BETWEEN
        registry = CollectorRegistry()
        gauges: dict[str, Gauge] = {}
        for figure in figures:
            labels = {"run": self._run, **dict(figure.labels)}
            if figure.name not in gauges:
                name = PREFIX + figure.name
                gauges[figure.name] = Gauge(name, HELP[figure.name], list(labels), registry=registry)
            gauges[figure.name].labels(**labels).set(figure.value)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_to_textfile(str(self._path), registry)
        except OSError as error:
            if not self._fails:
                self._warn(f"the figures for Prometheus cannot be written to {self._path} ({error})")
            self._fails = True
        else:
            self._fails = False


def losses_and_norms(losses: Mapping[str, float]) -> list[Figure]:
    """Samples of a step's losses, named `phase/term`, and gradient norms, `phase/gradient_norm_network`."""
    figures = []
    for name, value in losses.items():
        phase, _, term = name.partition("/")
        if term.startswith(NORM):
            network = term.removeprefix(NORM)
            figures.append(Figure("gradient_norm", value, (("network", network),)))
        elif term != "lr":
            figures.append(Figure("loss", value, (("phase", phase), ("term", term))))
    return figures
