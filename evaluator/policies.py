"""Policies: who says where the next click goes. Each is a small object with `choose(state) -> choice`.

All work on a batch on the state's device and are deterministic: noise is a function of a photo's key and of
the number of its clicks, never of the batch around it. A policy only gets what it declares to need, so that
one without `needs_truth` cannot peek at the true colours.
"""

import typing
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from evaluator.inference import Guide, run_network
from kernels.clicks import clicked, masked_argmax, random_choice
from kernels.noise import uniform
from kernels.regions import error_map, region_centre


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """What a policy may look at before a click."""

    lightness: Float[Tensor, "b 1 h w"]
    clicks: Float[Tensor, "b 3 h w"]
    keys: Int64[Tensor, " b"]
    """One noise key per photo."""
    step: int
    """Clicks placed so far: the stream of this choice's noise."""
    predicted_ab: Float[Tensor, "b 2 h w"] | None = None
    """The present colours; None for a policy without `needs_prediction`."""
    truth_ab: Float[Tensor, "b 2 h w"] | None = None
    """The true colours; None for a policy without `needs_truth`."""


@typing.runtime_checkable
class Policy(typing.Protocol):
    """Chooses the next click of each photo among its unclicked pixels."""

    @property
    def needs_prediction(self) -> bool:
        """Whether `choose` looks at the present colours; if not, the rollout colours only at the budgets."""
        ...

    @property
    def needs_truth(self) -> bool:
        """Whether `choose` looks at the true colours, which a real photo does not have."""
        ...

    def choose(self, state: State) -> Int64[Tensor, " b"]:
        """Flat index row * width + col per photo. Raises a ValueError when no pixel is left."""
        ...


@dataclass(frozen=True)
class RandomPolicy:
    """Uniform over the unclicked pixels: the thesis' baseline (section 4.1)."""

    needs_prediction = False
    needs_truth = False

    def choose(self, state: State) -> Int64[Tensor, " b"]:
        """The unclicked pixel with the largest noise."""
        height, width = state.clicks.shape[-2:]
        noise = uniform(state.keys, state.step, height * width)
        return random_choice(state.clicks, noise.view(-1, height, width))


@dataclass(frozen=True, kw_only=True)
class GuidePolicy:
    """The unclicked pixel to which a guide (EditNet) gives the largest logit."""

    guide: Guide
    blind: bool
    """Whether the guide does without the truth; a blind guide is called with `truth_ab=None`."""
    autocast: torch.dtype | None = None
    """Run the guide under autocast in this dtype."""
    needs_prediction = True

    @property
    def needs_truth(self) -> bool:
        """True for an oracle guide."""
        return not self.blind

    def choose(self, state: State) -> Int64[Tensor, " b"]:
        """Ask the guide; ties go to the first pixel."""
        truth = None if self.blind else _present(state.truth_ab, "truth_ab")
        seen = _present(state.predicted_ab, "predicted_ab")
        logits = run_network(self.guide, state.lightness, seen, state.clicks, truth, autocast=self.autocast)
        return masked_argmax(logits, clicked(state.clicks))


@dataclass(frozen=True)
class MaxErrorPolicy:
    """The unclicked pixel with the largest error in ab: a truth-using reference that loses to random."""

    needs_prediction = True
    needs_truth = True

    def choose(self, state: State) -> Int64[Tensor, " b"]:
        """Euclidean distance in ab; ties go to the first pixel."""
        return masked_argmax(_error(state), clicked(state.clicks))


@dataclass(frozen=True, kw_only=True)
class RegionCentrePolicy:
    """The pixel deepest inside a wrongly coloured region: a truth-using reference for what a guide can learn."""

    inhibition: int = 3
    """Radius in pixels around earlier clicks that counts as not wrong."""
    needs_prediction = True
    needs_truth = True

    def choose(self, state: State) -> Int64[Tensor, " b"]:
        """See `kernels.regions.region_centre`."""
        return region_centre(_error(state), clicked(state.clicks), inhibition=self.inhibition)


def _error(state: State) -> Tensor:
    """Distance between the present and the true colour at each pixel, (B,H,W), in CIE units."""
    return error_map(_present(state.predicted_ab, "predicted_ab"), _present(state.truth_ab, "truth_ab"))


def _present(value: Tensor | None, name: str) -> Tensor:
    if value is None:
        raise ValueError(f"state.{name} is None; this policy needs it")
    return value
