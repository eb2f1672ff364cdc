"""Interface of the implementations of `choose_click`: settings, columns of the statistics, special scores."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import SymInt, Tensor

LOWEST_FREE = -1e30
"""A free pixel's score theta = z / T is at least this, so that a logit of -inf still beats a taken pixel."""
TAKEN = -2e30
"""The score of a taken pixel. Finite, so that no 0 * inf arises; exp(TAKEN - any free score) is 0."""
ALL_TAKEN = -1.5e30
"""A photo whose largest score is below this has no free pixel."""

LOG_SUM_EXP, LOG_PROBABILITY, ENTROPY, DIVERGENCE = range(4)
"""Columns of the statistics that are results."""
TARGET_SUM, TOP, LOG_TOTAL, RELAXED_TOP, RELAXED_LOG_TOTAL = range(4, 9)
"""Columns for the passes that follow: the maximum m of theta, and log sum exp(theta - m); the same of the relaxed
scores (theta + G) / tau. Probabilities come from these: theta - (m + log sum) would lose what m rounds away."""
STATISTICS = 9


class Settings(NamedTuple):
    """Scalar arguments of one call; `choose_click` documents them."""

    estimator: str
    temperature: float
    tau: float
    stream: int
    draw: int
    samples: int
    hint_size: int


class Tensors(NamedTuple):
    """Tensor arguments of one call, all on one device."""

    logits: Tensor
    """(B,H,W), any float type."""
    clicks: Tensor
    """(B,3,H,W) before the click, any float type."""
    truth_ab: Tensor
    """(B,2,H,W), any float type."""
    keys: Tensor | None
    """(B,) int64, for the estimators with noise."""
    target: Tensor | None
    """(B,H,W), for the divergence."""


@runtime_checkable
class Implementation(Protocol):
    """Implementation of the operation for one type of device."""

    def forward(self, tensors: Tensors, settings: Settings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The new click map (B,3,H,W), the choice (B,), the statistics (B,STATISTICS), and what `backward` needs.

        That last tensor has `kept_pixels` numbers per photo. For a photo without a free pixel the choice is -1,
        the statistics are NaN, and the map stays as it is.
        """
        ...

    def kept_pixels(self, pixels: int | SymInt, estimator: str) -> int | SymInt:
        """Numbers that `forward` keeps for each photo of `pixels` pixels."""
        ...

    def backward(
        self,
        tensors: Tensors,
        settings: Settings,
        choice: Tensor,
        statistics: Tensor,
        kept: Tensor,
        grad_clicks: Tensor | None,
        grad_statistics: Tensor | None,
    ) -> Tensor:
        """The gradient with respect to the logits, in their shape and type."""
        ...


def accumulation_type(logits: Tensor) -> torch.dtype:
    """Type of sums: float64 for float64 logits, else float32."""
    return torch.float64 if logits.dtype == torch.float64 else torch.float32
