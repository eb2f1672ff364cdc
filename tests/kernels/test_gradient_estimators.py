"""The estimators' gradients in float64: closed forms in numpy, and expectations by enumerating the choices."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor

from kernels.estimators import (
    choose,
    conditional_scores,
    heatmap,
    leave_one_out_loss,
    log_heatmap,
    log_probability,
)
from kernels.noise import gumbel, sample_keys

PIXELS = 5
THETA = torch.tensor([[[0.3, -0.5, 1.1, 0.2, -0.9]]], dtype=torch.float64)
PI = special.softmax(THETA.numpy().ravel())
SLOPE = torch.tensor([0.7, -1.3, 0.4, 2.0, -0.6], dtype=torch.float64)
CURVATURE = torch.randn(PIXELS, PIXELS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

Loss = Callable[[Tensor], Tensor]
"""From weights (b, 1, n) to a loss for each photo."""


def linear(weights: Tensor) -> Tensor:
    return weights.flatten(1) @ SLOPE


def quadratic(weights: Tensor) -> Tensor:
    flat = weights.flatten(1)
    return ((flat @ CURVATURE) * flat).sum(1) + flat @ SLOPE


def jacobian(p: np.ndarray) -> np.ndarray:
    """J(p) = diag(p) - p p^T, the derivative of a softmax."""
    return np.diag(p) - np.outer(p, p)


def exact_gradient(loss: Loss) -> np.ndarray:
    """The gradient of sum_i pi_i f(i) at the logits."""
    logits = THETA.clone().requires_grad_()
    (heatmap(logits, 1.0).flatten() * loss(torch.eye(PIXELS).double()[:, None])).sum().backward()
    assert logits.grad is not None
    return logits.grad.flatten().numpy()


def gradients(loss: Loss, estimator: str, noise: Tensor, **settings: Any) -> np.ndarray:
    """One estimate of the gradient at the logits for each row of noise."""
    logits = THETA.repeat(len(noise), 1, 1).requires_grad_()
    taken = torch.zeros(logits.shape, dtype=torch.bool)
    loss(choose(logits, taken, estimator=estimator, noise=noise, **settings).weights).sum().backward()
    assert logits.grad is not None
    return logits.grad.flatten(1).numpy()


def every_choice() -> Tensor:
    """Noise whose row i makes every sampled estimator choose pixel i."""
    return 100.0 * torch.eye(PIXELS, dtype=torch.float64)[:, None]


def gumbels(rows: int, seed: int, draws: int = 1) -> Tensor:
    """Independent Gumbel noise (draws, rows, 1, 5)."""
    keys = sample_keys(seed, 0, rows)
    return torch.stack([gumbel(keys, 0, PIXELS, draw) for draw in range(draws)]).double().unsqueeze(2)


def straight_through(loss: Loss) -> np.ndarray:
    """The mean of J(pi) grad f(D) over D ~ Cat(pi): ArgmaxSTE's gradient, with the choice sampled instead."""
    corners = torch.eye(PIXELS, dtype=torch.float64)[:, None].requires_grad_()
    (slopes,) = torch.autograd.grad(loss(corners).sum(), corners)
    estimates = [
        gradients(lambda w, g=g: (w * g).sum((1, 2)), "argmax_ste", every_choice()[:1])[0] for g in slopes
    ]
    return PI @ np.stack(estimates)


def test_straight_through_is_unbiased_for_a_linear_loss_only():
    np.testing.assert_allclose(straight_through(linear), exact_gradient(linear), rtol=0, atol=1e-15)
    assert np.abs(straight_through(quadratic) - exact_gradient(quadratic)).max() > 0.05


@pytest.mark.parametrize("loss", [linear, quadratic])
def test_reinmax_at_tau_1_is_unbiased_up_to_quadratic_losses(loss: Loss):
    mean = PI @ gradients(loss, "reinmax", every_choice())
    np.testing.assert_allclose(mean, exact_gradient(loss), rtol=0, atol=1e-15)


def test_reinmax_is_biased_for_a_cubic_loss_and_for_quadratic_losses_at_other_tau():
    def cubic(weights: Tensor) -> Tensor:
        return linear(weights) ** 3

    for loss, tau in ((cubic, 1.0), (quadratic, 0.5)):
        mean = PI @ gradients(loss, "reinmax", every_choice(), tau=tau)
        assert np.abs(mean - exact_gradient(loss)).max() > 0.01


@pytest.mark.parametrize(("temperature", "tau"), [(1.0, 1.0), (2.0, 0.5)])
def test_reinmax_backpropagates_its_formula(temperature: float, tau: float):
    estimates = gradients(linear, "reinmax", every_choice(), temperature=temperature, tau=tau)
    theta, g = THETA.numpy().ravel() / temperature, SLOPE.numpy()
    for i in range(PIXELS):
        s = (special.softmax(theta / tau) + np.eye(PIXELS)[i]) / 2
        expected = (2 * jacobian(s) @ g - jacobian(special.softmax(theta)) @ g / 2) / temperature
        np.testing.assert_allclose(estimates[i], expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("temperature", "tau"), [(1.0, 1.0), (2.0, 0.5)])
def test_gumbel_rao_backpropagates_its_formula(temperature: float, tau: float):
    conditional = gumbels(PIXELS, seed=1, draws=3)
    estimates = gradients(
        linear, "gumbel_rao", every_choice(), temperature=temperature, tau=tau, conditional_noise=conditional
    )
    pi, g = special.softmax(THETA.numpy().ravel() / temperature), SLOPE.numpy()
    for i in range(PIXELS):
        expected = np.zeros(PIXELS)
        for exponentials in np.exp(-conditional[:, i, 0].numpy()):
            z = -np.log(exponentials / pi + exponentials[i])
            z[i] = -np.log(exponentials[i])
            expected += jacobian(special.softmax(z / tau)) @ g / (3 * tau * temperature)
        np.testing.assert_allclose(estimates[i], expected, rtol=0, atol=1e-14)


def test_conditional_scores_have_the_law_of_perturbed_log_probabilities():
    """What was chosen has the largest score, and over choices from Cat(pi) each Z_j is log pi_j + Gumbel."""
    rows = 20000
    noise, conditional = gumbels(rows, seed=2, draws=2)
    log_pi = log_heatmap(THETA, 1.0).expand(rows, 1, PIXELS)
    choice = (log_pi + noise).flatten(1).argmax(1)
    scores = conditional_scores(log_pi, choice, conditional[None])[0].flatten(1)
    assert torch.equal(scores.argmax(1), choice)
    for pixel in range(PIXELS):
        law = stats.gumbel_r(loc=np.log(PI[pixel]))
        assert stats.kstest(scores[:, pixel].numpy(), law.cdf).pvalue > 1e-3


def test_conditional_scores_are_the_perturbed_ones_of_the_draws_that_chose_the_same():
    """Two-sample test against rejection: Gumbel draws of which only those with this argmax are kept."""
    noise, conditional = gumbels(20000, seed=3, draws=2)
    log_pi = log_heatmap(THETA, 1.0).expand(20000, 1, PIXELS)
    kept = (log_pi + noise).flatten(1)
    kept = kept[kept.argmax(1) == 3]
    scores = conditional_scores(log_pi, torch.full((20000,), 3), conditional[None])[0].flatten(1)
    for pixel in range(PIXELS):
        p_value = np.asarray(stats.ks_2samp(scores[:, pixel].numpy(), kept[:, pixel].numpy()))[1]
        assert p_value > 1e-3


def test_the_chosen_score_stays_the_largest_at_65536_pixels_in_float32():
    log_pi = log_heatmap(torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(0)) * 10, 1.0)
    noise = gumbel(sample_keys(0, 0, 2), 0, 65536).view(1, 2, 256, 256)
    choice = torch.tensor([7, 65535])
    scores = conditional_scores(log_pi, choice, noise)[0].flatten(1)
    assert torch.equal(scores.amax(1), scores.gather(1, choice[:, None])[:, 0])


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_gumbel_rao_has_the_mean_of_gumbel_softmax_and_less_variance(tau: float):
    rows, draws = 20000, 16
    noise = gumbels(rows, seed=4)[0]
    conditional = gumbels(rows, seed=5, draws=draws)
    plain = gradients(quadratic, "gumbel_softmax", noise, tau=tau)
    averaged = gradients(quadratic, "gumbel_rao", noise, tau=tau, conditional_noise=conditional)
    standard_error = np.sqrt((plain.var(0) + averaged.var(0)) / rows)
    assert np.all(np.abs(plain.mean(0) - averaged.mean(0)) < 4 * standard_error)
    assert averaged.var(0).sum() < 0.8 * plain.var(0).sum()


def test_gumbel_rao_with_many_draws_is_gumbel_softmax_conditioned_on_the_choice():
    noise = gumbels(60000, seed=6)[0]
    chosen = (THETA + noise).flatten(1).argmax(1).numpy()
    plain = gradients(quadratic, "gumbel_softmax", noise, tau=0.5)
    conditional = gumbels(20000 * PIXELS, seed=7).view(20000, PIXELS, 1, PIXELS)
    averaged = gradients(quadratic, "gumbel_rao", every_choice(), tau=0.5, conditional_noise=conditional)
    for pixel in range(PIXELS):
        same = plain[chosen == pixel]
        # Twice its variance covers the error of the 20,000 conditional draws too.
        standard_error = np.sqrt(2 * same.var(0) / len(same))
        assert np.all(np.abs(same.mean(0) - averaged[pixel]) < 4 * standard_error + 1e-12)


def score_gradient(losses: Tensor, choices: Tensor) -> np.ndarray:
    logits = THETA.clone().requires_grad_()
    heat = log_heatmap(logits, 1.0).expand(len(choices), 1, PIXELS)
    leave_one_out_loss(losses[:, None], log_probability(heat, choices)[:, None]).backward()
    assert logits.grad is not None
    return logits.grad.flatten().numpy()


@pytest.mark.parametrize("loss", [linear, quadratic])
def test_the_leave_one_out_gradient_is_exact_over_all_pairs(loss: Loss):
    values = loss(torch.eye(PIXELS).double()[:, None])
    mean = np.zeros(PIXELS)
    for pair in product(range(PIXELS), repeat=2):
        mean += PI[pair[0]] * PI[pair[1]] * score_gradient(values[list(pair)], torch.tensor(pair))
    np.testing.assert_allclose(mean, exact_gradient(loss), rtol=0, atol=1e-15)


def test_the_leave_one_out_loss_has_the_value_and_gradient_of_its_formula():
    losses = torch.tensor([[1.0, 4.0], [2.5, 4.0], [-1.0, 7.0]], dtype=torch.float64)
    log_probabilities = torch.full((3, 2), -2.0, dtype=torch.float64, requires_grad=True)
    loss = leave_one_out_loss(losses, log_probabilities)
    assert loss.item() == losses.mean().item()
    loss.backward()
    others = np.array([[0.75, 5.5], [0.0, 5.5], [1.75, 4.0]])
    assert log_probabilities.grad is not None
    np.testing.assert_allclose(log_probabilities.grad.numpy(), (losses.numpy() - others) / 6, rtol=1e-12)


def test_losses_that_depend_on_parameters_keep_their_own_gradient():
    losses = torch.tensor([[1.0], [3.0]], requires_grad=True)
    leave_one_out_loss(losses, torch.zeros(2, 1)).backward()
    assert losses.grad is not None
    assert torch.equal(losses.grad, torch.full((2, 1), 0.5))


def test_reinforce_weights_carry_no_gradient():
    logits = THETA.clone().requires_grad_()
    taken = torch.zeros(logits.shape, dtype=torch.bool)
    selection = choose(logits, taken, estimator="reinforce", noise=every_choice()[3:4])
    assert not selection.weights.requires_grad
    assert selection.choice.tolist() == [3]


def test_one_choice_has_no_other_one_to_compare_with():
    with pytest.raises(ValueError, match="k is 1; the leave-one-out baseline needs at least 2"):
        leave_one_out_loss(torch.zeros(1, 4), torch.zeros(1, 4))
