"""Estimators against exact enumeration, gradcheck in float64, and the promises about 65,536 pixels."""

import math
from itertools import product
from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor

from kernels.estimators import (
    ESTIMATORS,
    NEEDS_CONDITIONAL_NOISE,
    NEEDS_NOISE,
    EstimatorName,
    Selection,
    choose,
    entropy,
    heatmap,
    kl_divergence,
    leave_one_out_loss,
    log_heatmap,
    log_probability,
)
from kernels.noise import gumbel, sample_keys

HARD = sorted(set(ESTIMATORS) - {"gumbel_softmax_soft"})
SHAPE = (1, 1, 5)
THETA = torch.tensor([[[0.3, -0.5, 1.1, 0.2, -0.9]]], dtype=torch.float64)
NOTHING_TAKEN = torch.zeros(SHAPE, dtype=torch.bool)


def jacobian(p: np.ndarray) -> np.ndarray:
    """J(p) = diag(p) - p p^T, the derivative of a softmax."""
    return np.diag(p) - np.outer(p, p)


def draws(batch: int, height: int, width: int) -> dict[str, Any]:
    """Noise and three draws of conditional noise, as keyword arguments of `choose`."""
    keys = sample_keys(0, 0, batch)
    noise = torch.stack([gumbel(keys, 0, height * width, draw) for draw in range(4)])
    noise = noise.view(4, batch, height, width)
    return {"noise": noise[0], "conditional_noise": noise[1:]}


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
@pytest.mark.parametrize("estimator", HARD)
def test_hard_selections_are_exactly_one_hot_at_65536_pixels(estimator: str, dtype: torch.dtype):
    logits = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    taken = torch.zeros(2, 256, 256, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        selection = choose(logits, taken, estimator=estimator, tau=0.5, **draws(2, 256, 256))
    weights = selection.weights.detach()
    assert weights.dtype == torch.float32
    assert set(weights.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(weights.flatten(1).argmax(1), selection.choice)
    assert torch.equal(weights.sum((1, 2)), torch.ones(2))
    assert selection.weights.requires_grad == (estimator != "reinforce")


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_float64_stays_float64_and_agrees_with_float32(estimator: str):
    logits = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0))
    taken = torch.zeros(2, 6, 6, dtype=torch.bool)
    taken[:, 3] = True
    gradients = []
    for dtype in (torch.float32, torch.float64):
        leaf = logits.to(dtype, copy=True).requires_grad_()
        gradients.append(all_gradients(leaf, taken, estimator, temperature=0.8, tau=0.5)[1])
        assert gradients[-1].dtype == dtype
    torch.testing.assert_close(gradients[0].double(), gradients[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_no_estimator_ever_chooses_a_clicked_pixel(estimator: str):
    generator = torch.Generator().manual_seed(3)
    taken = torch.rand(64, 6, 6, generator=generator) < 0.9
    taken[:, 2, 2] = False
    logits = torch.where(taken, 50.0, torch.randn(64, 6, 6, generator=generator))
    logits[:20, :3] = -torch.inf
    logits[:10] = -torch.inf
    selection = choose(logits, taken, estimator=estimator, tau=0.1, **draws(64, 6, 6))
    assert not taken.flatten(1).gather(1, selection.choice[:, None]).any()
    assert not selection.weights[taken].any()


def all_gradients(
    logits: Tensor, taken: Tensor, estimator: str, *, temperature: float, tau: float
) -> tuple[Selection, Tensor]:
    """A selection, and the gradient of everything at once: weights, entropy, and the score-function loss."""
    noise = draws(*logits.shape)
    selection = choose(logits, taken, estimator=estimator, temperature=temperature, tau=tau, **noise)
    heat = log_heatmap(logits, temperature, taken)
    g = torch.linspace(-1, 1, logits[0].numel(), dtype=logits.dtype).view(logits.shape[1:])
    losses = torch.stack([(selection.weights * g).sum((1, 2)), torch.zeros(len(logits), dtype=logits.dtype)])
    score = leave_one_out_loss(losses, log_probability(heat, selection.choice).expand(2, -1))
    (score + entropy(heat).sum()).backward()
    assert logits.grad is not None
    return selection, logits.grad


@pytest.mark.parametrize(
    ("estimator", "temperature", "scale"), list(product(ESTIMATORS, [1e-3, 1.0, 1e3], [0.0, 1.0, 1e4]))
)
@pytest.mark.parametrize("lost", ["none", "some", "all"])
def test_extreme_logits_and_temperatures_give_no_nan(estimator: str, temperature: float, scale: float, lost: str):
    logits = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0)) * scale
    taken = torch.zeros(2, 8, 8, dtype=torch.bool)
    taken[:, 0] = True
    if lost != "none":
        logits[:, 4 if lost == "some" else slice(None)] = -torch.inf
    selection, gradient = all_gradients(
        logits.requires_grad_(), taken, estimator, temperature=temperature, tau=0.1
    )
    assert torch.isfinite(selection.weights).all()
    assert torch.isfinite(gradient).all()


def test_free_pixels_that_are_all_minus_infinity_are_equally_likely():
    taken = torch.tensor([[[True, False, False, False, True]]])
    heat = heatmap(torch.full(SHAPE, -torch.inf), 1.0, taken)
    torch.testing.assert_close(heat, torch.tensor([[[0.0, 1 / 3, 1 / 3, 1 / 3, 0.0]]]))


def test_the_log_probability_is_that_of_the_chosen_pixel():
    logits = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
    chosen = log_probability(log_heatmap(logits, 2.0), torch.tensor([0, 7, 9]))
    expected = special.log_softmax(logits.flatten(1).numpy() / 2.0, axis=1)[[0, 1, 2], [0, 7, 9]]
    np.testing.assert_allclose(chosen, expected, rtol=1e-6)


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
        ({"estimator": "reinmax"}, "needs Gumbel noise"),
        ({"estimator": "reinforce"}, "needs Gumbel noise"),
        ({"estimator": "gumbel_rao", "conditional_noise": torch.zeros(3, 1, 2, 2)}, "needs Gumbel noise"),
        ({"estimator": "gumbel_rao", "noise": torch.zeros(1, 2, 2)}, "pass conditional_noise"),
        ({"estimator": "gumbel_rao", "conditional_noise": torch.zeros(0, 1, 2, 2)}, "pass conditional_noise"),
    ],
)
def test_wrong_settings_are_named(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        choose(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool), **change)


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_a_photo_without_a_free_pixel_is_an_error(estimator: str):
    taken = torch.zeros(2, 2, 2, dtype=torch.bool)
    taken[1] = True
    with pytest.raises(ValueError, match="all pixels of 1 of 2 photos are clicked"):
        choose(torch.zeros(2, 2, 2), taken, estimator=estimator, **draws(2, 2, 2))


def test_the_names_of_the_estimators_agree():
    assert set(ESTIMATORS) == set(get_args(EstimatorName))
    assert set(ESTIMATORS) >= NEEDS_NOISE >= NEEDS_CONDITIONAL_NOISE
