"""Choices among a few pixels, where the exact gradient of the expected loss is a sum: to test estimators on."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.clicks import hint_colors, no_clicks, place
from kernels.estimators import heatmap


class Problem(NamedTuple):
    """Scores of n pixels, and a loss of the selection."""

    name: str
    logits: Float[Tensor, "h w"]
    loss: Callable[[Float[Tensor, "b h w"]], Float[Tensor, " b"]]
    degree: float
    """Of the loss as a polynomial of the selection; infinite when it is none."""


def problems() -> list[Problem]:
    """Linear and quadratic losses of 5 pixels, a quadratic one of 64, and the coloring of an 8 x 8 photo."""
    five = torch.tensor([[0.3, -0.5, 1.1, 0.2, -0.9]], dtype=torch.float64)
    slope = torch.tensor([0.7, -1.3, 0.4, 2.0, -0.6], dtype=torch.float64)
    curvature, scores = normal(0, 5, 5), normal(1, 8, 8)
    features, target = normal(2, 16, 64), normal(3, 16)

    def quadratic(weights: Tensor) -> Tensor:
        flat = weights.flatten(1)
        return ((flat @ curvature) * flat).sum(1) + flat @ slope

    return [
        Problem("linear, n=5", five, lambda weights: weights.flatten(1) @ slope, 1.0),
        Problem("quadratic, n=5", five, quadratic, 2.0),
        Problem("quadratic, n=64", scores, lambda w: (w.flatten(1) @ features.T - target).square().sum(1), 2.0),
        Problem("coloring, n=64", scores, coloring(), math.inf),
    ]


def coloring() -> Callable[[Float[Tensor, "b 8 8"]], Float[Tensor, " b"]]:
    """Squared error of an 8 x 8 photo of two surfaces after one click; its color spreads to similar near pixels.

    A pixel predicts sum(w * hint) / (0.3 + sum(w * mask)): rational in the click map, so no polynomial of the
    selection.
    """
    row, column = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    surface = (column > 0.5 * row + 2).double()
    truth = torch.stack([0.5 * surface - 0.2, 0.3 - 0.4 * surface])[None] + 0.05 * normal(4, 1, 2, 8, 8)
    points = torch.stack([row / 4, column / 4, 2 * surface], dim=-1).view(64, 3)
    similarity = (-torch.cdist(points, points).square()).exp()

    def loss(weights: Tensor) -> Tensor:
        ab = truth.float().expand(len(weights), -1, -1, -1)
        clicks = place(no_clicks(ab), hint_colors(ab, 1), weights).double().flatten(2) @ similarity
        predicted = clicks[:, 1:] / (0.3 + clicks[:, :1])
        return (predicted - truth.flatten(2)).square().sum((1, 2))

    return loss


def exact_gradient(problem: Problem) -> Float[Tensor, " n"]:
    """The gradient of sum_i pi_i f(i) at the logits."""
    logits = problem.logits.clone().requires_grad_()
    expected = (heatmap(logits[None], 1.0).flatten() * problem.loss(corners(problem))).sum()
    return torch.autograd.grad(expected, logits)[0].flatten()


def corners(problem: Problem) -> Tensor:
    """Every one-hot selection."""
    return torch.eye(problem.logits.numel(), dtype=torch.float64).view(-1, *problem.logits.shape)


def normal(stream: int, *shape: int) -> Tensor:
    """Standard normal numbers in float64, always the same for a stream."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(stream))
