"""A training's stages on the scale of photos seen, and its temperatures over them."""

from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from trainer.config import Config
from trainer.pingpong import pingpong
from trainer.schedules import Schedule
from tuner.presets import RELAXED
from tuner.record import Trial

WITHOUT_CHOICE = "pretrain-color"
"""The stage in which no guide chooses clicks, so that temperatures have no effect."""
_POINTS = 60


@dataclass(frozen=True)
class Span:
    """A stage from its first to its last photo."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Curve:
    """A schedule over the stages in which it has an effect; it begins anew in each."""

    name: str
    schedule: Schedule
    pieces: tuple[tuple[np.ndarray, np.ndarray], ...]
    """Photos and values, for each stage."""

    @property
    def words(self) -> str:
        """What it is."""
        one = self.schedule
        if one.shape == "constant":
            return f"{self.name}, constant at {one.start:.3g}"
        warmup = f" with a warm-up over {100 * one.warmup:.0f} %" if one.shape == "warmup_cosine" else ""
        return f"{self.name}, in each stage {one.shape} from {one.start:.3g} to {one.end:.3g}{warmup}"


def spans(config: Config, trial: Trial) -> list[Span]:
    """Its stages. Where it reported their ends are exact, elsewhere in proportion to the config's rounds."""
    stages = pingpong(config).stages
    shares = list(accumulate(stage.rounds for stage in stages))
    reported = {report.stage: float(report.images_seen) for report in trial.reports}
    known = [
        (share, reported[stage.name])
        for stage, share in zip(stages, shares, strict=True)
        if stage.name in reported
    ]
    share, seen = known[-1] if known else (shares[-1], max(reported.values()))
    photos = seen / share
    ends = [reported.get(stage.name, photos * share) for stage, share in zip(stages, shares, strict=True)]
    return [
        Span(stage.name, start, end) for stage, start, end in zip(stages, [0.0, *ends[:-1]], ends, strict=True)
    ]


def curves(config: Config, trial: Trial) -> list[Curve]:
    """The heat map's temperature, and the relaxation's where the estimator has one."""
    schedules = {"T of the heat map": config.choice.temperature}
    if config.choice.estimator in RELAXED:
        schedules["tau of the estimator"] = config.choice.tau
    stages = [span for span in spans(config, trial) if span.name != WITHOUT_CHOICE]
    progress = np.linspace(0.0, 1.0, _POINTS)
    return [
        Curve(
            name,
            schedule,
            tuple(
                (
                    span.start + progress * (span.end - span.start),
                    np.array([schedule.at(float(share)) for share in progress]),
                )
                for span in stages
            ),
        )
        for name, schedule in schedules.items()
    ]
