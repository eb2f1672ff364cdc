"""What the forward and the backward kernels both do to one tile of a photo."""

from typing import no_type_check

import triton
import triton.language as tl

from kernels.choice import contract

LOWEST_FREE = tl.constexpr(contract.LOWEST_FREE)
TAKEN = tl.constexpr(contract.TAKEN)
ALL_TAKEN = tl.constexpr(contract.ALL_TAKEN)


@triton.jit
@no_type_check
def scores_of(logits, free, temperature):
    """Theta = z / T of the free pixels, `TAKEN` elsewhere. NaN stays NaN."""
    theta = tl.div_rn(logits.to(tl.float32), temperature)  # as torch divides; `/` is off by up to 2 ulp
    theta = tl.where(theta < LOWEST_FREE, LOWEST_FREE, theta)
    return tl.where(free, theta, TAKEN)


@triton.jit
@no_type_check
def log_heat(scores, top, log_total):
    """Log pi of one tile. Subtracted one after the other: their sum is only as exact as `top` is small."""
    return (scores - top) - log_total


@triton.jit
@no_type_check
def load_scores(logits, mask, offsets, inside, logits_stride, mask_stride, temperature):
    """Scores of one tile, and whether each pixel is free."""
    z = tl.load(logits + offsets * logits_stride, mask=inside, other=0.0)
    free = inside & ~(tl.load(mask + offsets * mask_stride, mask=inside, other=0.0).to(tl.float32) > 0.5)
    return scores_of(z, free, temperature), free


@triton.jit
@no_type_check
def exp_sum(scores):
    """The maximum m of a tile, and sum exp(scores - m)."""
    top = tl.max(scores, 0)
    return top, tl.sum(tl.exp(scores - top), 0)


@triton.jit
@no_type_check
def step_of_stamp(step, HINT_SIZE: tl.constexpr):
    """Rows down and columns right from a click to pixel 0 ... HINT_SIZE**2 - 1 of its stamp."""
    before = (HINT_SIZE - 1) // 2
    return step // HINT_SIZE - before, step % HINT_SIZE - before
