"""`choose_click`: the public function, and its registration with PyTorch (`torch.library.custom_op`).

The operation is one node for autograd, `torch.compile` and `torch.export`. On CUDA it runs the Triton kernels, on
a CPU the torch implementation; there is no other path, and `implementation` says which one it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from kernels.choose_click.interface import (
    DIVERGENCE,
    ENTROPY,
    LOG_PROBABILITY,
    LOG_SUM_EXP,
    LOG_TOTAL,
    LOWEST_FREE,
    STATISTICS,
    TOP,
    Implementation,
    Settings,
    Tensors,
    accumulation_type,
)
from kernels.clicks import LARGEST_HINT, clicked
from kernels.estimators import ESTIMATORS, NEEDS_NOISE

MODULES = {"torch": "kernels.choose_click.cpu", "triton": "kernels.choose_click.cuda"}
_chosen = {"cpu": "torch", "cuda": "triton"}


class Click(NamedTuple):
    """Result of choosing one click per photo; all fields but `choice` are differentiable in the logits."""

    clicks: Float[Tensor, "b 3 h w"]
    """The new click map; carries the estimator's gradient."""
    choice: Int64[Tensor, " b"]
    """Flat index row * width + col."""
    log_sum_exp: Float[Tensor, " b"]
    """log sum exp(z / T) over the free pixels."""
    log_probability: Float[Tensor, " b"]
    """log pi of the chosen pixel; its gradient is the score function of `reinforce`."""
    entropy: Float[Tensor, " b"]
    """Of the heat map over the free pixels, in nats."""
    divergence: Float[Tensor, " b"] | None
    """KL(target || heat map) in nats; None without a target."""
    heatmap: Float[Tensor, "b h w"] | None
    """softmax(z / T) over the free pixels; None unless asked for."""


def choose_click(
    logits: Float[Tensor, "b h w"],
    clicks: Float[Tensor, "b 3 h w"],
    truth_ab: Float[Tensor, "b 2 h w"],
    *,
    estimator: str = "argmax_ste",
    temperature: float | Float[Tensor, ""] = 1.0,
    tau: float | Float[Tensor, ""] = 1.0,
    keys: Int64[Tensor, " b"] | None = None,
    stream: int = 0,
    draw: int = 0,
    samples: int = 1,
    hint_size: int = 1,
    target: Float[Tensor, "b h w"] | None = None,
    with_heatmap: bool = False,
    check: bool = True,
) -> Click:
    """Choose one unclicked pixel in each photo and write its true color into the click map.

    The same numbers as `kernels.estimators.choose` followed by `kernels.clicks.place`, without the maps in
    between. Computed in float32 (float64 on a CPU for float64 logits), also inside autocast.

    Args:
        logits: scores z.
        clicks: the click map so far; not modified, and without gradient.
        truth_ab: where the hint color comes from: the mean under the hint patch. Without gradient.
        estimator: a key of `kernels.estimators.ESTIMATORS`.
        temperature: T of the heat map softmax(z / T), 1e-6 ... 1e6. Under `torch.compile`, each new float is
            compiled anew; a tensor without dimensions, on the CPU, is not.
        tau: temperature of the relaxations, likewise; unused by `argmax_ste` and `reinforce`.
        keys: one noise key per photo (`kernels.noise.sample_keys`), for every estimator but `argmax_ste`.
        stream: names the noise of this call among those of the same keys; below 2**32.
        draw: repeated draws of one stream (REINFORCE's samples).
        samples: K of `gumbel_rao`, at least 1; its conditional noise uses the draws after `draw`.
        hint_size: side of the hint patch in pixels, 1 ... 31.
        target: heat map for the divergence; sums to 1 and is 0 at clicked pixels. Without gradient.
        with_heatmap: also return the heat map, which is not stored otherwise.
        check: refuse photos without a free pixel. Costs a wait for the device on a GPU; without it such a photo
            keeps its map, its choice is -1, its statistics and its gradient are NaN. Skipped under tracing.

    Raises:
        ValueError: no free pixel, a setting out of its range, missing noise keys, shapes or devices that do not
            fit together, or a gradient asked for that this operation does not have.
    """
    temperatures = [_as_tensor("temperature", temperature), _as_tensor("tau", tau)]
    _check_settings(estimator, stream, draw, samples, hint_size, keys)
    _check_tensors(logits, clicks, truth_ab, keys, target)
    settings = (estimator, *temperatures, stream, draw, samples, hint_size)
    placed, choice, statistics, _ = cast(
        tuple[Tensor, ...], _choose_click(logits, clicks, truth_ab, keys, target, *settings)
    )
    if check and not torch.compiler.is_compiling():
        _check_choice(choice)
    log_sum_exp = statistics[:, LOG_SUM_EXP]
    return Click(
        clicks=placed,
        choice=choice,
        log_sum_exp=log_sum_exp,
        log_probability=statistics[:, LOG_PROBABILITY],
        entropy=statistics[:, ENTROPY],
        divergence=None if target is None else statistics[:, DIVERGENCE],
        heatmap=_heatmap(logits, clicks, statistics, temperatures[0]) if with_heatmap else None,
    )


def implementation(device_type: str) -> str:
    """Which implementation runs on "cpu" or "cuda": "torch" or "triton".

    Raises:
        ValueError: there is none for this type of device.
    """
    if device_type not in _chosen:
        raise ValueError(f"no implementation for device type {device_type!r}; use cpu or cuda")
    return _chosen[device_type]


@contextmanager
def use(*, cpu: str = "torch", cuda: str = "triton") -> Iterator[None]:
    """Select implementations inside the `with`, to compare them, such as `use(cuda="torch")`.

    Forward pass, backward pass and compilation belong inside the same `with`. It applies to the whole process,
    since gradients are computed in other threads. `cpu="triton"` needs Triton's interpreter (the environment
    variable TRITON_INTERPRET=1, set before this package's kernels are imported).

    Raises:
        ValueError: an unknown implementation.
    """
    for name in (cpu, cuda):
        if name not in MODULES:
            raise ValueError(f"implementation is {name!r}; choose one of {', '.join(MODULES)}")
    before = dict(_chosen)
    _chosen.update(cpu=cpu, cuda=cuda)
    try:
        yield
    finally:
        _chosen.update(before)


def _module(device_type: str) -> Implementation:
    # Imported when first used: Triton is not installed everywhere.
    return cast(Implementation, import_module(MODULES[implementation(device_type)]))


@torch.library.custom_op("chromaclick::choose_click", mutates_args=())
def _choose_click(
    logits: Tensor,
    clicks: Tensor,
    truth_ab: Tensor,
    keys: Tensor | None,
    target: Tensor | None,
    estimator: str,
    temperature: Tensor,
    tau: Tensor,
    stream: int,
    draw: int,
    samples: int,
    hint_size: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    settings = Settings(estimator, temperature.item(), tau.item(), stream, draw, samples, hint_size)
    tensors = Tensors(logits, clicks, truth_ab, keys, target)
    return _module(logits.device.type).forward(tensors, settings)


@_choose_click.register_fake
def _(
    logits: Tensor, clicks: Tensor, truth_ab: Tensor, keys: Any, target: Any, estimator: str, *settings: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    exact = accumulation_type(logits)
    kept = _module(logits.device.type).kept_pixels(logits.shape[1] * logits.shape[2], estimator)
    return (
        torch.empty(clicks.shape, dtype=exact, device=clicks.device),
        logits.new_empty(logits.shape[0], dtype=torch.int64),
        logits.new_empty(logits.shape[0], STATISTICS, dtype=exact),
        logits.new_empty(logits.shape[0], kept, dtype=exact),
    )


@torch.library.custom_op("chromaclick::choose_click_backward", mutates_args=())
def _choose_click_backward(
    grad_clicks: Tensor | None,
    grad_statistics: Tensor | None,
    choice: Tensor,
    statistics: Tensor,
    kept: Tensor,
    logits: Tensor,
    clicks: Tensor,
    truth_ab: Tensor,
    keys: Tensor | None,
    target: Tensor | None,
    estimator: str,
    temperature: Tensor,
    tau: Tensor,
    stream: int,
    draw: int,
    samples: int,
    hint_size: int,
) -> Tensor:
    settings = Settings(estimator, temperature.item(), tau.item(), stream, draw, samples, hint_size)
    tensors = Tensors(logits, clicks, truth_ab, keys, target)
    run = _module(logits.device.type).backward
    return run(tensors, settings, choice, statistics, kept, grad_clicks, grad_statistics)


@_choose_click_backward.register_fake
def _(
    grad_clicks: Any,
    grad_statistics: Any,
    choice: Tensor,
    statistics: Tensor,
    kept: Tensor,
    logits: Tensor,
    *rest: Any,
) -> Tensor:
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.estimator, ctx.others = inputs[5], inputs[8:]
    _, choice, statistics, kept = output
    ctx.mark_non_differentiable(choice, kept)
    ctx.save_for_backward(choice, statistics, kept, *inputs[:5], *inputs[6:8])


def _backward(
    ctx: Any, grad_clicks: Tensor | None, _: None, grad_statistics: Tensor | None, __: None
) -> tuple[Any, ...]:
    *tensors, temperature, tau = ctx.saved_tensors
    if ctx.estimator == "reinforce":
        grad_clicks = None  # its gradient comes from log_probability alone
    if grad_clicks is None and grad_statistics is None:
        return (None,) * 12
    gradient = _choose_click_backward(
        grad_clicks, grad_statistics, *tensors, ctx.estimator, temperature, tau, *ctx.others
    )
    return (gradient, *(None,) * 11)


_choose_click.register_autograd(_backward, setup_context=_save)


def _heatmap(logits: Tensor, clicks: Tensor, statistics: Tensor, temperature: Tensor) -> Tensor:
    scores = logits.to(statistics.dtype).div(temperature).clamp(min=LOWEST_FREE)
    columns = statistics[:, :, None, None]
    top, log_total = columns[:, TOP].detach(), columns[:, LOG_TOTAL].detach()
    # Their values are exact, and the gradient passes through log sum exp.
    of_gradient = columns[:, LOG_SUM_EXP] - columns[:, LOG_SUM_EXP].detach()
    log_heat = (scores - top) - log_total - of_gradient
    # Before exp, which the large logit of a taken pixel could overflow.
    return log_heat.masked_fill(clicked(clicks), -torch.inf).exp()


def _as_tensor(name: str, temperature: float | Tensor) -> Tensor:
    """A scalar float64 tensor on the CPU, which kernels read without waiting for a device."""
    if isinstance(temperature, Tensor) and (temperature.ndim or temperature.requires_grad):
        shape = tuple(temperature.shape)
        raise ValueError(f"{name} is a tensor of shape {shape}; it must have no dimensions and no gradient")
    if not torch.compiler.is_compiling() and not 1e-6 <= float(temperature) <= 1e6:
        raise ValueError(f"{name} is {float(temperature)}; it must be 1e-6 ... 1e6")
    return torch.as_tensor(temperature, dtype=torch.float64, device="cpu")


def _check_settings(
    estimator: str, stream: int, draw: int, samples: int, hint_size: int, keys: Tensor | None
) -> None:
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator is {estimator!r}; choose one of {', '.join(ESTIMATORS)}")
    if samples < 1:
        raise ValueError(f"samples is {samples}; it must be at least 1")
    # The samples' draws follow `draw`.
    for name, value, largest in (("stream", stream, 2**32 - 1), ("draw", draw, 2**32 - 1 - samples)):
        if not 0 <= value <= largest:
            raise ValueError(f"{name} is {value}; it must be 0 ... {largest}")
    if not 1 <= hint_size <= LARGEST_HINT:
        raise ValueError(f"hint_size is {hint_size}; it must be 1 ... {LARGEST_HINT} pixels")
    if keys is None and estimator in NEEDS_NOISE:
        raise ValueError(f"{estimator} needs noise; pass keys=kernels.noise.sample_keys(...)")


def _check_tensors(
    logits: Tensor, clicks: Tensor, truth_ab: Tensor, keys: Tensor | None, target: Tensor | None
) -> None:
    if logits.ndim != 3 or logits.shape[1] * logits.shape[2] == 0:
        raise ValueError(f"logits have shape {tuple(logits.shape)}; it must be (B, H, W), H and W at least 1")
    if not logits.is_floating_point() or (keys is not None and keys.dtype != torch.int64):
        found = f"logits are {logits.dtype}" + ("" if keys is None else f" and keys {keys.dtype}")
        raise ValueError(f"{found}; pass logits of a floating-point type and keys of int64")
    batch, height, width = logits.shape
    expected = {
        "clicks": (clicks, (batch, 3, height, width)),
        "truth_ab": (truth_ab, (batch, 2, height, width)),
        "keys": (keys, (batch,)),
        "target": (target, (batch, height, width)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; logits {tuple(logits.shape)} need {shape}")
        if tensor.device != logits.device:
            raise ValueError(f"{name} is on {tensor.device} and logits on {logits.device}; move them together")
        if tensor.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                f"{name} requires a gradient, which this operation does not give; pass {name}.detach()"
            )


def _check_choice(choice: Tensor) -> None:
    full = int((choice < 0).sum())
    if full:
        raise ValueError(
            f"all pixels of {full} of {len(choice)} photos are clicked; "
            "ask for fewer clicks, a smaller hint_size or a larger photo"
        )
