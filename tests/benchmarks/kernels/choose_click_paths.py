"""What the benchmark `choose_click` runs: inputs, both passes, their least traffic, and the check before.

The check holds `choose_click` against the readable chain, on the device that is measured and with the noise of
its kernels. An error may be twice (forward) or three times (gradient) what the chain in float32 itself errs
against the chain in float64.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from kernels.choose_click import Click, implementation
from kernels.choose_click.reference import NoiseSource, choose_click_chain
from kernels.clicks import clicked
from kernels.estimators import ESTIMATORS, LOWEST, NEEDS_NOISE
from kernels.noise import gumbel, sample_keys, uniform
from tests.benchmarks.harness import Refused

Operation = Callable[..., Click]
"""`choose_click`, or something with its signature."""
PASSES = ("forward", "backward", "both")
CHECKED_SHAPES = ((3, 37, 53), (2, 64, 64), (2, 256, 256))
"""Photos, height and width: odd, one Triton program a photo, several."""
MARGIN = 1e-5
"""Scores this close are equal to rounding, relative to scores above 1; then either choice is right."""
SETTINGS = {"temperature": 0.8, "tau": 0.7, "samples": 2}
"""Of the check; the timed calls use the defaults."""
RESULTS = ("clicks", "log_sum_exp", "log_probability", "entropy", "divergence")


class Inputs(NamedTuple):
    """The tensors of one call, and the gradients that come back from the losses."""

    logits: Float[Tensor, "b h w"]
    clicks: Float[Tensor, "b 3 h w"]
    truth_ab: Float[Tensor, "b 2 h w"]
    keys: Int64[Tensor, " b"]
    target: Float[Tensor, "b h w"]
    of_clicks: Float[Tensor, "b 3 h w"]
    of_photos: Float[Tensor, " b"]


def make_inputs(batch: int, height: int, width: int, device: torch.device) -> Inputs:
    """Photos of noise; one pixel in a hundred is clicked."""
    keys = sample_keys(0, 0, batch, device)
    shape = (batch, -1, height, width)

    def noise(stream: int, channels: int) -> Tensor:
        return 2.0 * uniform(keys, 1000 + stream, channels * height * width).view(shape) - 1.0

    truth = noise(0, 2)
    mask = (noise(1, 1) < -0.98).float()
    target = noise(2, 1).add(1.0).mul(1.0 - mask)[:, 0]
    return Inputs(
        logits=3.0 * noise(3, 1)[:, 0],
        clicks=torch.cat([mask, mask * truth], dim=1),
        truth_ab=truth,
        keys=keys,
        target=target / target.sum((1, 2), keepdim=True),
        of_clicks=noise(4, 3),
        of_photos=noise(5, 1)[:, 0, 0, 0],
    )


def forward(operation: Operation, logits: Tensor, inputs: Inputs, estimator: str) -> Click:
    """One call that records what its gradient needs. Without `check`, which waits for a GPU."""
    return operation(logits, inputs.clicks, inputs.truth_ab, estimator=estimator, keys=inputs.keys, check=False)


def backward(click: Click, logits: Tensor, inputs: Inputs, estimator: str) -> Tensor:
    """The gradient of the click map and of the entropy; for REINFORCE, of the log-probability and the entropy."""
    if estimator == "reinforce":
        outputs, given = [click.log_probability, click.entropy], [inputs.of_photos, inputs.of_photos]
    else:
        outputs, given = [click.clicks, click.entropy], [inputs.of_clicks, inputs.of_photos]
    return torch.autograd.grad(outputs, logits, given)[0]


def compulsory_bytes(estimator: str, which: str) -> int:
    """Bytes per pixel that must move: every input read once, every output written once, all in float32.

    Without a target and with a hint size of 1; what is one number per photo does not count. A hard click takes its
    color from one pixel, so the forward pass need not read the true colors.
    """
    scores, mask, colors, map_of_clicks, gradient = 4, 4, 8, 12, 4
    ahead = scores + 2 * map_of_clicks + (colors if estimator == "gumbel_softmax_soft" else 0)
    back = scores + mask + gradient + (0 if estimator == "reinforce" else map_of_clicks + colors)
    return {"forward": ahead, "backward": back, "both": ahead + back}[which]


def noise_of(device: torch.device) -> NoiseSource:
    """The noise that `choose_click` draws on this device."""
    if implementation(device.type) == "torch":
        return gumbel
    from kernels.choose_click import cuda  # here: Triton is not installed everywhere

    return cuda.gumbel


def check(device: torch.device, operation: Operation) -> None:
    """Compare an operation, for all estimators, with the chain: every result, and the gradient of each of them.

    Raises:
        Refused: it says what differs and by how much.
    """
    for shape, estimator, hint_size in product(CHECKED_SHAPES, ESTIMATORS, (1, 3)):
        found = compare(operation, make_inputs(*shape, device), estimator, hint_size)
        if found is not None:
            raise Refused(f"{estimator}, hint size {hint_size}, {shape}: {found}; nothing is timed")


def compare(operation: Operation, inputs: Inputs, estimator: str, hint_size: int) -> str | None:
    """What is wrong with an operation, or None."""
    settings = {"estimator": estimator, "hint_size": hint_size, **SETTINGS}
    source = noise_of(inputs.logits.device)
    chain = partial(choose_click_chain, noise=source)
    exact, exact_gradients = _evaluate(chain, _in_float64(inputs), **settings)
    eager, eager_gradients = _evaluate(chain, inputs, **settings)
    ours, gradients = _evaluate(operation, inputs, **settings)
    same = (ours.choice == exact.choice) & (eager.choice == exact.choice)
    if not (same | (_lead(exact, ours, inputs, estimator, source) < MARGIN)).all() or not same.any():
        return "it chooses other pixels"
    for name in RESULTS:
        three = (getattr(click, name).detach()[same] for click in (ours, eager, exact))
        wrong = _excess(*three, factor=2.0)
        if wrong is not None:
            return f"{name} is {wrong}"
    for name, given in exact_gradients.items():
        wrong = _excess(gradients[name][same], eager_gradients[name][same], given[same], factor=3.0)
        if wrong is not None:
            return f"the gradient of {name} is {wrong}"
    return None


def _evaluate(operation: Operation, inputs: Inputs, **settings: object) -> tuple[Click, dict[str, Tensor]]:
    """A call, and the gradient of each of its results by itself."""
    logits = inputs.logits.detach().requires_grad_()
    click = operation(logits, *inputs[1:3], keys=inputs.keys, target=inputs.target, check=False, **settings)
    gradients = {}
    for name in RESULTS:
        result = getattr(click, name)
        gradient = None
        if result.requires_grad:
            given = inputs.of_clicks if name == "clicks" else inputs.of_photos
            (gradient,) = torch.autograd.grad(result, logits, given, retain_graph=True, allow_unused=True)
        gradients[name] = torch.zeros_like(logits) if gradient is None else gradient
    return click, gradients


def _in_float64(inputs: Inputs) -> Inputs:
    return Inputs(*(tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs))


def _lead(exact: Click, ours: Click, inputs: Inputs, estimator: str, source: NoiseSource) -> Tensor:
    """By how much the right choice's score is above that of ours, relative to scores above 1, (b,)."""
    scores = inputs.logits.double().div(SETTINGS["temperature"]).clamp(min=LOWEST)
    if estimator in NEEDS_NOISE:
        scores = scores + source(inputs.keys, 0, scores[0].numel(), 0).view(scores.shape)
    scores = scores.masked_fill(clicked(inputs.clicks), -torch.inf).flatten(1)
    best, found = (scores.gather(1, click.choice.clamp(min=0)[:, None])[:, 0] for click in (exact, ours))
    return (best - found) / best.abs().clamp(min=1.0)


def _excess(ours: Tensor, eager: Tensor, exact: Tensor, factor: float) -> str | None:
    """How an error exceeds `factor` times that of eager float32, or None. Where eager is exact: 8 roundings."""
    allowed = factor * (eager.double() - exact).abs().max().item()
    allowed += 8 * torch.finfo(torch.float32).eps * exact.abs().max().item()
    error = (ours.double() - exact).abs().max().item()
    # Written so that NaN exceeds.
    return None if error <= allowed else f"{error:.3g} off, and {allowed:.3g} is allowed"
