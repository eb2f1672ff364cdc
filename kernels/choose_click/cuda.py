"""CUDA implementation of `choose_click`: launches the Triton kernels.

On a CPU it runs under Triton's interpreter only (TRITON_INTERPRET=1 before the first import), for the tests.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float32, Int64
from torch import SymInt, Tensor

from kernels.choose_click import triton_backward, triton_common, triton_forward
from kernels.choose_click.interface import STATISTICS, Settings, Tensors
from kernels.choose_click.tiling import Plan, cut, make_plan, power_of_two
from kernels.clicks import hint_colors

LAUNCHES: Counter[str] = Counter()
"""How often each kernel has been launched in this process, by name."""
KINDS = {
    "argmax_ste": triton_backward.ARGMAX_STE,
    "gumbel_softmax": triton_backward.GUMBEL_SOFTMAX,
    "gumbel_softmax_soft": triton_backward.GUMBEL_SOFTMAX,
    "reinmax": triton_backward.REINMAX,
    "gumbel_rao": triton_backward.GUMBEL_RAO,
    # No gradient passes through its click.
    "reinforce": triton_backward.ARGMAX_STE,
}
LARGEST_BATCH = 65535
"""What CUDA allows along a grid's second axis."""
_forced_block: int | None = None


def kept_pixels(pixels: int | SymInt, estimator: str) -> int | SymInt:
    """Zero: computing the noise again is faster than reading it."""
    return 0


def forward(tensors: Tensors, settings: Settings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `kernels.choose_click.interface.Implementation`."""
    _check(tensors.logits)
    batch, height, width = tensors.logits.shape
    placed = tensors.logits.new_empty(batch, 3, height, width, dtype=torch.float32)
    choice = tensors.logits.new_empty(batch, dtype=torch.int64)
    statistics = tensors.logits.new_empty(batch, STATISTICS, dtype=torch.float32)
    if batch:
        with _on_device_of(tensors.logits):
            _forward(_with_pixel_strides(tensors), settings, placed, choice, statistics)
    return placed, choice, statistics, placed.new_empty(batch, 0)


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
    gradient = torch.empty(tensors.logits.shape, dtype=tensors.logits.dtype, device=tensors.logits.device)
    if len(gradient):
        with _on_device_of(gradient):
            _backward(
                _with_pixel_strides(tensors), settings, choice, statistics, grad_clicks, grad_statistics, gradient
            )
    return gradient


def gumbel(keys: Int64[Tensor, " b"], stream: int, count: int, draw: int = 0) -> Float32[Tensor, "b count"]:
    """The kernels' own Gumbel noise; equals `kernels.noise.gumbel` to a few units in the last place."""
    noise = torch.empty(len(keys), count, dtype=torch.float32, device=keys.device)
    block = min(1024, power_of_two(count))
    with _on_device_of(keys):
        _launch("gumbel", triton_common.gumbel_kernel, (-(-count // block), len(keys)), 4)(
            keys, noise, stream, draw, count, BLOCK=block
        )
    return noise


@contextmanager
def block_size(pixels: int) -> Iterator[None]:
    """Force tiles of this many pixels, a power of two, inside the `with`; for tests and tuning."""
    global _forced_block
    before, _forced_block = _forced_block, pixels
    try:
        yield
    finally:
        _forced_block = before


def _forward(tensors: Tensors, settings: Settings, placed: Tensor, choice: Tensor, statistics: Tensor) -> None:
    logits, clicks, truth_ab, keys, target = tensors
    batch, height, width = logits.shape
    plan = _plan(logits)
    soft = settings.estimator == "gumbel_softmax_soft"
    partials = placed.new_empty(batch, plan.tiles, triton_forward.PARTIALS)
    candidates = choice.new_empty(batch, plan.tiles, dtype=torch.int32)
    patch = {"HINT_SIZE": settings.hint_size, "PATCH_SIDE": power_of_two(settings.hint_size)}
    noise = (settings.stream, settings.draw)
    name = "reduce_single" if plan.single else "reduce_split"
    _launch(name, triton_forward.reduce_kernel, (plan.tiles, batch), plan.warps)(
        logits, clicks, truth_ab, _or(target, logits), _or(keys, choice), placed, choice, statistics, partials,
        candidates, settings.temperature, settings.tau, *noise, height, width, *_flat_strides(logits),
        *_strides(clicks), *_strides(truth_ab), *_flat_strides(_or(target, logits)),
        SAMPLED=settings.estimator != "argmax_ste", SOFT=soft, HAS_TARGET=target is not None, SINGLE=plan.single,
        BLOCK=plan.block, **patch,
    )  # fmt: skip
    if not plan.single:
        _launch("combine", triton_forward.combine_kernel, (batch,), 4)(
            logits, truth_ab, placed, choice, statistics, partials, candidates, settings.temperature, height,
            width, plan.tiles, *_flat_strides(logits), *_strides(truth_ab), SOFT=soft,
            TILES=power_of_two(plan.tiles), **patch,
        )  # fmt: skip
    if soft:
        assert keys is not None
        colors = _pixel_strided(hint_colors(truth_ab, settings.hint_size))
        weights = placed.new_empty(logits.shape)
        mask_strides = (clicks.stride(0), clicks.stride(3))
        _launch("weights", triton_forward.weights_kernel, (plan.tiles, batch), plan.warps)(
            logits, clicks, keys, statistics, weights, settings.temperature, settings.tau, *noise, height * width,
            *_flat_strides(logits), *mask_strides, BLOCK=plan.block,
        )  # fmt: skip
        _launch("spread", triton_forward.spread_kernel, (plan.tiles, batch), plan.warps)(
            clicks, colors, weights, placed, height, width, *_strides(clicks), *_strides(colors),
            HINT_SIZE=settings.hint_size, BLOCK=plan.block,
        )  # fmt: skip


def _backward(
    tensors: Tensors,
    settings: Settings,
    choice: Tensor,
    statistics: Tensor,
    grad_clicks: Tensor | None,
    grad_statistics: Tensor | None,
    gradient: Tensor,
) -> None:
    logits, clicks, truth_ab, keys, target = tensors
    batch, height, width = logits.shape
    plan = _plan(logits)
    kind = KINDS[settings.estimator]
    samples = settings.samples if settings.estimator == "gumbel_rao" else 1
    grad = None if grad_clicks is None else _pixel_strided(grad_clicks)
    two_passes = grad is not None and not plan.single
    partials = statistics.new_empty(batch, plan.tiles, 2 + 3 * samples) if two_passes else statistics
    # g takes the place of the gradient that it turns into, where the types allow.
    candidate = (
        gradient if gradient.dtype == torch.float32 or not two_passes else statistics.new_empty(logits.shape)
    )
    noise = (settings.stream, settings.draw)
    shared: dict[str, Any] = {
        "KIND": kind,
        "SAMPLES": samples,
        "HINT_SIZE": settings.hint_size,
        "BLOCK": plan.block,
    }
    filled_keys, grid = _or(keys, choice), (plan.tiles, batch)
    # Sums over a hint patch keep more values alive; more threads share them.
    warps = plan.warps if settings.hint_size == 1 else min(16, 2 * plan.warps)
    click_strides = (clicks.stride(0), clicks.stride(3))
    grad_or_truth = truth_ab if grad is None else grad
    if two_passes:
        _launch("sums", triton_backward.sums_kernel, grid, warps)(
            logits, clicks, truth_ab, filled_keys, grad, choice, statistics, partials, candidate,
            settings.temperature, settings.tau, *noise, height, width, *_flat_strides(logits), *click_strides,
            *_strides(truth_ab), *_strides(grad_or_truth), **shared,
        )  # fmt: skip
    name = "gradient_single" if plan.single else "gradient_split"
    _launch(name, triton_backward.gradient_kernel, grid, warps)(
        logits, clicks, truth_ab, _or(target, logits), filled_keys, grad_or_truth,
        statistics if grad_statistics is None else grad_statistics.contiguous(), choice, statistics, partials,
        candidate, gradient, settings.temperature, settings.tau, *noise, height, width, plan.tiles,
        *_flat_strides(logits), *click_strides, *_strides(truth_ab), *_flat_strides(_or(target, logits)),
        *_strides(grad_or_truth), HAS_GRAD=grad is not None, HAS_GRAD_STATISTICS=grad_statistics is not None,
        HAS_TARGET=target is not None, SINGLE=plan.single, TILES=power_of_two(plan.tiles), **shared,
    )  # fmt: skip


def _launch(name: str, kernel: Any, grid: tuple[int, ...], warps: int) -> Any:
    """Count the launch and return the kernel bound to its grid and warps."""
    LAUNCHES[name] += 1

    def run(*arguments: Any, **constants: Any) -> None:
        # Without contraction to fused multiply-adds, so that the noise has the same bits in every kernel.
        kernel[grid](*arguments, **constants, num_warps=warps, enable_fp_fusion=False)

    return run


def _plan(logits: Tensor) -> Plan:
    pixels = logits[0].numel()
    if _forced_block is not None:
        return cut(pixels, _forced_block)
    # The interpreter has no processors; four make its small photos take the paths of large ones.
    processors = torch.cuda.get_device_properties(logits.device).multi_processor_count if logits.is_cuda else 4
    return make_plan(len(logits), pixels, processors)


def _on_device_of(tensor: Tensor) -> Any:
    """Context in which the tensor's device is current, where Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _with_pixel_strides(tensors: Tensors) -> Tensors:
    logits, clicks, truth_ab, keys, target = tensors
    return Tensors(
        _pixel_strided(logits),
        _pixel_strided(clicks),
        _pixel_strided(truth_ab),
        None if keys is None else keys.contiguous(),
        None if target is None else _pixel_strided(target),
    )


def _pixel_strided(x: Tensor) -> Tensor:
    """The tensor, copied only if its pixels are not equally spaced in row-major order.

    Both the contiguous and the channels-last layout do. The kernels count a photo's elements in 32 bits.
    """
    step, rows = x.stride(-1), x.shape[-2]
    return x if x.stride(-2) == step * x.shape[-1] and step * x.shape[-1] * rows < 2**31 else x.contiguous()


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Strides of photo, channel and pixel, for (B,C,H,W)."""
    return x.stride(0), x.stride(1), x.stride(3)


def _flat_strides(x: Tensor) -> tuple[int, int]:
    """Strides of photo and pixel, for (B,H,W)."""
    return x.stride(0), x.stride(2)


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """The tensor, or a stand-in for a kernel's unused pointer argument."""
    return other if tensor is None else tensor


def _check(logits: Tensor) -> None:
    if len(logits) > LARGEST_BATCH:
        raise ValueError(f"the batch is {len(logits)}; the Triton kernels take at most {LARGEST_BATCH} photos")
    if not logits.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"logits are on {logits.device}, where Triton has only its interpreter: set TRITON_INTERPRET=1 before "
            "the first import, or use the torch implementation"
        )
    if logits.dtype == torch.float64:
        raise ValueError("logits are float64; the Triton kernels compute in float32: pass logits.float()")
