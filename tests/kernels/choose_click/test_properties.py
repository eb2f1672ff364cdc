"""What must hold for any photos: the algebra of a click."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.choose_click import choose_click
from kernels.clicks import clicked, place_clicks
from kernels.estimators import ESTIMATORS
from tests.kernels.choose_click.positions import triton_on
from tests.kernels.choose_click.references import DIFFERENTIABLE, Inputs, evaluate, fused, make_inputs

HARD = sorted(set(ESTIMATORS) - {"gumbel_softmax_soft"})
CALLS = st.fixed_dictionaries(
    {
        "estimator": st.sampled_from(sorted(ESTIMATORS)),
        "temperature": st.floats(0.05, 20.0),
        "tau": st.floats(0.1, 5.0),
        "hint_size": st.integers(1, 4),
        "stream": st.integers(0, 2**32 - 1),
        "samples": st.integers(1, 3),
    }
)
PHOTOS = st.builds(
    make_inputs,
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(1, 7),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([0.0, 1.0, 30.0]),
)
many = settings(max_examples=60, deadline=None, derandomize=True)
few = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def check_algebra(inputs: Inputs, call: dict[str, Any]) -> None:
    click, gradient = evaluate(fused(**call), inputs, only="clicks")
    taken = clicked(inputs.clicks)
    assert not taken.flatten(1).gather(1, click.choice[:, None]).any()
    assert not gradient[taken].any()
    # Every estimator's Jacobian is a softmax's: what one pixel gains the others lose. In float32, terms of up to
    # 1 / (T tau) = 200 cancel.
    lost = gradient.double().sum((1, 2)).abs() / gradient.double().abs().sum((1, 2)).clamp(min=1.0)
    assert lost.max() < 1e-3
    if call["estimator"] in HARD:
        assert (clicked(click.clicks) | ~taken).all()
        expected = place_clicks(inputs.clicks, inputs.truth_ab, click.choice, call["hint_size"])
        torch.testing.assert_close(click.clicks, expected, rtol=1e-5, atol=1e-6)
    assert click.heatmap is not None
    assert not click.heatmap[taken].any()
    torch.testing.assert_close(click.heatmap.sum((1, 2)), torch.ones(len(taken)), rtol=1e-4, atol=1e-5)
    assert (click.log_probability <= 1e-5).all()
    assert (click.entropy >= -1e-5).all()
    assert click.divergence is not None
    assert (click.divergence >= -1e-4).all()


@given(inputs=PHOTOS, call=CALLS)
@many
def test_a_click_on_a_cpu(inputs: Inputs, call: dict[str, Any]):
    check_algebra(inputs, call)


@given(inputs=PHOTOS, call=CALLS, block=st.sampled_from([None, 16]))
@few
def test_a_click_with_the_kernels(inputs: Inputs, call: dict[str, Any], block: int | None):
    with triton_on("cpu", block):
        check_algebra(inputs, call)


@given(inputs=PHOTOS, call=CALLS, order=st.randoms(use_true_random=False))
@many
def test_photos_do_not_know_of_each_other(inputs: Inputs, call: dict[str, Any], order: Any):
    """In another order, and one by one, they get the same."""
    rows = list(range(len(inputs.logits)))
    order.shuffle(rows)
    together = fused(**call)(inputs)
    shuffled = fused(**call)(inputs.rows(rows))
    alone = [fused(**call)(inputs.rows([row])) for row in rows]
    for name in ("choice", *DIFFERENTIABLE):
        expected = getattr(together, name)[rows]
        torch.testing.assert_close(getattr(shuffled, name), expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(
            torch.cat([getattr(click, name) for click in alone]), expected, rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("estimator", HARD)
def test_clicks_follow_each_other_until_no_pixel_is_left(estimator: str):
    inputs = make_inputs(2, 3, 4)._replace(clicks=torch.zeros(2, 3, 3, 4), target=None)
    chosen = []
    for turn in range(12):
        click = fused(estimator=estimator, stream=turn)(inputs)
        inputs = inputs._replace(clicks=click.clicks.detach())
        chosen.append(click.choice)
    assert torch.equal(torch.stack(chosen).sort(0).values, torch.arange(12)[:, None].expand(-1, 2))
    torch.testing.assert_close(inputs.clicks[:, 1:], inputs.truth_ab)
    with pytest.raises(ValueError, match="all pixels of 2 of 2 photos"):
        choose_click(*inputs[:3])
