"""Where implementations of one definition tend to part: odd numbers at taken pixels, near ties, full photos."""

from typing import Any

import jaxtyping
import pytest
import torch

from kernels.choose_click import choose_click, cuda, use
from kernels.estimators import ESTIMATORS
from kernels.noise import gumbel, sample_keys
from tests.kernels.choose_click.positions import DEVICES, triton_on
from tests.kernels.choose_click.references import (
    DEFAULTS,
    DIFFERENTIABLE,
    Inputs,
    assert_as_exact_as_eager,
    evaluate,
    fused,
    make_inputs,
)

ODD = [torch.inf, torch.nan, 3e38, 1e30, -torch.inf]
PASSING_GRADIENT = [name for name in ESTIMATORS if name != "reinforce"]


def with_odd_taken(inputs: Inputs, value: float) -> tuple[Inputs, torch.Tensor]:
    """The same photos, with this logit at every taken pixel."""
    taken = inputs.clicks[:, 0] > 0.5
    return inputs._replace(logits=inputs.logits.masked_fill(taken, value)), taken


def assert_same(found, expected, free) -> None:
    for name in ("choice", *DIFFERENTIABLE):
        torch.testing.assert_close(getattr(found.click, name), getattr(expected.click, name), msg=name)
    torch.testing.assert_close(found.gradient[free], expected.gradient[free])


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("estimator", PASSING_GRADIENT)
def test_a_taken_pixels_logit_does_not_matter_on_a_cpu(estimator: str, value: float):
    inputs = make_inputs(3, 5, 6)
    odd, taken = with_odd_taken(inputs, value)
    assert taken.any()
    for temperature in (1e-3, 1.3):
        settings = {"estimator": estimator, "temperature": temperature}
        found, expected = evaluate(fused(**settings), odd), evaluate(fused(**settings), inputs)
        assert_same(found, expected, ~taken)
        assert not found.gradient[taken].any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("value", [*ODD[:2], *(pytest.param(value, marks=pytest.mark.slow) for value in ODD[2:])])
@pytest.mark.parametrize("estimator", ["argmax_ste", "gumbel_rao"])
def test_a_taken_pixels_logit_does_not_matter_to_the_kernels(estimator: str, value: float, device: str):
    inputs = make_inputs(2, 3, 4, device=device)
    odd, taken = with_odd_taken(inputs, value)
    with triton_on(device, 4):
        found, expected = evaluate(fused(estimator=estimator), odd), evaluate(fused(estimator=estimator), inputs)
    assert_same(found, expected, ~taken)


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_a_negative_mask_is_free(estimator: str):
    inputs = make_inputs(2, 3, 4)
    clicks = inputs.clicks.clone()
    clicks[:, 0] = torch.where(clicks[:, 0] > 0.5, 1.0, -1.0)
    found = evaluate(fused(estimator=estimator), inputs._replace(clicks=clicks))
    expected = evaluate(fused(estimator=estimator), inputs)
    assert torch.equal(found.click.choice, expected.click.choice)
    assert torch.equal(found.click.entropy, expected.click.entropy)


def near_ties(device: str, temperature: float, offset: float) -> Inputs:
    """Scores theta that differ by a few units, so that no softmax saturates, on top of a common offset."""
    inputs = make_inputs(2, 5, 6, device=device, scale=2.0)
    return inputs._replace(logits=inputs.logits * temperature + offset)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("only", ["clicks", "entropy"])
@pytest.mark.parametrize(
    ("temperature", "offset"), [(1e-3, 0.0), (1e3, 0.0), (1e3, 1e4), (1.3, -1e4), (0.1, 100.0)]
)
@pytest.mark.parametrize("estimator", PASSING_GRADIENT)
def test_gradients_among_near_ties(estimator: str, temperature: float, offset: float, only: str, device: str):
    inputs = near_ties(device, temperature, offset)
    settings = {"estimator": estimator, "temperature": temperature}
    with triton_on(device, 16):
        source = cuda.gumbel
        found = evaluate(fused(**settings), inputs, only)
        assert_as_exact_as_eager(fused(**settings), inputs, source, only, **settings)
    assert found.gradient.abs().max() * temperature > 1e-3, "a saturated softmax would hide a wrong gradient"
    if device == "cpu":
        assert_as_exact_as_eager(fused(**settings), inputs, gumbel, only, **settings)


@pytest.mark.parametrize("path", ["torch", "triton"])
@pytest.mark.parametrize("estimator", PASSING_GRADIENT)
def test_a_photo_without_a_free_pixel_has_no_gradient_but_nan(estimator: str, path: str):
    inputs = make_inputs(2, 3, 4)
    clicks = inputs.clicks.clone()
    clicks[0, 0] = 1.0
    inputs = inputs._replace(clicks=clicks, target=None)
    leaf = inputs.logits.requires_grad_()
    with triton_on("cpu", 4), use(cpu=path):
        click = fused(estimator=estimator, check=False, with_heatmap=False)(inputs._replace(logits=leaf))
        (gradient,) = torch.autograd.grad(click.clicks.square().sum(), leaf)
    assert gradient[0].isnan().all()
    assert gradient[1].isfinite().all()


def test_the_backward_pass_may_run_elsewhere_than_the_forward_pass():
    inputs = make_inputs(2, 3, 4)
    leaf = inputs.logits.requires_grad_()
    settings: dict[str, Any] = DEFAULTS | {"estimator": "gumbel_softmax"}
    with triton_on("cpu"):
        there = choose_click(leaf, *inputs[1:3], keys=inputs.keys, **settings)
    here = choose_click(leaf, *inputs[1:3], keys=inputs.keys, **settings)
    weights = torch.randn(there.clicks.shape, generator=torch.Generator().manual_seed(0))
    found, expected = (torch.autograd.grad((c.clicks * weights).sum(), leaf)[0] for c in (there, here))
    torch.testing.assert_close(found, expected)


def test_a_schedule_of_temperatures_is_compiled_once(monkeypatch: pytest.MonkeyPatch):
    # Dynamo cannot trace the tests' check of jaxtyping's annotations.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    logits, clicks, truth, _, _ = make_inputs(2, 3, 4)
    keys = sample_keys(0, 0, 2)

    def entropy(temperature: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        return choose_click(
            logits, clicks, truth, estimator="gumbel_softmax", temperature=temperature, tau=tau, keys=keys
        ).entropy

    torch._dynamo.reset()
    compiled = torch.compile(entropy, fullgraph=True, backend="aot_eager")
    for step in range(20):
        pair = torch.tensor(1.0 + step / 10).double(), torch.tensor(0.5 + step / 20).double()
        torch.testing.assert_close(compiled(*pair), entropy(*pair))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(2, 1, 3, 4)}, r"logits have shape \(2, 1, 3, 4\); it must be \(B, H, W\)"),
        ({"logits": torch.zeros(2, 3, 4, dtype=torch.int64)}, "logits are torch.int64"),
        ({"keys": torch.zeros(2, dtype=torch.int32)}, "keys torch.int32"),
        ({"temperature": torch.inf}, "temperature is inf; it must be 1e-6"),
        ({"temperature": torch.ones(1)}, r"temperature is a tensor of shape \(1,\); it must have no dimensions"),
        ({"tau": torch.ones((), requires_grad=True)}, "tau is a tensor of shape .*no gradient"),
        ({"tau": 1e-9}, "tau is 1e-09; it must be 1e-6"),
    ],
)
def test_what_cannot_be_computed_is_refused(change: dict, message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # its own errors would come first
    inputs = make_inputs(2, 3, 4)
    given: dict[str, Any] = {
        "logits": inputs.logits,
        "clicks": inputs.clicks,
        "truth_ab": inputs.truth_ab,
        "keys": inputs.keys,
    }
    with pytest.raises(ValueError, match=message):
        choose_click(**(given | change))


def test_without_gradients_no_input_is_refused_for_wanting_one():
    inputs = make_inputs(1, 3, 4)
    with torch.no_grad():
        choose_click(inputs.logits, inputs.clicks, inputs.truth_ab.requires_grad_())


def test_without_the_interpreter_the_kernels_say_what_is_missing_on_a_cpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    inputs = make_inputs(1, 3, 4)
    with use(cpu="triton"), pytest.raises(ValueError, match="set TRITON_INTERPRET=1 before the first import"):
        choose_click(*inputs[:3])
