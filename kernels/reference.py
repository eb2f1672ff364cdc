"""The choice of a click, in plain torch: temperature softmax, gradient estimators, entropy and divergence.

This is the reference that defines the numbers; everything runs in float32 (float64 stays float64) also inside
autocast. Notation (FIELD: theta = logits / T): pi = softmax(theta) over the free pixels, D the one-hot selection,
g = dL/dD, J(p) = diag(p) - p p^T.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from kernels.clicks import masked_argmax, one_hot

EstimatorName = Literal["argmax_ste", "gumbel_softmax", "gumbel_softmax_soft"]


class Selection(NamedTuple):
    """A chosen pixel per photo: differentiable weights over pixels, and the plain index."""

    weights: Float[Tensor, "b h w"]
    """One-hot for the hard estimators; it carries the estimator's gradient to the logits."""
    choice: Int64[Tensor, " b"]
    """Flat index row * width + col."""


def choose(
    logits: Float[Tensor, "b h w"],
    taken: Bool[Tensor, "b h w"],
    *,
    estimator: str = "argmax_ste",
    temperature: float = 1.0,
    tau: float = 1.0,
    noise: Float[Tensor, "b h w"] | None = None,
) -> Selection:
    """Choose one free pixel in each photo.

    Args:
        logits: scores z, any float type.
        taken: pixels that cannot be chosen (already clicked).
        estimator: a key of `ESTIMATORS`; each one's docstring gives its gradient.
        temperature: T of the heat map softmax(z / T), above 0.
        tau: temperature of the Gumbel relaxation, above 0; unused by `argmax_ste`.
        noise: standard Gumbel noise, needed by the Gumbel estimators; the caller seeds it (`kernels.noise`).

    Raises:
        ValueError: no free pixel, a temperature that is not positive, unknown estimator, or missing noise.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator is {estimator!r}; choose one of {', '.join(ESTIMATORS)}")
    if not tau > 0:
        raise ValueError(f"tau is {tau}; it must be above 0")
    with torch.autocast(logits.device.type, enabled=False):
        log_pi = log_heatmap(logits, temperature, taken)
        return ESTIMATORS[estimator](log_pi, taken, tau, noise)


def log_heatmap(
    logits: Float[Tensor, "b h w"], temperature: float, taken: Bool[Tensor, "b h w"] | None = None
) -> Float[Tensor, "b h w"]:
    """log softmax(z / T) over each photo's pixels (section 3.1.3), -inf at `taken` ones; at least float32.

    Raises:
        ValueError: the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    scores = (logits if logits.dtype == torch.float64 else logits.float()) / temperature
    if taken is not None:
        scores = scores.masked_fill(taken, -torch.inf)
    return scores.flatten(1).log_softmax(1).view_as(scores)


def heatmap(
    logits: Float[Tensor, "b h w"], temperature: float, taken: Bool[Tensor, "b h w"] | None = None
) -> Float[Tensor, "b h w"]:
    """softmax(z / T) over each photo's pixels; sums to 1, and is 0 at `taken` ones."""
    return log_heatmap(logits, temperature, taken).exp()


def entropy(log_heat: Float[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """Shannon entropy of each heat map in nats, 0 ... log(h w) (equation 3.1 without its weight)."""
    finite = log_heat.masked_fill(log_heat == -torch.inf, 0.0)
    return -(log_heat.exp() * finite).flatten(1).sum(1)


def kl_divergence(target: Float[Tensor, "b h w"], log_heat: Float[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """KL(target || heat map) in nats per photo (section 3.2.2); a pixel with target 0 adds 0.

    The target sums to 1 and is 0 wherever the heat map is 0.
    """
    finite = log_heat.masked_fill(target == 0, 0.0)
    return (torch.special.xlogy(target, target) - target * finite).flatten(1).sum(1)


def argmax_ste(
    log_pi: Float[Tensor, "b h w"], taken: Bool[Tensor, "b h w"], tau: float, noise: Tensor | None
) -> Selection:
    """ArgmaxSTE (section 3.3.1): D = onehot(argmax pi); the gradient at the logits is J(pi) g / T."""
    return _straight_through(log_pi.exp(), masked_argmax(log_pi.detach(), taken))


def gumbel_softmax(
    log_pi: Float[Tensor, "b h w"], taken: Bool[Tensor, "b h w"], tau: float, noise: Tensor | None
) -> Selection:
    """Straight-through Gumbel-Softmax (section 3.3.2, its hard mode; Jang et al. 2017).

    s = softmax((log pi + G) / tau), D = onehot(argmax s); the gradient at the logits is J(s) g / (tau T).
    """
    soft = _gumbel_relaxation(log_pi, tau, noise)
    return _straight_through(soft, masked_argmax(_perturbed(log_pi.detach(), noise), taken))


def gumbel_softmax_soft(
    log_pi: Float[Tensor, "b h w"], taken: Bool[Tensor, "b h w"], tau: float, noise: Tensor | None
) -> Selection:
    """Soft Gumbel-Softmax: the selection is s itself, so the click is spread; its exact gradient is used."""
    soft = _gumbel_relaxation(log_pi, tau, noise)
    return Selection(soft, masked_argmax(_perturbed(log_pi.detach(), noise), taken))


ESTIMATORS: dict[str, Callable[[Tensor, Tensor, float, Tensor | None], Selection]] = {
    "argmax_ste": argmax_ste,
    "gumbel_softmax": gumbel_softmax,
    "gumbel_softmax_soft": gumbel_softmax_soft,
}
NEEDS_NOISE = frozenset({"gumbel_softmax", "gumbel_softmax_soft"})


def _perturbed(log_pi: Tensor, noise: Tensor | None) -> Tensor:
    if noise is None:
        raise ValueError("this estimator needs Gumbel noise; pass noise=kernels.noise.gumbel(...)")
    return log_pi + noise.view_as(log_pi)


def _gumbel_relaxation(log_pi: Tensor, tau: float, noise: Tensor | None) -> Tensor:
    scores = _perturbed(log_pi, noise) / tau
    return scores.flatten(1).softmax(1).view_as(scores)


def _straight_through(soft: Tensor, choice: Tensor) -> Selection:
    hard = one_hot(choice, *soft.shape[-2:]).to(soft.dtype)
    weights = _StraightThrough.apply(hard, soft)
    return Selection(weights, choice)


class _StraightThrough(torch.autograd.Function):
    """Forward: exactly the hard selection (hard + soft - soft would be off by a rounding). Backward: to soft."""

    @staticmethod
    def forward(ctx: Any, hard: Tensor, soft: Tensor) -> Tensor:
        return hard.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return None, gradients[0]
