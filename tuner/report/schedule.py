"""A training's stages on the scale of photos seen, and its temperatures over them."""

from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from trainer.config import Config, override
from trainer.config.overrides import checked
from trainer.config.schedules import Schedule
from trainer.recipes.pingpong import pingpong
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
class Piece:
    """A schedule over one stage."""

    span: Span
    schedule: Schedule
    photos: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Curve:
    """A schedule over the stages in which it has an effect; it begins anew in each, and may be another one."""

    name: str
    pieces: tuple[Piece, ...]

    @property
    def words(self) -> str:
        """What it is, one after another where it was changed."""
        changes = [self.pieces[0]]
        for piece in self.pieces[1:]:
            if piece.schedule != changes[-1].schedule:
                changes.append(piece)
        if len(changes) == 1:
            return f"{self.name}, {_words(changes[0].schedule)}"
        each = "; ".join(f"from {piece.span.name} on {_words(piece.schedule)}" for piece in changes)
        return f"{self.name}, {each}"


def _words(one: Schedule) -> str:
    if one.shape == "constant":
        return f"constant at {one.start:.3g}"
    warmup = f" with a warm-up over {100 * one.warmup:.0f} %" if one.shape == "warmup_cosine" else ""
    return f"in each stage {one.shape} from {one.start:.3g} to {one.end:.3g}{warmup}"


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
    """The heat map's temperature, and the relaxation's where the estimator has one.

    Args:
        config: the trial's last.
        trial: its legs say what held before.
    """
    choosing = [span for span in spans(config, trial) if span.name != WITHOUT_CHOICE]
    stages = [(span, _config_at(config, trial, span)) for span in choosing]
    temperature = [_piece(span, there.choice.temperature) for span, there in stages]
    tau = [_piece(span, there.choice.tau) for span, there in stages if there.choice.estimator in RELAXED]
    named = {"T of the heat map": temperature, "tau of the estimator": tau}
    return [Curve(name, tuple(pieces)) for name, pieces in named.items() if pieces]


def _config_at(config: Config, trial: Trial, span: Span) -> Config:
    """What held in a stage: trials change their settings between stages alone."""
    begun = [leg for leg in trial.legs if leg.images_seen <= span.start + 0.5]
    return override(config, checked(begun[-1].values)) if begun else config


def _piece(span: Span, schedule: Schedule) -> Piece:
    progress = np.linspace(0.0, 1.0, _POINTS)
    values = np.array([schedule.at(float(share)) for share in progress])
    return Piece(span, schedule, span.start + progress * (span.end - span.start), values)
