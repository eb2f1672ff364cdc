"""Photos to click on, and how to compare the operation with the autograd chain that defines its numbers."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from types import FunctionType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from kernels.choose_click import Click, choose_click
from kernels.choose_click.cuda import LAUNCHES
from kernels.choose_click.reference import NoiseSource, choose_click_chain
from kernels.clicks import clicked
from kernels.estimators import LOWEST
from kernels.noise import gumbel, sample_keys

DIFFERENTIABLE = ("clicks", "log_sum_exp", "log_probability", "entropy", "divergence", "heatmap")
DEFAULTS: dict[str, Any] = {
    "estimator": "argmax_ste",
    "temperature": 1.3,
    "tau": 0.7,
    "stream": 5,
    "draw": 2,
    "samples": 3,
    "hint_size": 1,
}


class Inputs(NamedTuple):
    """The tensors of one call."""

    logits: Tensor
    clicks: Tensor
    truth_ab: Tensor
    keys: Tensor
    target: Tensor | None

    def rows(self, index: Any) -> "Inputs":
        """Some of the photos."""
        return Inputs(*(None if tensor is None else tensor[index] for tensor in self))  # pyright: ignore[reportArgumentType]: only the target may be None


class Outcome(NamedTuple):
    """What came out of one call, detached, and the gradient at the logits."""

    click: Click
    gradient: Tensor


Run = Callable[[Inputs], Click]
Function = TypeVar("Function", bound=FunctionType)


def make_inputs(
    batch: int,
    height: int,
    width: int,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    scale: float = 3.0,
    seed: int = 0,
) -> Inputs:
    """Random photos; a tenth of the pixels is clicked, and at least one is free."""
    generator = torch.Generator().manual_seed(seed)

    def rand(channels: int) -> Tensor:
        return torch.rand(batch, channels, height, width, generator=generator)

    logits = torch.randn(batch, height, width, generator=generator) * scale
    truth = rand(2) * 2 - 1
    mask = (rand(1) < 0.1).float()
    mask[..., -1, height * width // 3 % width] = 0.0
    target = rand(1)[:, 0] * (1 - mask[:, 0])
    target = target * (target > 0.2 * target.amax((1, 2), keepdim=True))
    return Inputs(
        logits.to(device, dtype),
        torch.cat([mask, mask * truth.flip(1)], dim=1).to(device),
        truth.to(device),
        sample_keys(seed + 1, 0, batch, device),
        (target / target.sum((1, 2), keepdim=True)).to(device),
    )


def in_float64(inputs: Inputs) -> Inputs:
    """The same numbers, exactly."""
    logits, clicks, truth, keys, target = inputs
    return Inputs(
        logits.double(), clicks.double(), truth.double(), keys, None if target is None else target.double()
    )


def fused(**settings: Any) -> Run:
    """The operation, with `DEFAULTS` where nothing else is said."""
    settings = {**DEFAULTS, "with_heatmap": True, **settings}
    return lambda inputs: choose_click(*inputs[:3], keys=inputs.keys, target=inputs.target, **settings)


def chain(source: NoiseSource = gumbel, **settings: Any) -> Run:
    """The definition, with the same defaults; the noise comes from `source`."""
    settings = {**DEFAULTS, "with_heatmap": True, **settings}

    def run(inputs: Inputs) -> Click:
        return choose_click_chain(*inputs[:3], keys=inputs.keys, target=inputs.target, noise=source, **settings)

    return run


def roomy(function: Function) -> Function:
    """Decorator for what calls Triton's interpreter: halves its time.

    CPython maps memory for deep calls in pieces of 16 KiB and returns each at once, so that a loop at the edge of
    a piece spends its time there. A frame that asks for more gets a larger piece, with room for calls below it.
    """
    function.__code__ = function.__code__.replace(co_stacksize=70_000)
    return function


@roomy
def evaluate(run: Run, inputs: Inputs, only: str | None = None, seed: int = 9) -> Outcome:
    """One call, and the gradient of random weights on every output at once, or on one of them only."""
    leaf = inputs.logits.detach().requires_grad_()
    click = run(inputs._replace(logits=leaf))
    generator = torch.Generator().manual_seed(seed)
    outputs, weights = [], []
    for name in DIFFERENTIABLE:
        output = getattr(click, name)
        if output is None:
            continue
        weight = torch.randn(output.shape, generator=generator).to(output)
        if output.requires_grad and only in (None, name):
            outputs.append(output)
            weights.append(weight)
    gradient = None
    if outputs:
        (gradient,) = torch.autograd.grad(outputs, leaf, weights, allow_unused=True)
    detached = Click(*(None if value is None else value.detach() for value in click))  # pyright: ignore[reportArgumentType]: the same fields are None
    return Outcome(detached, torch.zeros_like(leaf) if gradient is None else gradient)


def assert_equal_chain(found: Outcome, expected: Outcome, *, rtol: float, atol: float) -> None:
    """Every output and the gradient."""
    assert torch.equal(found.click.choice, expected.click.choice)
    for name in DIFFERENTIABLE:
        torch.testing.assert_close(
            getattr(found.click, name),
            getattr(expected.click, name),
            rtol=rtol,
            atol=atol,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    torch.testing.assert_close(found.gradient, expected.gradient, rtol=rtol, atol=atol)


def assert_as_exact_as_eager(run: Run, inputs: Inputs, source: NoiseSource, only: str | None = None, **settings):
    """flash-attention's rule: err at most 2x (forward) or 3x (gradient) of what the chain errs in float32.

    Both are held against the chain in float64, with the very noise of the kernels. In a photo whose best two
    scores are equal to rounding, another choice is right too; the rest of such a photo is not compared.
    """
    ours = evaluate(run, inputs, only)
    eager = evaluate(chain(source, **settings), inputs, only)
    exact = evaluate(chain(source, **settings), in_float64(inputs), only)
    same = (ours.click.choice == exact.click.choice) & (eager.click.choice == exact.click.choice)
    assert (same | (margin_of(inputs, source, **settings) < 1e-5)).all()
    assert same.any()
    for name in DIFFERENTIABLE:
        if getattr(exact.click, name) is not None:
            found = [getattr(outcome.click, name)[same] for outcome in (ours, eager, exact)]
            _assert_close_to(*found, factor=2.0, name=name)
    _assert_close_to(*(o.gradient[same] for o in (ours, eager, exact)), factor=3.0, name="gradient")


def _assert_close_to(ours: Tensor, eager: Tensor, exact: Tensor, *, factor: float, name: str) -> None:
    assert torch.isfinite(ours).all(), name
    allowed = factor * (eager.double() - exact).abs().max()
    # Where eager happens to be exact: a few units in the last place.
    floor = 8 * torch.finfo(ours.dtype).eps * exact.abs().max() + torch.finfo(ours.dtype).tiny
    error = (ours.double() - exact).abs().max()
    assert error <= allowed + floor, f"{name}: error {error:.2e}, allowed {allowed:.2e} + {floor:.2e}"


def margin_of(inputs: Inputs, source: NoiseSource, **settings: Any) -> Tensor:
    """How far the best score leads the second, (b,), relative to scores above 1."""
    settings = {**DEFAULTS, **settings}
    scores = (inputs.logits.double() / settings["temperature"]).clamp(min=LOWEST)
    if settings["estimator"] != "argmax_ste":
        noise = source(inputs.keys, settings["stream"], scores[0].numel(), settings["draw"])
        scores = scores + noise.view(scores.shape)
    scores = scores.masked_fill(clicked(inputs.clicks), -torch.inf).flatten(1)
    if scores.shape[1] == 1:
        return torch.full_like(scores[:, 0], torch.inf)
    first, second = scores.topk(2).values.unbind(1)
    return (first - second) / first.abs().clamp(min=1.0)


@contextmanager
def counted_launches() -> Iterator[Counter[str]]:
    """The kernels launched inside the `with`, filled in at its end."""
    before, found = LAUNCHES.copy(), Counter[str]()
    yield found
    found.update(LAUNCHES - before)


def grid(**axes: Any) -> list[dict[str, Any]]:
    """Every combination, as settings."""
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
