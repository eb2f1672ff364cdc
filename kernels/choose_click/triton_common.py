"""Device functions shared by the forward and backward kernels: noise, and the arithmetic of one tile."""

from typing import no_type_check

import triton
import triton.language as tl

from kernels.choose_click import interface

_LARGEST_BELOW_ONE = tl.constexpr(1.0 - 2.0**-24)
_UNIT = tl.constexpr(2.0**-32)


@triton.jit
@no_type_check
def _words(key, blocks, stream, draw):
    """Four random 32-bit words for each of the counters (block, stream, draw, 0)."""
    zero = blocks * 0
    return tl.philox(key, blocks, (zero + stream).to(tl.uint32), (zero + draw).to(tl.uint32), zero)


@triton.jit
@no_type_check
def _gumbel_of(words):
    """Gumbel noise -log(E), E = -log1p(-u), with u in (0, 1) from 32-bit words."""
    u = tl.minimum((words.to(tl.float32) + 0.5) * _UNIT, _LARGEST_BELOW_ONE)
    # log1p from log: the rounding error of y = 1 - u cancels in log(y) / (1 - y) (Kahan); u where y rounds to 1.
    y = 1.0 - u
    exponential = tl.where(y == 1.0, u, -tl.log(y) * u / tl.where(y == 1.0, 1.0, 1.0 - y))
    return -tl.log(exponential)


@triton.jit
@no_type_check
def gumbel_tile(key, stream, draw, start, BLOCK: tl.constexpr):
    """Standard Gumbel noise of pixels start ... start + BLOCK - 1, (BLOCK,); start is a multiple of 4."""
    blocks = (start // 4 + tl.arange(0, BLOCK // 4)).to(tl.uint32)
    first, second, third, fourth = _words(key, blocks, stream, draw)
    # interleave(a, b) is a0 b0 a1 b1 ..., so this gives the four words of a block side by side.
    return _gumbel_of(tl.interleave(tl.interleave(first, third), tl.interleave(second, fourth)))


@triton.jit
@no_type_check
def gumbel_at(key, stream, draw, index):
    """Standard Gumbel noise of one pixel, a scalar."""
    block = (index // 4 + tl.arange(0, 1)).to(tl.uint32)
    first, second, third, fourth = _words(key, block, stream, draw)
    lane = index % 4
    word = tl.where(lane == 0, first, tl.where(lane == 1, second, tl.where(lane == 2, third, fourth)))
    return tl.sum(_gumbel_of(word), 0)


@triton.jit(do_not_specialize=["stream", "draw"])
@no_type_check
def gumbel_kernel(keys, out, stream, draw, pixels, BLOCK: tl.constexpr):
    """Store the noise of tile program_id(0) of photo program_id(1): out is (photos, pixels), float32."""
    start = tl.program_id(0) * BLOCK
    row = tl.program_id(1).to(tl.int64)
    offsets = start + tl.arange(0, BLOCK)
    noise = gumbel_tile(tl.load(keys + row), stream, draw, start, BLOCK)
    tl.store(out + row * pixels + offsets, noise, mask=offsets < pixels)


LOWEST_FREE = tl.constexpr(interface.LOWEST_FREE)
TAKEN = tl.constexpr(interface.TAKEN)
ALL_TAKEN = tl.constexpr(interface.ALL_TAKEN)


@triton.jit
@no_type_check
def scores_of(logits, free, temperature):
    """Scaled scores theta = z / T of the free pixels, `TAKEN` elsewhere; NaN stays NaN."""
    theta = tl.div_rn(logits.to(tl.float32), temperature)  # as torch divides; `/` is off by up to 2 ulp
    theta = tl.where(theta < LOWEST_FREE, LOWEST_FREE, theta)
    return tl.where(free, theta, TAKEN)


@triton.jit
@no_type_check
def log_heat(scores, top, log_total):
    """Log probabilities of one tile, from its maximum `top` and log sum, subtracted one after the other.

    Adding the two first would lose what is small beside `top`.
    """
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
    """Maximum m of a tile, and sum exp(scores - m)."""
    top = tl.max(scores, 0)
    return top, tl.sum(tl.exp(scores - top), 0)


@triton.jit
@no_type_check
def step_of_patch(step, HINT_SIZE: tl.constexpr):
    """Row and column offset from a click to pixel 0 ... HINT_SIZE**2 - 1 of its hint patch."""
    before = (HINT_SIZE - 1) // 2
    return step // HINT_SIZE - before, step % HINT_SIZE - before
