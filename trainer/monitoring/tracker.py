"""Interface of trackers with a null implementation, and where a run is recorded. Independent of MLflow."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image


class NullTracker:
    """Tracker interface; this implementation does nothing and is used on every rank but the first."""

    def __init__(self) -> None:
        self.run_id: str = ""
        """The run to resume, for the checkpoint; empty on other ranks."""

    def __enter__(self) -> "NullTracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = "FAILED" if kind and issubclass(kind, Exception) else "KILLED"
        self.finish(failed if kind else "FINISHED")

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Record the config, nested or flat, as parameters with dotted names and whole as `config.json`."""

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags of the run."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Queue metrics; returns at once. Non-finite values are dropped and counted."""

    def log_picture(self, picture: Path | Image.Image, name: str) -> None:
        """Store a picture in the run's folder as `name` (such as `pictures/0100.png`) and in MLflow."""

    def log_text(self, text: str, name: str) -> None:
        """Store a text in the run's folder as `name` and in MLflow."""

    def log_table(self, rows: Sequence[Mapping[str, object]], name: str) -> None:
        """Store a table as `name` (.csv), its columns from the first row."""

    def register(self, folder: Path) -> int | None:
        """Register a folder that `trainer.export.save` wrote; returns the version."""

    def flush(self, timeout: float = 30.0) -> bool:
        """Deliver the queue within `timeout` seconds; returns whether all was delivered."""
        return True

    def finish(self, status: str = "FINISHED") -> None:
        """End the run as FINISHED, FAILED or KILLED; a second call does nothing."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Location at which a run is recorded."""

    work: Path
    """Work folder with the database and the artifacts of all runs."""
    folder: Path
    """This run's own folder: copies of its pictures and tables, and what could not be sent."""
    experiment: str = "chromaclick"
    """MLflow's group of comparable runs."""
    name: str = ""
    """The run's name in MLflow."""
    parent_run: str = ""
    """Id of the run that a new one is a child of."""
    tracking_uri: str = ""
    """Database or server; empty: `MLFLOW_TRACKING_URI`, else the work folder's database."""
    system_metrics: bool = False
    """Log the machine's state beside the training's metrics."""
    warn: Callable[[str], None] = field(default=logging.getLogger("chromaclick").warning, repr=False)
    """Gets each warning as one line; sometimes from another thread."""
