"""Choice of a click in plain torch: temperature softmax, gradient estimators, entropy and divergence.

This is the reference that defines the numbers; everything runs in float32 (float64 stays float64) also inside
autocast. Notation: theta = z / T, pi = softmax(theta) over the free pixels, G standard Gumbel noise, D the
one-hot selection, g = dL/dD, J(p) = diag(p) - p p^T. A gradient "at theta" reaches the logits z divided by T.
Every sampled estimator draws D = onehot(argmax(theta + G)), which has the law Cat(pi).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.clicks import check_some_pixel_is_free, one_hot

EstimatorName = Literal[
    "argmax_ste", "gumbel_softmax", "gumbel_softmax_soft", "reinmax", "gumbel_rao", "reinforce"
]
LOWEST = -1e30
"""theta of a free pixel is at least this, so a free pixel whose logit is -inf still wins over a taken one.

Where all free pixels are this low, noise is lost to rounding and the first of them is chosen."""


class Selection(NamedTuple):
    """A chosen pixel per photo: differentiable weights over pixels, and the plain index."""

    weights: Float[Tensor, "b h w"]
    """One-hot for the hard estimators; it carries the estimator's gradient to the logits (`reinforce`: none)."""
    choice: Int64[Tensor, " b"]
    """Flat index row * width + col."""


class Scores(NamedTuple):
    """Input of an estimator."""

    theta: Float[Tensor, "b h w"]
    """z / T, -inf at taken pixels and nowhere else."""
    tau: float
    noise: Float[Tensor, "b h w"] | None
    conditional_noise: Float[Tensor, "k b h w"] | None


def choose(
    logits: Float[Tensor, "b h w"],
    taken: Bool[Tensor, "b h w"],
    *,
    estimator: str = "argmax_ste",
    temperature: float = 1.0,
    tau: float = 1.0,
    noise: Float[Tensor, "b h w"] | None = None,
    conditional_noise: Float[Tensor, "k b h w"] | None = None,
    check: bool = True,
) -> Selection:
    """Choose one free pixel in each photo.

    Args:
        logits: scores z, any float type; an infinitely low one gets no gradient.
        taken: pixels that cannot be chosen (already clicked).
        estimator: a key of `ESTIMATORS`; each one's docstring gives its gradient.
        temperature: T of the heat map softmax(z / T), above 0.
        tau: temperature of the relaxation, above 0; unused by `argmax_ste` and `reinforce`.
        noise: standard Gumbel noise for `NEEDS_NOISE`; the caller seeds it (`kernels.noise`).
        conditional_noise: k more draws of it for `NEEDS_CONDITIONAL_NOISE`, independent of `noise`.
        check: refuse photos without a free pixel, which costs a wait for the device on a GPU; without it, what
            comes out for such a photo means nothing.

    Raises:
        ValueError: no free pixel, a temperature that is not positive, unknown estimator, or missing noise.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator is {estimator!r}; choose one of {', '.join(ESTIMATORS)}")
    if not tau > 0:
        raise ValueError(f"tau is {tau}; it must be above 0")
    if check:
        check_some_pixel_is_free(taken)
    with torch.autocast(logits.device.type, enabled=False):
        theta = _theta(logits, temperature, taken)
        return ESTIMATORS[estimator](Scores(theta, tau, noise, conditional_noise))


def log_heatmap(
    logits: Float[Tensor, "b h w"], temperature: float, taken: Bool[Tensor, "b h w"] | None = None
) -> Float[Tensor, "b h w"]:
    """log softmax(z / T) over each photo's pixels (section 3.1.3), -inf at `taken` ones; at least float32.

    Logits of -inf have probability 0, unless all free pixels of a photo have them: then those are equally likely.

    Raises:
        ValueError: the temperature is not positive.
    """
    return _log_softmax(_theta(logits, temperature, taken))


def heatmap(
    logits: Float[Tensor, "b h w"], temperature: float, taken: Bool[Tensor, "b h w"] | None = None
) -> Float[Tensor, "b h w"]:
    """softmax(z / T) over each photo's pixels; sums to 1, and is 0 at `taken` ones."""
    return log_heatmap(logits, temperature, taken).exp()


def log_probability(log_heat: Float[Tensor, "b h w"], choice: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Log probability of each photo's chosen pixel, in nats; differentiable in the heat map."""
    return log_heat.flatten(1).gather(1, choice[:, None]).squeeze(1)


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


def leave_one_out_loss(losses: Float[Tensor, "k b"], log_probabilities: Float[Tensor, "k b"]) -> Float[Tensor, ""]:
    """Mean loss of k independent choices per photo, with the score-function gradient (REINFORCE, leave-one-out).

    The value is `losses.mean()`. Per photo, the gradient is 1/k sum_k (f_k - mean of the other f) grad log pi_k,
    which is unbiased, plus the mean of the losses' own gradients for parameters that they reach directly; the
    mean over photos is taken (Kool et al., "Buy 4 REINFORCE samples, get a baseline for free", 2019).

    Args:
        losses: f of each choice; lower is better.
        log_probabilities: log pi of each choice, from `log_probability`.

    Raises:
        ValueError: fewer than two choices, so there is no other one to compare with.
    """
    draws = len(losses)
    if draws < 2:
        raise ValueError(f"k is {draws}; the leave-one-out baseline needs at least 2 choices per photo")
    mean = losses.mean()
    advantages = (losses - losses.mean(0)).detach() * (draws / (draws - 1))
    score = (advantages * log_probabilities).mean()
    return mean + (score - score.detach())


def conditional_scores(
    log_pi: Float[Tensor, "b h w"], choice: Int64[Tensor, " b"], noise: Float[Tensor, "k b h w"]
) -> Float[Tensor, "k b h w"]:
    """Perturbed scores log pi + Gumbel, drawn k times given that `choice` has the largest one.

    Z_D = G_D, because the largest of them is standard Gumbel; every other one is Gumbel cut off at it,
    Z_j = -log(exp(-log pi_j - G_j) + exp(-G_D)) (Maddison et al. 2014; arXiv 2010.04838).
    """
    chosen = one_hot(choice, *log_pi.shape[-2:]) > 0
    largest = noise.flatten(2).gather(2, choice.expand(len(noise), -1)[..., None])[..., None]
    return torch.where(chosen, largest, -torch.logaddexp(-(log_pi + noise), -largest))


def argmax_ste(scores: Scores) -> Selection:
    """ArgmaxSTE (section 3.3.1): D = onehot(argmax pi), nothing is sampled; gradient at theta: J(pi) g."""
    return _straight_through(_softmax(scores.theta), _argmax(scores.theta))


def gumbel_softmax(scores: Scores) -> Selection:
    """Straight-through Gumbel-Softmax (section 3.3.2, its hard mode; Jang et al. 2017).

    s = softmax((theta + G) / tau), D = onehot(argmax s); gradient at theta: J(s) g / tau.
    """
    perturbed = _perturbed(scores)
    return _straight_through(_softmax(perturbed / scores.tau), _argmax(perturbed))


def gumbel_softmax_soft(scores: Scores) -> Selection:
    """Soft Gumbel-Softmax: the selection is s itself, so the click is spread; its exact gradient is used."""
    perturbed = _perturbed(scores)
    return Selection(_softmax(perturbed / scores.tau), _argmax(perturbed))


def reinmax(scores: Scores) -> Selection:
    """ReinMax (arXiv 2304.08612): exact to second order, where straight-through is exact to first.

    D ~ Cat(pi), pi_tau = softmax(theta / tau), s = (pi_tau + D) / 2; gradient at theta: 2 J(s) g - J(pi) g / 2.
    """
    choice = _argmax(_perturbed(scores))
    chosen = one_hot(choice, *scores.theta.shape[-2:])
    middle = (_softmax(scores.theta.detach() / scores.tau) + chosen) / 2
    soft = 2 * _SoftmaxAt.apply(scores.theta, middle) - _softmax(scores.theta) / 2
    return _straight_through(soft, choice)


def gumbel_rao(scores: Scores) -> Selection:
    """Gumbel-Rao (arXiv 2010.04838): straight-through Gumbel-Softmax averaged over the noise given D.

    D ~ Cat(pi); Z_1 ... Z_k are `conditional_scores` given D, s_k = softmax(Z_k / tau); gradient at theta:
    mean_k J(s_k) g / tau. It has the mean of `gumbel_softmax` and at most its variance. The conditional draw is
    not differentiated: dZ / d log pi is the identity.

    Raises:
        ValueError: missing conditional noise.
    """
    if scores.conditional_noise is None or len(scores.conditional_noise) == 0:
        raise ValueError("gumbel_rao needs more Gumbel noise; pass conditional_noise of shape (k, b, h, w)")
    choice = _argmax(_perturbed(scores))
    log_pi = _log_softmax(scores.theta.detach())
    relaxed = _softmax(conditional_scores(log_pi, choice, scores.conditional_noise) / scores.tau)
    soft = _SoftmaxAt.apply((scores.theta / scores.tau).expand_as(relaxed), relaxed).mean(0)
    return _straight_through(soft, choice)


def reinforce(scores: Scores) -> Selection:
    """Score function (Williams 1992): D ~ Cat(pi), and the weights carry no gradient.

    It comes from the loss instead: choose k times with independent noise, and take `leave_one_out_loss`.
    """
    choice = _argmax(_perturbed(scores))
    return Selection(one_hot(choice, *scores.theta.shape[-2:]).to(scores.theta.dtype), choice)


ESTIMATORS: dict[str, Callable[[Scores], Selection]] = {
    "argmax_ste": argmax_ste,
    "gumbel_softmax": gumbel_softmax,
    "gumbel_softmax_soft": gumbel_softmax_soft,
    "reinmax": reinmax,
    "gumbel_rao": gumbel_rao,
    "reinforce": reinforce,
}
NEEDS_NOISE = frozenset(ESTIMATORS) - {"argmax_ste"}
NEEDS_CONDITIONAL_NOISE = frozenset({"gumbel_rao"})


def _theta(logits: Tensor, temperature: float, taken: Tensor | None) -> Tensor:
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    theta = (logits if logits.dtype == torch.float64 else logits.float()) / temperature
    theta = theta.clamp(min=LOWEST)
    return theta if taken is None else theta.masked_fill(taken, -torch.inf)


def _perturbed(scores: Scores) -> Tensor:
    if scores.noise is None:
        raise ValueError("this estimator needs Gumbel noise; pass noise=kernels.noise.gumbel(...)")
    return scores.theta + scores.noise


def _argmax(values: Tensor) -> Tensor:
    return values.detach().flatten(1).argmax(1)


def _log_softmax(theta: Tensor) -> Tensor:
    return theta.flatten(-2).log_softmax(-1).view_as(theta)


def _softmax(values: Tensor) -> Tensor:
    return values.flatten(-2).softmax(-1).view_as(values)


def _straight_through(soft: Tensor, choice: Tensor) -> Selection:
    hard = one_hot(choice, *soft.shape[-2:]).to(soft.dtype)
    return Selection(_StraightThrough.apply(hard, soft), choice)


class _StraightThrough(torch.autograd.Function):
    """Straight-through estimator: exactly the hard selection forward, the soft one's gradient backward.

    (hard + soft - soft.detach() would be off by a rounding.)
    """

    @staticmethod
    def forward(ctx: Any, hard: Tensor, soft: Tensor) -> Tensor:
        return hard.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return None, gradients[0]


class _SoftmaxAt(torch.autograd.Function):
    """Softmax of `theta` with its probabilities given: forward p, backward J(p) g."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, p: Tensor) -> Tensor:
        ctx.save_for_backward(p)
        return p.clone()

    @staticmethod
    @once_differentiable  # p depends on theta, which a second derivative would not see
    def backward(ctx: Any, *gradients: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]: its stub
        (p,) = ctx.saved_tensors
        weighted = p * gradients[0]
        return weighted - p * weighted.sum((-2, -1), keepdim=True), None
