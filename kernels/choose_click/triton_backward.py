"""Triton kernels of the backward pass. kernels/README.md derives them and counts their bytes.

Legend: program_id(0) is the tile of BLOCK pixels, program_id(1) the photo; `*_b`, `*_c`, `*_p` are the strides of
photo, channel and pixel in elements; a photo's pixels lie `*_p` apart in row-major order. theta = z / T,
pi = softmax(theta); y is the relaxed score whose softmax s the estimator differentiates; g is the gradient that
each pixel would get if the click were there. One photo's partial sums are (tiles, 2 + 3 SAMPLES) float32:
sum pi g, g of the chosen pixel, and for each sample the maximum m of y, sum exp(y - m) and sum exp(y - m) g.
"""

from typing import no_type_check

import triton
import triton.language as tl

from kernels.choose_click import interface
from kernels.choose_click.triton_common import (
    LOWEST_FREE,
    gumbel_at,
    gumbel_tile,
    load_scores,
    log_heat,
    scores_of,
    step_of_patch,
)

ARGMAX_STE, GUMBEL_SOFTMAX, REINMAX, GUMBEL_RAO = range(4)
"""Values of KIND: which relaxation is differentiated. Soft Gumbel-Softmax is GUMBEL_SOFTMAX here."""
_ARGMAX_STE = tl.constexpr(ARGMAX_STE)
_GUMBEL_SOFTMAX = tl.constexpr(GUMBEL_SOFTMAX)
_REINMAX = tl.constexpr(REINMAX)
_GUMBEL_RAO = tl.constexpr(GUMBEL_RAO)
_STATISTICS = tl.constexpr(interface.STATISTICS)


@triton.jit
@no_type_check
def _candidate_gradient(
    grad, truth, offsets, inside, height, width, grad_c, grad_p, truth_c, truth_p, HINT_SIZE: tl.constexpr
):
    """Loss gradient g of each pixel's candidate click: derivatives summed, colors averaged over its patch."""
    if HINT_SIZE == 1:
        of_mask = tl.load(grad + offsets * grad_p, mask=inside, other=0.0).to(tl.float32)
        of_a = tl.load(grad + grad_c + offsets * grad_p, mask=inside, other=0.0).to(tl.float32)
        of_b = tl.load(grad + grad_c + grad_c + offsets * grad_p, mask=inside, other=0.0).to(tl.float32)
        a = tl.load(truth + offsets * truth_p, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(truth + truth_c + offsets * truth_p, mask=inside, other=0.0).to(tl.float32)
    else:
        of_mask, of_a, of_b, a, b = offsets * 0.0, offsets * 0.0, offsets * 0.0, offsets * 0.0, offsets * 0.0
        count = offsets * 0.0
        rows, cols = offsets // width, offsets % width
        for step in range(HINT_SIZE * HINT_SIZE):
            down, right = step_of_patch(step, HINT_SIZE)
            there = (rows + down) * width + cols + right
            covered = inside & (rows + down >= 0) & (rows + down < height)
            covered = covered & (cols + right >= 0) & (cols + right < width)
            of_mask += tl.load(grad + there * grad_p, mask=covered, other=0.0).to(tl.float32)
            of_a += tl.load(grad + grad_c + there * grad_p, mask=covered, other=0.0).to(tl.float32)
            of_b += tl.load(grad + grad_c + grad_c + there * grad_p, mask=covered, other=0.0).to(tl.float32)
            a += tl.load(truth + there * truth_p, mask=covered, other=0.0).to(tl.float32)
            b += tl.load(truth + truth_c + there * truth_p, mask=covered, other=0.0).to(tl.float32)
            count += covered.to(tl.float32)
        count = tl.maximum(count, 1.0)
        a, b = a / count, b / count
    return of_mask + of_a * a + of_b * b


@triton.jit
@no_type_check
def _relaxed(
    scores, log_pi, offsets, choice, key, stream, draw, start, tau, sample,
    KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Scores y of one tile whose softmax the estimator differentiates."""
    if KIND == _GUMBEL_SOFTMAX:
        scores += gumbel_tile(key, stream, draw, start, BLOCK)
    if KIND == _GUMBEL_RAO:
        # Given the choice c, whose Gumbel score is the largest: Z_c = G_c, and the others are truncated below it.
        fresh = draw + 1 + sample
        highest = gumbel_at(key, stream, fresh, choice)
        free_run = log_pi + gumbel_tile(key, stream, fresh, start, BLOCK)
        # -log(exp(-free_run) + exp(-highest))
        lower = tl.minimum(free_run, highest)
        truncated = lower - tl.log(1.0 + tl.exp(lower - tl.maximum(free_run, highest)))
        scores = tl.where(offsets == choice, highest, truncated)
    # Not div_rn: no choice depends on this, and its slow path would cost registers that spill.
    return scores / tau


@triton.jit
@no_type_check
def _softmax_sums(y, g):
    """Maximum m of y, sum exp(y - m) and sum exp(y - m) g of one tile."""
    top = tl.max(y, 0)
    weights = tl.exp(y - top)
    return top, tl.sum(weights, 0), tl.sum(weights * g, 0)


@triton.jit
@no_type_check
def _estimator_gradient(
    scores, log_pi, pi, g, mean, chosen_g, offsets, choice, key, stream, draw, start, tau,
    partial, real, pitch, KIND: tl.constexpr, SAMPLES: tl.constexpr, SINGLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient at theta that reaches it through the click; `mean` is sum pi g over the photo."""
    if KIND == _ARGMAX_STE:
        total = pi * (g - mean)
    else:
        total = g * 0.0
        for sample in range(SAMPLES):
            y = _relaxed(scores, log_pi, offsets, choice, key, stream, draw, start, tau, sample, KIND, BLOCK)
            if SINGLE:
                top, weight, weighted = _softmax_sums(y, g)
            else:  # combine the tiles' sums
                column = partial + 2 + 3 * sample
                tops = tl.load(column + pitch, mask=real, other=float("-inf"))
                top = tl.max(tops, 0)
                scale = tl.exp(tops - top)
                weight = tl.sum(scale * tl.load(column + 1 + pitch, mask=real, other=0.0), 0)
                weighted = tl.sum(scale * tl.load(column + 2 + pitch, mask=real, other=0.0), 0)
            soft = tl.exp(y - top) / weight
            soft_mean = weighted / weight  # pyright: ignore[reportOperatorIssue]: tensors
            if KIND == _REINMAX:
                halfway = 0.5 * (soft + (offsets == choice).to(tl.float32))
                total += 2.0 * halfway * (g - 0.5 * (soft_mean + chosen_g)) - 0.5 * pi * (g - mean)
            else:
                total += soft * (g - soft_mean) / (tau * SAMPLES)
    return total


@triton.jit(do_not_specialize=["stream", "draw"])
@no_type_check
def sums_kernel(
    logits, clicks, truth, keys, grad, choices, statistics, partials, candidate,
    temperature, tau, stream, draw, height, width,
    logits_b, logits_p, clicks_b, clicks_p, truth_b, truth_c, truth_p, grad_b, grad_c, grad_p,
    KIND: tl.constexpr, SAMPLES: tl.constexpr, HINT_SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums over one tile and its g, which is NaN at taken pixels so that the mask is not read again."""
    tile, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    pixels = height * width
    start = tile * BLOCK
    offsets = start + tl.arange(0, BLOCK)
    inside = offsets < pixels
    scores, free = load_scores(
        logits + row * logits_b, clicks + row * clicks_b, offsets, inside, logits_p, clicks_p, temperature
    )
    g = _candidate_gradient(
        grad + row * grad_b, truth + row * truth_b, offsets, inside, height, width,
        grad_c, grad_p, truth_c, truth_p, HINT_SIZE,
    )  # fmt: skip
    g = tl.where(free, g, 0.0)
    tl.store(candidate + row * pixels + offsets, tl.where(free, g, float("nan")), mask=inside)
    top, log_total = tl.load(statistics + row * _STATISTICS + 5), tl.load(statistics + row * _STATISTICS + 6)
    log_pi = log_heat(scores, top, log_total)
    choice = tl.load(choices + row).to(tl.int32)
    partial = partials + (row * tl.num_programs(0) + tile) * (2 + 3 * SAMPLES)
    tl.store(partial + 0, tl.sum(tl.exp(log_pi) * g, 0))
    tl.store(partial + 1, tl.sum(tl.where(offsets == choice, g, 0.0), 0))
    if KIND != _ARGMAX_STE:
        key = tl.load(keys + row)
        for sample in range(SAMPLES):
            y = _relaxed(scores, log_pi, offsets, choice, key, stream, draw, start, tau, sample, KIND, BLOCK)
            relaxed_top, weight, weighted = _softmax_sums(y, g)
            tl.store(partial + 2 + 3 * sample, relaxed_top)
            tl.store(partial + 3 + 3 * sample, weight)
            tl.store(partial + 4 + 3 * sample, weighted)


@triton.jit(do_not_specialize=["stream", "draw"])
@no_type_check
def gradient_kernel(
    logits, clicks, truth, target, keys, grad, grad_statistics, choices, statistics, partials, candidate, out,
    temperature, tau, stream, draw, height, width, tiles,
    logits_b, logits_p, clicks_b, clicks_p, truth_b, truth_c, truth_p, target_b, target_p, grad_b, grad_c, grad_p,
    KIND: tl.constexpr, SAMPLES: tl.constexpr, HINT_SIZE: tl.constexpr, HAS_GRAD: tl.constexpr,
    HAS_GRAD_STATISTICS: tl.constexpr, HAS_TARGET: tl.constexpr, SINGLE: tl.constexpr, TILES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient at the logits of one tile.

    With HAS_GRAD and not SINGLE, g and the sums come from `sums_kernel`; `candidate` may share `out`'s memory.
    """
    tile, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    pixels = height * width
    start = tile * BLOCK
    offsets = start + tl.arange(0, BLOCK)
    inside = offsets < pixels
    logits += row * logits_b
    top, log_total = tl.load(statistics + row * _STATISTICS + 5), tl.load(statistics + row * _STATISTICS + 6)
    choice = tl.load(choices + row).to(tl.int32)
    invalid = 0.0  # NaN where a NaN in g has reached the sums
    g = tl.zeros((BLOCK,), tl.float32)
    if HAS_GRAD and not SINGLE:
        g = tl.load(candidate + row * pixels + offsets, mask=inside, other=float("nan"))
        free = g == g
        g = tl.where(free, g, 0.0)
        z = tl.load(logits + offsets * logits_p, mask=inside, other=0.0)
        scores = scores_of(z, free, temperature)
    else:
        scores, free = load_scores(
            logits, clicks + row * clicks_b, offsets, inside, logits_p, clicks_p, temperature
        )
        if HAS_GRAD:
            g = _candidate_gradient(
                grad + row * grad_b, truth + row * truth_b, offsets, inside, height, width,
                grad_c, grad_p, truth_c, truth_p, HINT_SIZE,
            )  # fmt: skip
            g = tl.where(free, g, 0.0)
    log_pi = log_heat(scores, top, log_total)
    pi = tl.exp(log_pi)
    total = scores * 0.0
    if HAS_GRAD:
        lanes = tl.arange(0, TILES)
        real = lanes < tiles
        pitch = lanes * (2 + 3 * SAMPLES)
        partial = partials + row * tiles * (2 + 3 * SAMPLES)
        if SINGLE:
            mean = tl.sum(pi * g, 0)
            chosen_g = tl.sum(tl.where(offsets == choice, g, 0.0), 0)
        else:
            mean = tl.sum(tl.load(partial + pitch, mask=real, other=0.0), 0)
            chosen_g = tl.sum(tl.load(partial + 1 + pitch, mask=real, other=0.0), 0)
        invalid = mean * 0.0
        key = 0
        if KIND != _ARGMAX_STE:
            key = tl.load(keys + row)
        total += _estimator_gradient(
            scores, log_pi, pi, g, mean, chosen_g, offsets, choice, key, stream, draw, start, tau,
            partial, real, pitch, KIND, SAMPLES, SINGLE, BLOCK,
        )  # fmt: skip
    if HAS_GRAD_STATISTICS:
        of = grad_statistics + row * _STATISTICS
        of_choice, of_entropy = tl.load(of + 1), tl.load(of + 2)
        entropy = tl.load(statistics + row * _STATISTICS + 2)
        per_photo = tl.load(of) - of_choice - of_entropy * entropy
        if HAS_TARGET:
            of_divergence = tl.load(of + 3)
            per_photo += of_divergence * tl.load(statistics + row * _STATISTICS + 4)
            wanted = tl.load(target + row * target_b + offsets * target_p, mask=inside, other=0.0).to(tl.float32)
            total -= of_divergence * wanted
        total += pi * (per_photo - of_entropy * log_pi)
        total += tl.where(offsets == choice, of_choice, 0.0)
    # Neither taken pixels nor logits of -inf, as behind a clamp; NaN is no such logit.
    total = tl.where(scores <= LOWEST_FREE, invalid, total / temperature)
    tl.store(out + row * pixels + offsets, total, mask=inside)
