"""Estimators against exact enumeration, gradcheck in float64, and the promises about 65,536 pixels."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor

from kernels.noise import gumbel, sample_keys
from kernels.reference import (
    ESTIMATORS,
    NEEDS_NOISE,
    choose,
    entropy,
    heatmap,
    kl_divergence,
    log_heatmap,
)

SHAPE = (1, 1, 5)
THETA = torch.tensor([[[0.3, -0.5, 1.1, 0.2, -0.9]]], dtype=torch.float64)
NOTHING_TAKEN = torch.zeros(SHAPE, dtype=torch.bool)


def jacobian(p: np.ndarray) -> np.ndarray:
    """J(p) = diag(p) - p p^T, the derivative of a softmax."""
    return np.diag(p) - np.outer(p, p)


def gradient_of(estimator: str, g: np.ndarray, temperature: float, tau: float, noise: Tensor | None) -> np.ndarray:
    logits = THETA.clone().requires_grad_()
    weights = choose(
        logits, NOTHING_TAKEN, estimator=estimator, temperature=temperature, tau=tau, noise=noise
    ).weights
    (weights * torch.from_numpy(g).view(SHAPE)).sum().backward()
    assert logits.grad is not None
    return logits.grad.flatten().numpy()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_argmax_ste_backpropagates_the_softmax_jacobian(temperature: float):
    g = np.array([0.7, -1.3, 0.4, 2.0, -0.6])
    pi = special.softmax(THETA.numpy().ravel() / temperature)
    expected = jacobian(pi) @ g / temperature
    np.testing.assert_allclose(gradient_of("argmax_ste", g, temperature, 1.0, None), expected, rtol=1e-12)


@pytest.mark.parametrize("estimator", ["gumbel_softmax", "gumbel_softmax_soft"])
@pytest.mark.parametrize(("temperature", "tau"), [(1.0, 1.0), (2.0, 0.5)])
def test_gumbel_softmax_backpropagates_its_relaxations_jacobian(estimator: str, temperature: float, tau: float):
    g = np.array([0.7, -1.3, 0.4, 2.0, -0.6])
    noise = gumbel(sample_keys(0, 0, 1), 0, 5).double().view(SHAPE)
    log_pi = special.log_softmax(THETA.numpy().ravel() / temperature)
    s = special.softmax((log_pi + noise.numpy().ravel()) / tau)
    expected = jacobian(s) @ g / (tau * temperature)
    np.testing.assert_allclose(gradient_of(estimator, g, temperature, tau, noise), expected, rtol=1e-9)


def test_the_hard_gumbel_choice_samples_the_heat_map():
    keys = sample_keys(5, 0, 20000)
    logits = THETA.expand(20000, 1, 5)
    taken = NOTHING_TAKEN.expand(20000, 1, 5)
    noise = gumbel(keys, 0, 5).view(20000, 1, 5)
    choice = choose(logits, taken, estimator="gumbel_softmax", temperature=1.0, tau=0.3, noise=noise).choice
    expected = 20000 * special.softmax(THETA.numpy().ravel())
    assert stats.chisquare(choice.bincount(minlength=5).numpy(), expected).pvalue > 1e-3


def test_the_straight_through_gradient_is_unbiased_for_a_linear_loss():
    """The exact gradient of E[f(D)], by enumerating the five choices, equals J(pi) g when f(D) = g . D.

    The expectation over a straight-through sample with D ~ Cat(pi) and gradient J(pi) g is that very value.
    """
    g = np.array([0.7, -1.3, 0.4, 2.0, -0.6])
    logits = THETA.clone().requires_grad_()
    pi = heatmap(logits, 1.0).flatten()
    sum(float(g[i]) * pi[i] for i in range(5)).backward()  # pyright: ignore[reportAttributeAccessIssue]: a tensor
    assert logits.grad is not None
    np.testing.assert_allclose(gradient_of("argmax_ste", g, 1.0, 1.0, None), logits.grad.flatten(), atol=3e-17)


def test_soft_selection_passes_gradcheck_with_taken_pixels():
    taken = torch.zeros(2, 2, 3, dtype=torch.bool)
    taken[0, 0, 1] = taken[1, 1, 2] = True
    noise = gumbel(sample_keys(0, 0, 2), 0, 6).double().view(2, 2, 3)
    logits = torch.randn(
        2, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )

    def weights(z: Tensor) -> Tensor:
        return choose(z, taken, estimator="gumbel_softmax_soft", temperature=0.7, tau=0.6, noise=noise).weights

    assert torch.autograd.gradcheck(weights, logits)


def test_entropy_and_divergence_pass_gradcheck_and_agree_with_scipy():
    taken = torch.zeros(2, 2, 3, dtype=torch.bool)
    taken[0, 0, 1] = True
    logits = torch.randn(
        2, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    target = torch.rand(2, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    target = target.masked_fill(taken, 0.0).masked_fill(target < 0.2, 0.0)
    target /= target.sum((1, 2), keepdim=True)

    def both(z: Tensor) -> tuple[Tensor, Tensor]:
        heat = log_heatmap(z, 1.3, taken)
        return entropy(heat), kl_divergence(target, heat)

    assert torch.autograd.gradcheck(both, logits)
    spread, divergence = both(logits.detach())
    for photo in range(2):
        h = heatmap(logits.detach(), 1.3, taken)[photo].flatten().numpy()
        assert spread[photo].item() == pytest.approx(stats.entropy(h))
        assert divergence[photo].item() == pytest.approx(stats.entropy(target[photo].flatten().numpy(), h))


def test_the_entropy_of_a_uniform_map_is_the_logarithm_of_its_pixels():
    assert entropy(log_heatmap(torch.zeros(1, 256, 256), 1.0)).item() == pytest.approx(math.log(65536), abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("estimator", ["argmax_ste", "gumbel_softmax"])
def test_hard_selections_are_exactly_one_hot_at_65536_pixels(estimator: str, dtype: torch.dtype):
    logits = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    noise = gumbel(sample_keys(0, 0, 2), 0, 65536).view(2, 256, 256)
    taken = torch.zeros(2, 256, 256, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        selection = choose(logits, taken, estimator=estimator, tau=0.5, noise=noise)
    weights = selection.weights.detach()
    assert weights.dtype == torch.float32
    assert set(weights.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(weights.flatten(1).argmax(1), selection.choice)
    assert torch.equal(weights.sum((1, 2)), torch.ones(2))
    selection.weights.square().sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_no_estimator_ever_chooses_a_clicked_pixel(estimator: str):
    generator = torch.Generator().manual_seed(3)
    taken = torch.rand(64, 6, 6, generator=generator) < 0.9
    taken[:, 2, 2] = False
    logits = torch.where(taken, 50.0, torch.randn(64, 6, 6, generator=generator))
    noise = gumbel(sample_keys(0, 0, 64), 0, 36).view(64, 6, 6)
    choice = choose(logits, taken, estimator=estimator, noise=noise).choice
    assert not taken.flatten(1).gather(1, choice[:, None]).any()


@pytest.mark.parametrize(
    ("estimator", "temperature", "scale"), list(product(ESTIMATORS, [1e-3, 1.0, 1e3], [0.0, 1.0, 1e4]))
)
def test_extreme_logits_and_temperatures_give_no_nan(estimator: str, temperature: float, scale: float):
    logits = (torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0)) * scale).requires_grad_()
    taken = torch.zeros(2, 8, 8, dtype=torch.bool)
    taken[:, 0] = True
    noise = gumbel(sample_keys(0, 0, 2), 0, 64).view(2, 8, 8)
    selection = choose(logits, taken, estimator=estimator, temperature=temperature, tau=0.1, noise=noise)
    heat = log_heatmap(logits, temperature, taken)
    (selection.weights.square().sum() + entropy(heat).sum()).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_half_precision_logits_are_computed_in_float32():
    logits = torch.tensor([[[0.0, 0.01, 10.0, 20.0]]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        selection = choose(logits.bfloat16(), torch.zeros(1, 1, 4, dtype=torch.bool))
    assert selection.weights.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimator": "argmax"}, "estimator is 'argmax'; choose one of argmax_ste"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"tau": -1.0}, "tau is -1.0"),
        ({"estimator": "gumbel_softmax"}, "needs Gumbel noise"),
    ],
)
def test_wrong_settings_are_named(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        choose(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool), **change)


def test_every_estimator_that_needs_noise_is_known():
    assert set(ESTIMATORS) >= NEEDS_NOISE
