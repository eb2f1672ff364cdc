"""Triton kernels of the forward pass. kernels/README.md derives them and counts their bytes.

Legend: program_id(0) is the tile of BLOCK pixels, program_id(1) the photo; `*_b`, `*_c`, `*_p` are the strides of
photo, channel and pixel in elements; a photo's pixels lie `*_p` apart in row-major order. One photo's partial sums
are (tiles, PARTIALS) float32 and (tiles,) int32.
"""

from typing import no_type_check

import triton
import triton.language as tl

from kernels.choose_click import interface
from kernels.choose_click.triton_common import (
    ALL_TAKEN,
    LOWEST_FREE,
    TAKEN,
    exp_sum,
    gumbel_tile,
    load_scores,
    log_heat,
    scores_of,
    step_of_patch,
)

PARTIALS = 8
_PARTIALS = tl.constexpr(PARTIALS)
_STATISTICS = tl.constexpr(interface.STATISTICS)


@triton.jit(do_not_specialize=["stream", "draw"])
@no_type_check
def reduce_kernel(
    logits, clicks, truth, target, keys, placed, choices, statistics, partials, candidates,
    temperature, tau, stream, draw, height, width,
    logits_b, logits_p, clicks_b, clicks_c, clicks_p, truth_b, truth_c, truth_p, target_b, target_p,
    SAMPLED: tl.constexpr, SOFT: tl.constexpr, HAS_TARGET: tl.constexpr, SINGLE: tl.constexpr,
    HINT_SIZE: tl.constexpr, PATCH_SIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums and best pixel of one tile; copies the tile of the click map on the way (not for SOFT).

    SINGLE: the tile is the whole photo, so the choice, the statistics and the hint patch are written here.
    """
    tile, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    pixels = height * width
    start = tile * BLOCK
    offsets = start + tl.arange(0, BLOCK)
    inside = offsets < pixels
    logits += row * logits_b
    clicks += row * clicks_b
    scores, _ = load_scores(logits, clicks, offsets, inside, logits_p, clicks_p, temperature)

    top = tl.max(scores, 0)
    below = scores - top
    weights = tl.exp(below)
    total = tl.sum(weights, 0)
    moment = tl.sum(weights * below, 0)
    divergence, mass = 0.0, 0.0
    if HAS_TARGET:
        wanted = tl.load(target + row * target_b + offsets * target_p, mask=inside, other=0.0).to(tl.float32)
        own = tl.where(wanted > 0.0, wanted * tl.log(tl.where(wanted > 0.0, wanted, 1.0)), 0.0)
        divergence = tl.sum(own - wanted * below, 0)
        mass = tl.sum(wanted, 0)

    perturbed = scores
    if SAMPLED:
        perturbed += gumbel_tile(tl.load(keys + row), stream, draw, start, BLOCK)
    ranked = tl.where(perturbed == perturbed, perturbed, LOWEST_FREE)  # NaN must not lead outside of the photo
    best, lane = tl.max(ranked, 0, return_indices=True)
    choice = tl.where(best < ALL_TAKEN, -1, start + lane)
    relaxed_top, relaxed_total = 0.0, 1.0
    if SOFT:
        relaxed_top, relaxed_total = exp_sum(tl.div_rn(perturbed, tau))

    if SINGLE:
        chosen_score = tl.sum(tl.where(offsets == choice, scores, 0.0), 0)
        _write_statistics(
            statistics + row * _STATISTICS, choices + row, choice, chosen_score, top, total, moment,
            divergence, mass, relaxed_top, relaxed_total,
        )  # fmt: skip
    else:
        position = row * tl.num_programs(0) + tile
        tl.store(candidates + position, choice)
        partial = partials + position * _PARTIALS
        tl.store(partial + 0, top)
        tl.store(partial + 1, total)
        tl.store(partial + 2, moment)
        tl.store(partial + 3, best)
        tl.store(partial + 4, divergence)
        tl.store(partial + 5, mass)
        tl.store(partial + 6, relaxed_top)
        tl.store(partial + 7, relaxed_total)

    if not SOFT:
        under = offsets < 0
        a, b = 0.0, 0.0
        if SINGLE:
            a, b = _patch_color(
                truth + row * truth_b, choice, height, width, truth_c, truth_p, HINT_SIZE, PATCH_SIDE
            )
            first_row, first_col = _patch_corner(choice, width, HINT_SIZE)
            down, right = offsets // width - first_row, offsets % width - first_col
            under = (down >= 0) & (down < HINT_SIZE) & (right >= 0) & (right < HINT_SIZE)
        placed += row * 3 * pixels + offsets
        old = tl.load(clicks + offsets * clicks_p, mask=inside, other=0.0).to(tl.float32)
        tl.store(placed, tl.where(under, 1.0, old), mask=inside)
        old = tl.load(clicks + clicks_c + offsets * clicks_p, mask=inside, other=0.0).to(tl.float32)
        tl.store(placed + pixels, tl.where(under, a, old), mask=inside)
        old = tl.load(clicks + clicks_c + clicks_c + offsets * clicks_p, mask=inside, other=0.0).to(tl.float32)
        tl.store(placed + 2 * pixels, tl.where(under, b, old), mask=inside)


@triton.jit
@no_type_check
def combine_kernel(
    logits, truth, placed, choices, statistics, partials, candidates,
    temperature, height, width, tiles, logits_b, logits_p, truth_b, truth_c, truth_p,
    SOFT: tl.constexpr, HINT_SIZE: tl.constexpr, PATCH_SIDE: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Combine the tiles of photo program_id(0) into choice, statistics and hint patch."""
    row = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, TILES)
    real = lanes < tiles
    partial = partials + (row * tiles + lanes) * _PARTIALS
    tops = tl.load(partial + 0, mask=real, other=TAKEN)
    totals = tl.load(partial + 1, mask=real, other=0.0)
    moments = tl.load(partial + 2, mask=real, other=0.0)
    best = tl.load(partial + 3, mask=real, other=float("-inf"))
    top = tl.max(tops, 0)
    scale = tl.exp(tops - top)
    total = tl.sum(totals * scale, 0)
    moment = tl.sum(scale * (moments + totals * (tops - top)), 0)
    # A tile's divergence was taken below its own top.
    masses = tl.load(partial + 5, mask=real, other=0.0)
    divergence = tl.sum(tl.load(partial + 4, mask=real, other=0.0) + masses * (top - tops), 0)
    mass = tl.sum(masses, 0)
    relaxed_tops = tl.load(partial + 6, mask=real, other=float("-inf"))
    relaxed_top = tl.max(relaxed_tops, 0)
    relaxed_totals = tl.load(partial + 7, mask=real, other=0.0)
    relaxed_total = tl.sum(relaxed_totals * tl.exp(relaxed_tops - relaxed_top), 0)
    _, winner = tl.max(best, 0, return_indices=True)
    # A tile without a free pixel has candidate -1, and wins only where there is no free pixel at all.
    choice = tl.load(candidates + row * tiles + winner)
    z = tl.load(logits + row * logits_b + tl.maximum(choice, 0) * logits_p)
    chosen_score = scores_of(z, True, temperature)
    _write_statistics(
        statistics + row * _STATISTICS, choices + row, choice, chosen_score, top, total, moment, divergence, mass,
        relaxed_top, relaxed_total,
    )  # fmt: skip
    if not SOFT:
        _write_patch(
            placed + row * 3 * height * width, truth + row * truth_b, choice,
            height, width, truth_c, truth_p, HINT_SIZE, PATCH_SIDE,
        )  # fmt: skip


@triton.jit
@no_type_check
def _write_statistics(
    statistics, choices, choice, chosen_score, top, total, moment, divergence, mass, relaxed_top, relaxed_total
):
    """Store the row of statistics, in the order of `kernels.choose_click.interface`, and the choice."""
    log_total = tl.log(total)
    valid = tl.where(top < ALL_TAKEN, float("nan"), 0.0)
    tl.store(statistics + 0, top + log_total + valid)
    tl.store(statistics + 1, chosen_score - top - log_total + valid)
    tl.store(statistics + 2, log_total - moment / total + valid)
    tl.store(statistics + 3, divergence + mass * log_total + valid)
    tl.store(statistics + 4, mass + valid)
    tl.store(statistics + 5, top + valid)
    tl.store(statistics + 6, log_total + valid)
    tl.store(statistics + 7, relaxed_top + valid)
    tl.store(statistics + 8, tl.log(relaxed_total) + valid)
    tl.store(choices, choice.to(tl.int64))


@triton.jit
@no_type_check
def _patch_corner(choice, width, HINT_SIZE: tl.constexpr):
    """Row and column of the hint patch's first pixel; far above the photo without a choice (-1)."""
    before: tl.constexpr = (HINT_SIZE - 1) // 2
    return tl.where(choice < 0, -2 * HINT_SIZE, choice // width - before), choice % width - before


@triton.jit
@no_type_check
def _patch_pixels(choice, height, width, HINT_SIZE: tl.constexpr, PATCH_SIDE: tl.constexpr):
    """Pixels of the hint patch, (PATCH_SIDE, PATCH_SIDE), and which of them lie in patch and photo."""
    first_row, first_col = _patch_corner(choice, width, HINT_SIZE)
    steps = tl.arange(0, PATCH_SIDE)
    rows, cols = (first_row + steps)[:, None], (first_col + steps)[None, :]
    of_patch = (steps < HINT_SIZE)[:, None] & (steps < HINT_SIZE)[None, :]
    return rows * width + cols, of_patch & (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)


@triton.jit
@no_type_check
def _patch_color(
    truth, choice, height, width, truth_c, truth_p, HINT_SIZE: tl.constexpr, PATCH_SIDE: tl.constexpr
):
    """Mean a and b over the hint patch."""
    pixels, under = _patch_pixels(choice, height, width, HINT_SIZE, PATCH_SIDE)
    count = tl.sum(tl.sum(under.to(tl.float32), 1), 0)
    a = tl.load(truth + pixels * truth_p, mask=under, other=0.0).to(tl.float32)
    b = tl.load(truth + truth_c + pixels * truth_p, mask=under, other=0.0).to(tl.float32)
    count = tl.maximum(count, 1.0)
    return tl.sum(tl.sum(a, 1), 0) / count, tl.sum(tl.sum(b, 1), 0) / count


@triton.jit
@no_type_check
def _write_patch(
    placed, truth, choice, height, width, truth_c, truth_p, HINT_SIZE: tl.constexpr, PATCH_SIDE: tl.constexpr
):
    """Write mask 1 and the mean color into the hint patch."""
    a, b = _patch_color(truth, choice, height, width, truth_c, truth_p, HINT_SIZE, PATCH_SIDE)
    pixels, under = _patch_pixels(choice, height, width, HINT_SIZE, PATCH_SIDE)
    ones = tl.full((PATCH_SIDE, PATCH_SIDE), 1.0, tl.float32)
    tl.store(placed + pixels, ones, mask=under)
    tl.store(placed + height * width + pixels, ones * a, mask=under)
    tl.store(placed + 2 * height * width + pixels, ones * b, mask=under)


@triton.jit(do_not_specialize=["stream", "draw"])
@no_type_check
def weights_kernel(
    logits, clicks, keys, statistics, weights,
    temperature, tau, stream, draw, pixels, logits_b, logits_p, clicks_b, clicks_p,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Soft selection s = softmax((theta + G) / tau), (photos, pixels) float32."""
    tile, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    offsets = tile * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < pixels
    scores, free = load_scores(
        logits + row * logits_b, clicks + row * clicks_b, offsets, inside, logits_p, clicks_p, temperature
    )
    noise = gumbel_tile(tl.load(keys + row), stream, draw, tile * BLOCK, BLOCK)
    relaxed = statistics + row * _STATISTICS + 7
    log_soft = log_heat(tl.div_rn(scores + noise, tau), tl.load(relaxed), tl.load(relaxed + 1))
    soft = tl.where(free, tl.exp(log_soft), 0.0)
    tl.store(weights + row * pixels + offsets, soft, mask=inside)


@triton.jit
@no_type_check
def spread_kernel(
    clicks, colors, weights, placed,
    height, width, clicks_b, clicks_c, clicks_p, colors_b, colors_c, colors_p,
    HINT_SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Soft click: each pixel gets the weights and weighted colors of the hint patches that cover it."""
    tile, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    pixels = height * width
    offsets = tile * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < pixels
    clicks += row * clicks_b
    colors += row * colors_b
    weights += row * pixels
    mask = tl.zeros((BLOCK,), tl.float32)
    a = tl.zeros((BLOCK,), tl.float32)
    b = tl.zeros((BLOCK,), tl.float32)
    rows, cols = offsets // width, offsets % width
    # The hint patch of the pixel at (row - down, col - right) covers this one.
    for step in range(HINT_SIZE * HINT_SIZE):
        down, right = step_of_patch(step, HINT_SIZE)
        there = (rows - down) * width + cols - right
        covers = inside & (rows >= down) & (rows - down < height) & (cols >= right) & (cols - right < width)
        weight = tl.load(weights + there, mask=covers, other=0.0)
        mask += weight
        a += weight * tl.load(colors + there * colors_p, mask=covers, other=0.0).to(tl.float32)
        b += weight * tl.load(colors + colors_c + there * colors_p, mask=covers, other=0.0).to(tl.float32)
    keep = 1.0 - tl.minimum(mask, 1.0)
    placed += row * 3 * pixels + offsets
    old = tl.load(clicks + offsets * clicks_p, mask=inside, other=0.0).to(tl.float32)
    tl.store(placed, old * keep + mask, mask=inside)
    old = tl.load(clicks + clicks_c + offsets * clicks_p, mask=inside, other=0.0).to(tl.float32)
    tl.store(placed + pixels, old * keep + a, mask=inside)
    old = tl.load(clicks + clicks_c + clicks_c + offsets * clicks_p, mask=inside, other=0.0).to(tl.float32)
    tl.store(placed + 2 * pixels, old * keep + b, mask=inside)
