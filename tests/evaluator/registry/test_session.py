"""Photos are looked at once, whatever is clicked, and every number is what the plain network gives."""

import inspect
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evaluator.policies import GuidePolicy, RandomPolicy
from evaluator.policies.greedy import GreedyPolicy
from evaluator.protocol.evaluate import Protocol, evaluate
from evaluator.protocol.rollout import Photos, before_clicks, rollout
from evaluator.registry.session import PhotoSession, SplitColorizer
from tests.evaluator.conftest import spread_clicks
from tests.evaluator.policies.states import state_of
from tests.trainer.split_networks import click_map, guide_head, photos, split_network
from trainer.networks import Coloring, ColorNet, SplitColorNet

RGB = torch.randint(0, 256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


class Counted(SplitColorNet):
    """A split network that counts what it does."""

    looked: int
    answered: int

    @classmethod
    def new(cls) -> "Counted":
        network = split_network()
        network.__class__ = cls
        assert isinstance(network, Counted)
        network.looked = network.answered = 0
        return network

    def embed(self, lightness: Tensor) -> Any:
        self.looked += len(lightness)
        return super().embed(lightness)

    def color(self, embedding: Any, lightness: Tensor, clicks: Tensor) -> Coloring:
        self.answered += len(clicks)
        return super().color(embedding, lightness, clicks)


class Plain(nn.Module):
    """A colorizer that does not say that it is split."""

    def __init__(self) -> None:
        super().__init__()
        self.network = split_network()

    def forward(self, lightness: Tensor, clicks: Tensor) -> Tensor:
        return self.network(lightness, clicks)


def batch(count: int = 3) -> Photos:
    return Photos.from_rgb(RGB[:count], seed=0, first_index=0)


@torch.no_grad()
def test_a_session_gives_what_the_network_gives():
    network = split_network()
    lightness, truth_ab = photos(3, 64, 96)
    session = PhotoSession(network, lightness)
    for count in (0, 5, 40):
        clicks = click_map(truth_ab, count)
        expected = network(lightness, clicks)
        ab, features = session.look(clicks)
        assert torch.allclose(ab, expected, atol=1e-5)
        assert features is not None
        assert features.shape == (3, network.feature_channels, 16, 24)
        assert torch.equal(session(lightness, clicks), ab)
    rows = torch.tensor([2, 0, 0, 1, 2])
    clicks = torch.cat([click_map(truth_ab[row : row + 1], 4, seed=n) for n, row in enumerate(rows.tolist())])
    assert torch.allclose(session.rows(rows, clicks), network(lightness[rows], clicks), atol=1e-5)
    other = lightness.flip(-1)
    clicks = click_map(truth_ab, 3)
    assert torch.allclose(session(other, clicks), network(other, clicks), atol=1e-5)


@torch.no_grad()
def test_a_session_of_one_photo_answers_any_number_of_maps():
    network = Counted.new()
    lightness, truth_ab = photos(1, 64, 64)
    session = PhotoSession(network, lightness)
    clicks = torch.cat([click_map(truth_ab, count, seed=count) for count in range(6)])
    found = session.rows(torch.zeros(6, dtype=torch.int64), clicks)
    assert torch.allclose(found, network(lightness.expand(6, -1, -1, -1), clicks), atol=1e-5)
    assert (network.looked, network.answered) == (1, 6)


@torch.no_grad()
def test_other_colorizers_have_sessions_too():
    torch.manual_seed(0)
    lightness, truth_ab = photos(2, 32, 32)
    clicks = click_map(truth_ab, 3)
    for colorizer in (ColorNet((4, 6)).eval(), spread_clicks):
        session = PhotoSession(colorizer, lightness)
        ab, features = session.look(clicks)
        assert features is None
        assert torch.equal(ab, colorizer(lightness, clicks))
        rows = torch.tensor([1, 1, 0])
        assert torch.equal(session.rows(rows, clicks[rows]), colorizer(lightness[rows], clicks[rows]))
    assert isinstance(split_network(), SplitColorizer)
    for name in ("embed", "color", "distribution", "bins"):  # as isinstance looks for them from Python 3.12 on
        assert inspect.getattr_static(split_network(), name) is not None
    assert not isinstance(ColorNet((4, 6)), SplitColorizer)


def test_a_network_in_training_mode_is_refused():
    lightness, truth_ab = photos(1, 64, 64)
    with pytest.raises(ValueError, match=r"is in training mode; call \.eval\(\)"):
        PhotoSession(split_network().train(), lightness).look(click_map(truth_ab, 1))


@torch.no_grad()
def test_a_rollout_looks_at_each_photo_once():
    network, photos_ = Counted.new(), batch()
    start = before_clicks(network, photos_)
    assert (network.looked, network.answered) == (3, 3)
    network.looked = network.answered = 0
    session = PhotoSession(network, photos_.lightness)
    start = before_clicks(session, photos_)
    policies = {"random": RandomPolicy(), "greedy": GreedyPolicy(side=3)}
    for policy in policies.values():
        moments = list(rollout(session, policy, photos_, start, budgets=(1, 2)))
        assert all(moment.features is not None for moment in moments)
    assert network.looked == 3
    assert network.answered == 3 + 2 * 3 + 2 * (3 + 3 * 9)  # the start, colors after each click, greedy's trials


def test_the_protocol_gives_a_split_network_the_numbers_of_a_plain_one():
    """Random clicks, trials with the colorizer, and a guide that looks for itself."""

    def guide(lightness: Tensor, predicted_ab: Tensor, clicks: Tensor, truth_ab: Tensor | None) -> Tensor:
        return predicted_ab.square().sum(1) + lightness[:, 0]

    def measured(colorizer: nn.Module) -> Any:
        policies = {
            "random": RandomPolicy(), "greedy": GreedyPolicy(side=2), "guide": GuidePolicy(guide=guide, blind=True)
        }  # fmt: skip
        return evaluate(colorizer, policies, RGB, Protocol(clicks=(0, 1, 3), hint_size=3), metrics=("ab_psnr",))

    network = Counted.new()
    split, plain = measured(network), measured(Plain().eval())
    assert network.looked == len(RGB)
    for policy in split.policies:
        np.testing.assert_array_equal(split.positions(policy), plain.positions(policy), policy)
        np.testing.assert_allclose(split.values(policy, "ab_psnr"), plain.values(policy, "ab_psnr"), atol=1e-4)


@torch.no_grad()
def test_a_guide_that_reads_features_is_given_those_of_the_present_colors():
    network, photos_, guide = split_network(), batch(), guide_head("blind")
    session = PhotoSession(network, photos_.lightness)
    policy = GuidePolicy(guide=guide, blind=True)
    clicks, positions = torch.zeros(3, 3, 64, 64), []
    for _ in range(3):
        ab, features = network.color(network.embed(photos_.lightness), photos_.lightness, clicks)
        scores = guide(photos_.lightness, ab, clicks, features=features).masked_fill(clicks[:, 0] > 0, -torch.inf)
        chosen = scores.flatten(1).argmax(1)
        positions.append(chosen)
        clicks = clicks.clone()
        for n, place in enumerate(chosen.tolist()):
            row, col = place // 64, place % 64
            clicks[n, 0, row, col] = 1
            clicks[n, 1:, row, col] = photos_.truth_ab[n, :, row, col]
    *_, last = rollout(session, policy, photos_, budgets=(3,))
    assert torch.equal(last.positions, torch.stack(positions, 1))


def test_a_guide_that_reads_features_says_where_there_are_none():
    state = replace(state_of(height=64, width=64), features=None)
    with pytest.raises(ValueError, match="features"):
        GuidePolicy(guide=guide_head("blind"), blind=True).choose(state)


@pytest.mark.parametrize("dtype", [torch.bfloat16])
@torch.no_grad()
def test_autocast_goes_for_both_parts(dtype: torch.dtype):
    network = split_network()
    lightness, truth_ab = photos(2, 64, 64)
    clicks = click_map(truth_ab, 5)
    with torch.autocast("cpu", dtype):
        expected = network(lightness, clicks)
    ab, features = PhotoSession(network, lightness, dtype).look(clicks)
    assert torch.equal(ab, expected)
    assert ab.dtype == torch.float32
    assert features is not None
    assert features.dtype == torch.float32
    assert not torch.equal(ab, network(lightness, clicks))
