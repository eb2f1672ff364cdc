"""Reference implementation as an ordinary autograd chain; tests and the benchmark compare with it."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from kernels.choose_click.op import Click
from kernels.clicks import clicked, hint_colors, place
from kernels.estimators import (
    LOWEST,
    NEEDS_CONDITIONAL_NOISE,
    NEEDS_NOISE,
    choose,
    entropy,
    kl_divergence,
    log_heatmap,
    log_probability,
)
from kernels.noise import gumbel

NoiseSource = Callable[[Tensor, int, int, int], Tensor]
"""From keys, stream, count and draw to Gumbel noise (b, count), as `kernels.noise.gumbel`."""


def choose_click_chain(
    logits: Float[Tensor, "b h w"],
    clicks: Float[Tensor, "b 3 h w"],
    truth_ab: Float[Tensor, "b 2 h w"],
    *,
    estimator: str = "argmax_ste",
    temperature: float = 1.0,
    tau: float = 1.0,
    keys: Int64[Tensor, " b"] | None = None,
    stream: int = 0,
    draw: int = 0,
    samples: int = 1,
    hint_size: int = 1,
    target: Float[Tensor, "b h w"] | None = None,
    with_heatmap: bool = False,
    check: bool = True,
    noise: NoiseSource = gumbel,
) -> Click:
    """`choose_click`, step by step: noise, masked softmax, argmax, one-hot, three-channel scatter.

    The same arguments, results and errors, but for two things: `noise` says where the noise comes from, since the
    Triton kernels' own differs from `kernels.noise.gumbel` in the last places; and without `check`, a photo
    without a free pixel gets numbers that mean nothing.
    """
    batch, height, width = logits.shape
    exact = torch.float64 if logits.dtype == torch.float64 else torch.float32

    def drawn(number: int) -> Tensor:
        if keys is None:
            raise ValueError(f"{estimator} needs noise; pass keys=kernels.noise.sample_keys(...)")
        return noise(keys, stream, height * width, number).view(batch, height, width).to(exact)

    taken = clicked(clicks)
    selection = choose(
        logits,
        taken,
        estimator=estimator,
        temperature=temperature,
        tau=tau,
        noise=drawn(draw) if estimator in NEEDS_NOISE else None,
        conditional_noise=(
            torch.stack([drawn(draw + 1 + k) for k in range(samples)])
            if estimator in NEEDS_CONDITIONAL_NOISE
            else None
        ),
        check=check,
    )
    heat = log_heatmap(logits, temperature, taken)
    theta = logits.to(exact).div(temperature).clamp(min=LOWEST).masked_fill(taken, -torch.inf)
    return Click(
        clicks=place(clicks, hint_colors(truth_ab, hint_size), selection.weights, hint_size),
        choice=selection.choice,
        log_sum_exp=theta.flatten(1).logsumexp(1),
        log_probability=log_probability(heat, selection.choice),
        entropy=entropy(heat),
        divergence=None if target is None else kl_divergence(target, heat),
        heatmap=heat.exp() if with_heatmap else None,
    )
