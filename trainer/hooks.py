"""What a caller may add to a training beside its config: the tuner's trials are trainings with hooks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trainer.loop import AfterValidation, carry_on


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Whose child a training is, where it begins, and who hears of its validations."""

    parent_run: str = ""
    """MLflow run that this one is a child of."""
    run_id: str = ""
    """MLflow run to continue in a new run folder; empty: a new one."""
    tracking_uri: str = ""
    """Database or server; empty: as always, see `Place.tracking_uri`."""
    tags: Mapping[str, object] = field(default_factory=dict)
    """More tags of the run."""
    start: Path | None = None
    """A checkpoint to begin a new run from: its progress and its networks, under this config's settings."""
    pretrained: Path | None = None
    """Folder of shared pretrainings (`trainer.pretraining`) to begin a new run from."""
    metrics: tuple[str, ...] = ()
    """Names in `evaluator.metrics.METRICS` that validation measures beside the default ones."""
    after_validation: AfterValidation = carry_on
    """Called on every rank after each stage, its validation and its checkpoint. True, on every rank, stops."""
    quiet: bool = False
    """Print nothing."""

    def __post_init__(self) -> None:
        if self.start and self.pretrained:
            raise ValueError(f"begin from {self.start} or from a pretraining in {self.pretrained}, not from both")
