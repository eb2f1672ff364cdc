"""Records of a sweep's folder, shared by trials and Ray Tune.

`sweep.json` says what was asked, `trials.json` what happened, `best.json` has the best trial's settings. The
driver rewrites `trials.json` whole and atomically whenever something happened, so that it can be read at any
moment, after a kill too.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from evaluator.system.files import write_atomically

POINT = "point"
PARENT = "parent"
"""Beside the point: id of the trial whose weights were copied last."""
LEGS = "legs"
"""Beside the point: see `tuner.records.Trial.legs`, with complete values; a copy inherits those of the copied."""
ERROR = "error"
"""Result of a trial that failed by its own fault: the first line of what went wrong."""

SWEEP_FILE, TRIALS_FILE, BEST_FILE, REPORT_FILE = "sweep.json", "trials.json", "best.json", "sweep.html"
LEGS_FILE = "best-legs.json"
"""Beside `best.json`, where the best trial's settings changed on the way: all of them, from the first photo on."""

Direction = Literal["max", "min"]
Status = Literal["running", "finished", "stopped", "failed"]


def short_name(path: str) -> str:
    """A setting without its groups: `temperature.end` for `recipe.choice.temperature.end`."""
    name = path.removeprefix("recipe.")
    return name.partition(".")[2] or name


@dataclass(frozen=True)
class Measure:
    """A metric that trials report, and its direction."""

    name: str
    """As in the reports, such as ab_psnr."""
    direction: Direction
    """Whether the largest or the smallest value is the best."""
    label: str
    """For people: what it is, its unit, range and how many clicks."""

    def better(self, value: float, other: float) -> bool:
        """Whether `value` is strictly better than `other`."""
        return value > other if self.direction == "max" else value < other


@dataclass(frozen=True)
class Report:
    """Measurements of a trial at one validation."""

    images_seen: int
    """Photos that the trial had been trained on, those of a shared pretraining included."""
    stage: str
    """The stage that had just ended, such as `ping 1`."""
    seconds: float
    """Since the trial's start, its pauses left out."""
    metrics: dict[str, float | None]
    """By name; None for what was not measured or is not finite."""


@dataclass(frozen=True)
class Leg:
    """Part of a training under constant settings (population-based training)."""

    images_seen: int
    """Photos at which it began."""
    values: dict[str, Any]
    """The settings that were searched."""
    trial: str
    """Id of the trial that trained it: weights were copied with the legs that made them."""


@dataclass(frozen=True)
class Trial:
    """One configuration that was tried."""

    id: str
    """Ray Tune's name of it, unique in the sweep."""
    number: int
    """Counted from 0 in the order of the starts."""
    status: Status
    """stopped: by the scheduler, early. failed: see `error`. running: also after the driver was killed."""
    values: dict[str, Any]
    """The settings that were searched, by path; conditional ones only where they have an effect."""
    reports: tuple[Report, ...] = ()
    """In the order of time."""
    error: str | None = None
    """First line of what went wrong."""
    run: str = ""
    """Id of its MLflow run; empty before it has one."""
    folder: str = ""
    """Its run folder; empty before it has one."""
    seconds: float = 0.0
    """Wall time that it has run for."""
    parent: str | None = None
    """Id of the trial whose weights it copied last (population-based training)."""
    legs: tuple[Leg, ...] = ()
    """How its weights came about, in the order of time, from the first photo on; empty where its settings never
    changed."""

    def value(self, metric: str) -> float | None:
        """The metric at the last validation; None where it was never measured."""
        return self.reports[-1].metrics.get(metric) if self.reports else None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Trial":
        """A trial from its entry in `trials.json`."""
        reports = tuple(Report(**report) for report in content["reports"])
        legs = tuple(Leg(**leg) for leg in content.get("legs", ()))
        return cls(**{**content, "reports": reports, "legs": legs})


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Options, machine and code version of a sweep."""

    name: str
    """The sweep's folder name."""
    started: str
    """ISO 8601, with the offset from UTC."""
    commit: str
    """Of the code that ran; `-dirty` when files differed from it."""
    machine: dict[str, Any]
    """The driver's hardware: see `evaluator.system.environment.machine`."""
    versions: dict[str, str]
    """Of Python and the packages that matter."""
    seed: int
    """Of the search; the trainings have the seed in `base` unless the space varies it."""
    search: str
    """tpe, random or grid."""
    scheduler: str
    """asha, pbt or none."""
    budget: str
    """As it was given: `20`, `2h`, `500k photos`."""
    metrics: tuple[Measure, ...]
    """The first one decides."""
    space: tuple[dict[str, Any], ...]
    """The searched settings: see `tuner.search.space.Domain.as_json`."""
    base: dict[str, Any]
    """The flat config that the values replace parts of: see `trainer.run_folder.as_json`."""
    parent_run: str = ""
    """Id of the sweep's MLflow run."""
    tracking_uri: str = ""
    """Where that run is."""
    options: dict[str, Any] = field(default_factory=dict)
    """Everything else of the command line that a resumed sweep needs."""

    @property
    def metric(self) -> Measure:
        """The deciding metric."""
        return self.metrics[0]

    @classmethod
    def read(cls, folder: Path) -> "Sweep":
        """The record in a sweep's folder.

        Raises:
            ValueError: there is no sweep, or its file is damaged.
        """
        content = _read(folder / SWEEP_FILE)
        measures = tuple(Measure(**measure) for measure in content["metrics"])
        return cls(**{**content, "metrics": measures, "space": tuple(content["space"])})

    def write(self, folder: Path) -> None:
        """Write the record into a sweep's folder, atomically."""
        _write(folder / SWEEP_FILE, asdict(self))


def read_trials(folder: Path) -> list[Trial]:
    """All trials of a sweep by number; none before the first has started.

    Raises:
        ValueError: the file is damaged.
    """
    if not (folder / TRIALS_FILE).exists():
        return []
    return sorted(map(Trial.from_json, _read(folder / TRIALS_FILE)), key=lambda trial: trial.number)


def write_trials(folder: Path, trials: Sequence[Trial]) -> None:
    """Write all trials of a sweep, atomically."""
    _write(folder / TRIALS_FILE, [asdict(trial) for trial in trials])


def best(trials: Sequence[Trial], metric: Measure) -> Trial | None:
    """Trial with the best last value; of equal ones the first.

    Among the finished ones where there are any: a trial that was stopped early has seen fewer photos, so that its
    value is not comparable. None when nobody measured anything.
    """
    for statuses in (("finished",), ("stopped", "running")):
        found: Trial | None = None
        for trial in trials:
            value = trial.value(metric.name)
            if trial.status not in statuses or value is None or not math.isfinite(value):
                continue
            if found is None or metric.better(value, found.value(metric.name) or 0.0):
                found = trial
        if found:
            return found
    return None


def common_error(trials: Sequence[Trial]) -> str:
    """The most frequent error of the failed trials and its count; empty where none has failed."""
    errors = Counter(trial.error for trial in trials if trial.status == "failed")
    if not errors:
        return ""
    (error, count), *_ = errors.most_common(1)
    return f"{errors.total()} of {len(trials)} trials failed, {count} of them with: {error}"


def _write(path: Path, content: object) -> None:
    write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path.parent} is no sweep: it has no {path.name}") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def measured(result: Mapping[str, Any], measure: Measure) -> float | None:
    """Value of the metric in a report, if it is a finite number."""
    value = result.get(measure.name)
    return value if isinstance(value, int | float) and math.isfinite(value) else None
