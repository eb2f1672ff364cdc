"""CPU implementation of `choose_click`, in plain torch.

Photos are handled a few at a time, so that every pass over a photo's scores after the first finds them in the
processor's cache; no one-hot map and no graph of intermediates exist. Operations are chosen by their speed on a
CPU: masked_fill, where, argmax over a whole photo and exp cost five to fifteen times as much as arithmetic, and
softmax less than exp alone. kernels/README.md counts the passes.
"""

from collections.abc import Iterator

import torch
from torch import SymInt, Tensor

from kernels.choose_click.interface import (
    ALL_TAKEN,
    DIVERGENCE,
    ENTROPY,
    LOG_PROBABILITY,
    LOG_SUM_EXP,
    LOG_TOTAL,
    LOWEST_FREE,
    STATISTICS,
    TAKEN,
    TARGET_SUM,
    TOP,
    Settings,
    Tensors,
    accumulation_type,
)
from kernels.clicks import box_sum, clicked, hint_colors, place
from kernels.estimators import NEEDS_NOISE
from kernels.noise import gumbel

_CACHE_PIXELS = 262144
"""Pixels handled at a time: 1 MiB of float32, about the second-level cache of one core."""
_KEEPS_NOISE = frozenset({"gumbel_softmax", "gumbel_softmax_soft"})


def kept_pixels(pixels: int | SymInt, estimator: str) -> int | SymInt:
    """Size of the noise kept for the backward pass, which drawing again would more than double in time."""
    return pixels if estimator in _KEEPS_NOISE else 0


def forward(tensors: Tensors, settings: Settings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `kernels.choose_click.interface.Implementation`."""
    exact = accumulation_type(tensors.logits)
    batch = len(tensors.logits)
    placed = tensors.clicks.to(exact, memory_format=torch.contiguous_format, copy=True)
    choice = tensors.logits.new_empty(batch, dtype=torch.int64)
    statistics = tensors.logits.new_zeros(batch, STATISTICS, dtype=exact)
    noise = _noise(tensors, settings, settings.draw) if settings.estimator in NEEDS_NOISE else None
    with torch.autocast(tensors.logits.device.type, enabled=False):
        for rows, part in _parts(tensors):
            part_noise = None if noise is None else noise[rows]
            _forward_part(part, settings, part_noise, placed[rows], choice[rows], statistics[rows])
    kept = noise if noise is not None and settings.estimator in _KEEPS_NOISE else statistics.new_empty(batch, 0)
    return placed, choice, statistics, kept


def backward(
    tensors: Tensors,
    settings: Settings,
    choice: Tensor,
    statistics: Tensor,
    kept: Tensor,
    grad_clicks: Tensor | None,
    grad_statistics: Tensor | None,
) -> Tensor:
    """See `kernels.choose_click.interface.Implementation`."""
    gradient = torch.empty(tensors.logits.shape, dtype=statistics.dtype, device=tensors.logits.device)
    with torch.autocast(tensors.logits.device.type, enabled=False):
        for rows, part in _parts(tensors):
            _backward_part(
                part,
                settings,
                choice[rows].clamp(min=0),
                statistics[rows],
                kept[rows],
                None if grad_clicks is None else grad_clicks[rows],
                None if grad_statistics is None else grad_statistics[rows],
                gradient[rows].view(len(part.logits), -1),
            )
    if (choice < 0).any():
        gradient[choice < 0] = torch.nan
    return gradient.to(tensors.logits.dtype)


def _parts(tensors: Tensors) -> Iterator[tuple[slice, Tensors]]:
    """Slices of the batch, a few photos each."""
    count = max(1, _CACHE_PIXELS // tensors.logits[:1].numel()) if len(tensors.logits) else 1
    for first in range(0, len(tensors.logits), count):
        rows = slice(first, first + count)
        yield rows, Tensors(*(None if tensor is None else tensor[rows] for tensor in tensors))  # pyright: ignore[reportArgumentType]: only keys and target are None


def _forward_part(
    part: Tensors, settings: Settings, noise: Tensor | None, placed: Tensor, choice: Tensor, statistics: Tensor
) -> None:
    theta = _scores(part, settings)
    perturbed = theta if noise is None else theta + noise
    chosen = _argmax(perturbed.view(part.logits.shape))
    full = theta.gather(1, chosen[:, None])[:, 0] < ALL_TAKEN
    _measure(theta, chosen, part, statistics)
    if settings.estimator == "gumbel_softmax_soft":
        relaxed = perturbed.div(settings.tau)
        selection = relaxed.softmax(1).view(part.logits.shape).masked_fill(full[:, None, None], 0.0)
        placed.copy_(place(placed, hint_colors(part.truth_ab, settings.hint_size), selection, settings.hint_size))
    else:
        _patch(placed, part.truth_ab, chosen, settings.hint_size, ~full)
    choice.copy_(chosen.masked_fill(full, -1))
    statistics[full] = torch.nan


def _scores(part: Tensors, settings: Settings) -> Tensor:
    """Scaled scores theta = z / T, (B,N); `TAKEN` at taken pixels."""
    exact = accumulation_type(part.logits)
    scores = part.logits.to(exact).div(settings.temperature).clamp_(min=LOWEST_FREE)
    if scores.amax() < -LOWEST_FREE / 10:
        # A mask above 0.5 rounds to 1, which adds TAKEN; no such score changes that much.
        scores.add_(part.clicks[:, 0].to(exact).round().clamp_(min=0.0), alpha=TAKEN)
    else:  # infinite or NaN somewhere
        scores.masked_fill_(clicked(part.clicks), TAKEN)
    return scores.flatten(1)


def _argmax(scores: Tensor) -> Tensor:
    """Flat index of each photo's first largest score, (B,H,W) to (B,): the first best row, then its first best."""
    best_row = scores.amax(2).argmax(1)
    row = scores.gather(1, best_row[:, None, None].expand(-1, 1, scores.shape[2]))[:, 0]
    return best_row * scores.shape[2] + row.argmax(1)


def _noise(part: Tensors, settings: Settings, draw: int) -> Tensor:
    assert part.keys is not None
    pixels = part.logits.shape[1] * part.logits.shape[2]
    return gumbel(part.keys, settings.stream, pixels, draw).to(accumulation_type(part.logits))


def _measure(theta: Tensor, chosen: Tensor, part: Tensors, statistics: Tensor) -> None:
    """Compute the statistics of the heat map; overwrites theta."""
    pi = theta.softmax(1)
    # The largest probability is exp(0) / sum exp(theta - top).
    log_total = -pi.amax(1).log()
    top = theta.amax(1)
    below = theta.sub_(top[:, None])
    statistics[:, TOP], statistics[:, LOG_TOTAL] = top, log_total
    statistics[:, LOG_SUM_EXP] = top + log_total
    statistics[:, LOG_PROBABILITY] = below.gather(1, chosen[:, None])[:, 0] - log_total
    statistics[:, ENTROPY] = log_total - torch.linalg.vecdot(pi, below)
    if part.target is not None:
        target = part.target.flatten(1).to(theta.dtype)
        mass = target.sum(1)
        statistics[:, TARGET_SUM] = mass
        own = torch.xlogy(target, target).sum(1)
        statistics[:, DIVERGENCE] = own - torch.linalg.vecdot(target, below) + mass * log_total


def _patch(placed: Tensor, truth_ab: Tensor, chosen: Tensor, size: int, wanted: Tensor) -> None:
    """Write the mask and the mean color of each wanted choice's hint patch, in place."""
    height, width = truth_ab.shape[-2:]
    steps = torch.arange(size, device=chosen.device) - (size - 1) // 2
    rows = (chosen // width)[:, None, None] + steps[:, None]
    cols = (chosen % width)[:, None, None] + steps
    inside = ((rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)).flatten(1)
    # A pixel beyond the border stands for the center, which gets the same values anyway.
    pixels = torch.where(inside, (rows * width + cols).flatten(1), chosen[:, None])[:, None]
    under = truth_ab.flatten(2).gather(2, pixels.expand(-1, 2, -1)).to(placed.dtype) * inside[:, None]
    color = under.sum(2) / inside.sum(1, keepdim=True)
    values = torch.cat([torch.ones_like(color[:, :1]), color], dim=1)[:, :, None].expand(-1, -1, size * size)
    flat, pixels = placed.flatten(2), pixels.expand(-1, 3, -1)
    flat.scatter_(2, pixels, torch.where(wanted[:, None, None], values, flat.gather(2, pixels)))


def _backward_part(
    part: Tensors,
    settings: Settings,
    choice: Tensor,
    statistics: Tensor,
    kept: Tensor,
    grad_clicks: Tensor | None,
    grad_statistics: Tensor | None,
    gradient: Tensor,
) -> None:
    theta = _scores(part, settings)
    log_pi = theta.sub(statistics[:, TOP, None]).sub_(statistics[:, LOG_TOTAL, None])
    pi = theta.softmax(1)
    if grad_clicks is None:
        gradient.zero_()
    else:
        g = _candidate_gradient(part, settings, grad_clicks)
        _estimate(part, settings, choice, kept, theta, log_pi, pi, g, gradient)
    if grad_statistics is not None:
        _add_gradient_of_statistics(part, choice, statistics, grad_statistics, log_pi, pi, gradient)
    gradient.div_(settings.temperature)
    # Taken pixels and logits of -inf get no gradient; elsewhere than here it is 0 already, as their pi is.
    if part.target is not None or bool((statistics[:, TOP] <= LOWEST_FREE).any()):
        gradient.mul_(theta.div_(-LOWEST_FREE).add_(1.0).clamp_(0.0, 1.0))  # by 0 there, by 1 for usual scores


def _candidate_gradient(part: Tensors, settings: Settings, grad_clicks: Tensor) -> Tensor:
    """Loss gradient g of each pixel's candidate click, summed over its hint patch; (B,N)."""
    exact = accumulation_type(part.logits)
    given = box_sum(grad_clicks.to(exact), settings.hint_size, mirrored=False)
    colors = hint_colors(part.truth_ab, settings.hint_size).to(exact)
    g = torch.addcmul(given[:, 0], given[:, 1], colors[:, 0])
    return g.addcmul_(given[:, 2], colors[:, 1]).flatten(1)


def _estimate(
    part: Tensors,
    settings: Settings,
    choice: Tensor,
    kept: Tensor,
    theta: Tensor,
    log_pi: Tensor,
    pi: Tensor,
    g: Tensor,
    gradient: Tensor,
) -> None:
    """The estimator's gradient with respect to theta, written into `gradient`."""
    tau, name = settings.tau, settings.estimator
    if name == "argmax_ste":
        _softmax_backward(pi, g, gradient)
    elif name == "reinmax":
        halfway = theta.div(tau).softmax(1)
        halfway.scatter_add_(1, choice[:, None], torch.ones_like(halfway[:, :1])).mul_(0.5)
        _softmax_backward(halfway, g, gradient)
        gradient.mul_(2.0).sub_(_softmax_backward(pi, g, pi.clone()), alpha=0.5)
    elif name == "gumbel_rao":
        gradient.zero_()
        chosen = choice[:, None]
        for k in range(settings.samples):
            noise = _noise(part, settings, settings.draw + 1 + k)
            highest = noise.gather(1, chosen)
            scores = torch.logaddexp(noise.add_(log_pi).neg_(), -highest).neg_().scatter_(1, chosen, highest)
            soft = scores.div_(tau).softmax(1)
            gradient.add_(_softmax_backward(soft, g, soft.clone()), alpha=1.0 / (tau * settings.samples))
    else:
        noise = kept if kept.shape[1] else _noise(part, settings, settings.draw)
        soft = theta.add(noise).div_(tau).softmax(1)
        _softmax_backward(soft, g, gradient).div_(tau)


def _softmax_backward(p: Tensor, g: Tensor, out: Tensor) -> Tensor:
    """Softmax vector-Jacobian product J(p) g = p (g - p.g), into `out`, which may be p itself."""
    mean = torch.linalg.vecdot(p, g)[:, None]
    return torch.mul(p, g - mean, out=out)


def _add_gradient_of_statistics(
    part: Tensors,
    choice: Tensor,
    statistics: Tensor,
    grad_statistics: Tensor,
    log_pi: Tensor,
    pi: Tensor,
    gradient: Tensor,
) -> None:
    """Add the gradients of log-sum-exp, chosen log-probability, entropy and divergence at theta."""
    of_entropy = grad_statistics[:, ENTROPY, None]
    of_divergence = grad_statistics[:, DIVERGENCE, None]
    of_choice = grad_statistics[:, LOG_PROBABILITY, None]
    per_photo = grad_statistics[:, LOG_SUM_EXP, None] - of_choice - of_entropy * statistics[:, ENTROPY, None]
    if part.target is not None:
        per_photo = per_photo + of_divergence * statistics[:, TARGET_SUM, None]
        gradient.addcmul_(part.target.flatten(1).to(pi.dtype), of_divergence, value=-1.0)
    gradient.addcmul_(pi, torch.addcmul(per_photo, log_pi, of_entropy, value=-1.0))
    gradient.scatter_add_(1, choice[:, None], of_choice)
