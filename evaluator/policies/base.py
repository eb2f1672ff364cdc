"""Interface of click policies, and the state that they see.

All policies work on a batch on the state's device and are deterministic: noise is a function of a photo's key
and of the number of its clicks, never of the batch around it. A policy only gets what it declares to need, so
that one without `needs_truth` cannot peek at the true colors.
"""

import typing
from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from evaluator.registry.networks import Colorizer
from evaluator.registry.session import PhotoSession

Needed = typing.TypeVar("Needed")


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """State of a rollout before a click."""

    lightness: Float[Tensor, "b 1 h w"]
    clicks: Float[Tensor, "b 3 h w"]
    keys: Int64[Tensor, " b"]
    """One noise key per photo."""
    positions: Int64[Tensor, "b placed"]
    """Flat indices of the clicks so far, in the order in which they were placed."""
    hint_size: int = 1
    """Side of a hint patch in pixels."""
    predicted_ab: Float[Tensor, "b 2 h w"] | None = None
    """The present colors; None for a policy without `needs_prediction`."""
    truth_ab: Float[Tensor, "b 2 h w"] | None = None
    """The true colors; None for a policy without `needs_truth`."""
    colorize: Colorizer | None = None
    """The colorizer, to try clicks with; None for a policy without `needs_colorizer`."""
    features: Tensor | None = None
    """What a split colorizer's guides read, beside `predicted_ab`; None where there is none."""

    @property
    def step(self) -> int:
        """Number of clicks placed so far, which selects the noise stream of this choice."""
        return self.positions.shape[1]


@typing.runtime_checkable
class Policy(typing.Protocol):
    """Chooser of each photo's next click among its unclicked pixels."""

    @property
    def needs_prediction(self) -> bool:
        """Whether `choose` reads the current prediction; if not, the rollout colors only at the budgets."""
        ...

    @property
    def needs_truth(self) -> bool:
        """Whether `choose` reads the true colors, which a real photo does not have."""
        ...

    @property
    def needs_colorizer(self) -> bool:
        """Whether `choose` calls the colorizer to try clicks."""
        ...

    def choose(self, state: State) -> Int64[Tensor, " b"]:
        """Flat index row * width + col per photo. Raises a ValueError when no pixel is left."""
        ...


def recolor(state: State, rows: Int64[Tensor, " n"], clicks: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 2 h w"]:
    """Predictions for some of the state's photos, given by row, under other clicks.

    Raises:
        ValueError: the state has no colorizer.
    """
    colorize = needed(state.colorize, "colorize")
    if isinstance(colorize, PhotoSession):
        return colorize.rows(rows, clicks)
    return colorize(state.lightness[rows], clicks)


def needed(value: Needed | None, name: str) -> Needed:
    """A field of the state that this policy declares to need.

    Raises:
        ValueError: it is None.
    """
    if value is None:
        raise ValueError(f"state.{name} is None; this policy needs it")
    return value
