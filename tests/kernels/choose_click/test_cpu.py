"""The CPU implementation in float64 against the autograd chain: equal to rounding, every output and gradient."""

import pytest
import torch
from torch import Tensor

from kernels.choose_click import cpu
from kernels.estimators import ESTIMATORS
from kernels.noise import gumbel
from tests.kernels.choose_click.references import (
    DIFFERENTIABLE,
    assert_as_exact_as_eager,
    assert_equal_chain,
    chain,
    evaluate,
    fused,
    in_float64,
    make_inputs,
)

CLOSE = {"rtol": 1e-10, "atol": 1e-12}


@pytest.mark.parametrize("with_target", [True, False])
@pytest.mark.parametrize("hint_size", [1, 2, 5])
@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_outputs_and_gradients_are_those_of_the_chain(estimator: str, hint_size: int, with_target: bool):
    inputs = in_float64(make_inputs(3, 7, 9))
    if not with_target:
        inputs = inputs._replace(target=None)
    settings = {"estimator": estimator, "hint_size": hint_size}
    for only in (None, *DIFFERENTIABLE):
        found = evaluate(fused(**settings), inputs, only)
        assert_equal_chain(found, evaluate(chain(**settings), inputs, only), **CLOSE)


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
@pytest.mark.parametrize("batch", [1, 7])
def test_photos_are_handled_in_parts(estimator: str, batch: int, monkeypatch: pytest.MonkeyPatch):
    """Three photos of 35 pixels at a time, so that the last part is smaller than the others."""
    monkeypatch.setattr(cpu, "_CACHE_PIXELS", 110)
    inputs = in_float64(make_inputs(batch, 5, 7))
    settings = {"estimator": estimator, "hint_size": 2}
    assert_equal_chain(evaluate(fused(**settings), inputs), evaluate(chain(**settings), inputs), **CLOSE)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 1), (2, 1, 9), (2, 9, 1), (1, 2, 2)])
@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_photos_of_one_row_column_or_pixel(estimator: str, shape: tuple[int, int, int]):
    inputs = in_float64(make_inputs(*shape))
    settings = {"estimator": estimator, "hint_size": 2}
    assert_equal_chain(evaluate(fused(**settings), inputs), evaluate(chain(**settings), inputs), **CLOSE)


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_what_is_differentiable_passes_gradcheck(estimator: str):
    inputs = in_float64(make_inputs(2, 2, 4))
    spread = ["clicks"] if estimator == "gumbel_softmax_soft" else []

    def outputs(logits: Tensor) -> tuple[Tensor, ...]:
        click = fused(estimator=estimator, hint_size=2)(inputs._replace(logits=logits))
        return tuple(getattr(click, name) for name in [*spread, *DIFFERENTIABLE[1:]])

    assert torch.autograd.gradcheck(outputs, inputs.logits.requires_grad_())


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_an_empty_batch_gives_empty_results(estimator: str):
    inputs = make_inputs(2, 3, 5).rows(slice(0))
    found = evaluate(fused(estimator=estimator), inputs)
    assert found.click.clicks.shape == (0, 3, 3, 5)
    assert found.click.choice.shape == (0,)
    assert found.gradient.shape == (0, 3, 5)


@pytest.mark.parametrize(
    ("temperature", "scale", "offset"),
    [(1e-3, 1.0, 0.0), (1e-3, 1e4, 0.0), (1.0, 1e4, 0.0), (1e3, 1e4, 0.0), (1.0, 3.0, 1e4), (1.0, 3.0, -1e4)],
)
@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_extreme_temperatures_and_logits_cost_no_precision(
    estimator: str, temperature: float, scale: float, offset: float
):
    inputs = make_inputs(4, 9, 11, scale=scale)
    inputs = inputs._replace(logits=inputs.logits + offset)
    settings = {"estimator": estimator, "temperature": temperature}
    assert_as_exact_as_eager(fused(**settings), inputs, gumbel, **settings)


@pytest.mark.parametrize("tau", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_extreme_tau(estimator: str, tau: float):
    settings = {"estimator": estimator, "tau": tau}
    assert_as_exact_as_eager(fused(**settings), make_inputs(4, 9, 11), gumbel, **settings)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_half_precision_logits(estimator: str, dtype: torch.dtype):
    inputs = make_inputs(4, 9, 11, dtype=dtype)
    assert_as_exact_as_eager(fused(estimator=estimator), inputs, gumbel, estimator=estimator)


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_minus_infinity_in_some_or_all_free_pixels(estimator: str):
    inputs = make_inputs(2, 5, 6)._replace(target=None)
    inputs.logits[0, 1::2] = -torch.inf
    inputs.logits[1] = -torch.inf
    assert_as_exact_as_eager(fused(estimator=estimator), inputs, gumbel, estimator=estimator)
    gradient = evaluate(fused(estimator=estimator), inputs).gradient
    assert not gradient[inputs.logits == -torch.inf].any()
