"""What holds for all policies alike."""

from dataclasses import replace

import pytest
import torch

from evaluator.policies import GUIDES, NAMES, Policy, make
from tests.evaluator.policies.states import click, colors, photo_of, state_of


def error_guide(lightness, predicted_ab, clicks, truth_ab):
    return (predicted_ab - truth_ab).square().sum(1)


def dark_guide(lightness, predicted_ab, clicks, truth_ab):
    assert truth_ab is None
    return -lightness[:, 0]


POLICIES = {
    **{name: make(name) for name in NAMES},
    "guide-blind": make("guide-blind", guide=dark_guide),
    "guide-oracle": make("guide-oracle", guide=error_guide),
}


@pytest.fixture(params=POLICIES.values(), ids=list(POLICIES))
def policy(request) -> Policy:
    return request.param


def test_every_name_is_tested_here():
    assert POLICIES.keys() == NAMES.keys() | GUIDES.keys()


def test_every_policy_meets_the_interface(policy):
    assert isinstance(policy, Policy)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 7), (2, 2), (1, 5), (1, 1)])
def test_a_policy_clicks_every_pixel_once_and_then_says_that_none_is_left(policy, height, width):
    state = state_of(2, height, width)
    for _ in range(height * width):
        state = click(state, policy.choose(state))
    for positions in state.positions:
        assert sorted(positions.tolist()) == list(range(height * width))
    with pytest.raises(ValueError, match="fewer clicks"):
        policy.choose(state)


def test_a_stamp_takes_its_whole_square(policy):
    state = state_of(3, 12, 9, hint_size=4)
    for _ in range(4):
        choice = policy.choose(state)
        assert not state.clicks[:, 0].flatten(1).gather(1, choice[:, None]).any()
        state = click(state, choice)


@pytest.mark.parametrize("clicks", [0, 3])
def test_a_choice_does_not_depend_on_the_batch_around_it(policy, clicks):
    state = state_of(4, 9, 9)
    for _ in range(clicks):
        state = click(state, policy.choose(state))
    together = policy.choose(state)
    assert [policy.choose(photo_of(state, i)).item() for i in range(4)] == together.tolist()


def test_a_choice_repeats_and_leaves_the_state_as_it_was(policy):
    state = click(state_of(4, 9, 9), torch.tensor([3, 22, 57, 80]))
    before = [x.clone() for x in (state.clicks, *colors(state))]
    assert torch.equal(policy.choose(state), policy.choose(state))
    assert all(map(torch.equal, before, (state.clicks, *colors(state))))


@pytest.mark.parametrize("field", ["predicted_ab", "truth_ab", "colorize"])
def test_a_policy_works_with_exactly_what_it_declares_to_need(policy, field):
    state = state_of(2, 9, 9)
    declared = {
        "predicted_ab": policy.needs_prediction,
        "truth_ab": policy.needs_truth,
        "colorize": policy.needs_colorizer,
    }
    without = replace(state, **{field: None})
    if declared[field]:
        with pytest.raises(ValueError, match=f"state.{field} is None; this policy needs it"):
            policy.choose(without)
    else:
        assert torch.equal(policy.choose(without), policy.choose(state))


def test_truth_free_policies_are_those_that_say_so():
    truth_free = {name for name, policy in POLICIES.items() if not policy.needs_truth}
    assert truth_free == {
        "random",
        "gaussian",
        "grid",
        "farthest",
        "uncertainty",
        "expected-reduction",
        "guide-blind",
    }
    for name, about in (NAMES | GUIDES).items():
        assert ("knows the true colours" in about) == (name not in truth_free)


def test_making_a_policy_of_another_name_or_with_the_wrong_parts_is_refused():
    with pytest.raises(ValueError, match=r"unknown policy 'guess'; choose from random, gaussian, .*guide-oracle"):
        make("guess")
    with pytest.raises(ValueError, match="'guide-blind' follows a learned guide, and none was given"):
        make("guide-blind")
    with pytest.raises(ValueError, match="'grid' follows no guide"):
        make("grid", guide=dark_guide)
