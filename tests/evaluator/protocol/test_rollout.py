from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from evaluator.policies import MaxErrorPolicy, Policy, State, make
from evaluator.protocol import rollout as module
from evaluator.protocol.rollout import Photos, RolloutStep, before_clicks, rollout
from tests.evaluator.conftest import spread_clicks

BLIND_TO_COLORS = ["random", "gaussian", "grid", "farthest"]


@pytest.fixture
def batch(photos) -> Photos:
    return Photos.from_rgb(photos[:3], seed=1, first_index=4)


@dataclass
class Counting:
    """A colorizer that notes how many clicks each call was given."""

    calls: list[int] = field(default_factory=list)

    def __call__(self, lightness: Tensor, clicks: Tensor) -> Tensor:
        self.calls.append(int(clicks[0, 0].sum()))
        return spread_clicks(lightness, clicks)


def played(
    policy: Policy, batch: Photos, budgets: tuple[int, ...], **settings
) -> tuple[list[RolloutStep], list[int]]:
    """The moments at the budgets, and the clicks in each call of the colorizer."""
    colorizer = Counting()
    return list(rollout(colorizer, policy, batch, budgets=budgets, **settings)), colorizer.calls


@pytest.mark.parametrize("name", BLIND_TO_COLORS)
@pytest.mark.parametrize("hint_size", [1, 6])
def test_jumping_to_a_budget_gives_the_map_of_going_there_click_by_click(batch, name, hint_size):
    (jumped,), _ = played(make(name), batch, (7,), hint_size=hint_size)
    stepwise, _ = played(make(name), batch, (1, 2, 3, 4, 5, 6, 7), hint_size=hint_size)
    assert torch.equal(jumped.clicks, stepwise[-1].clicks)
    assert torch.equal(jumped.positions, stepwise[-1].positions)
    assert torch.equal(jumped.predicted_ab, stepwise[-1].predicted_ab)


@pytest.mark.parametrize(
    ("name", "with_previous", "expected"),
    [
        ("grid", False, [2, 3, 6]),
        ("grid", True, [1, 2, 3, 5, 6]),
        ("max-error", False, [0, 1, 2, 3, 4, 5, 6]),
        ("max-error", True, [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_the_colorizer_is_called_only_where_its_colors_are_looked_at(batch, name, with_previous, expected):
    _, calls = played(make(name), batch, (2, 3, 6), with_previous=with_previous)
    assert calls == expected


def test_a_shared_start_is_not_colored_again(batch):
    start = before_clicks(spread_clicks, batch)
    steps, calls = played(make("max-error"), batch, (0, 1), start=start)
    assert steps[0] is start
    assert calls == [1]


@pytest.mark.parametrize("name", ["grid", "max-error"])
def test_previous_colors_are_those_just_before_the_newest_click(batch, name):
    steps, _ = played(make(name), batch, (0, 1, 4, 5), with_previous=True)
    every, _ = played(make(name), batch, (0, 1, 2, 3, 4, 5))
    assert steps[0].previous_ab is None
    for step, before in zip(steps[1:], (0, 3, 4), strict=True):
        assert step.previous_ab is not None
        assert torch.equal(step.previous_ab, every[before].predicted_ab)
    assert all(step.previous_ab is None for step in every)


def test_moments_stay_as_they_were_while_the_rollout_goes_on(batch):
    steps = rollout(spread_clicks, MaxErrorPolicy(), batch, budgets=(1, 2))
    first = next(steps)
    before = first.clicks.clone(), first.positions.clone(), first.predicted_ab.clone()
    next(steps)
    assert all(map(torch.equal, before, (first.clicks, first.positions, first.predicted_ab)))


@dataclass(frozen=True)
class Watching:
    """Notes what it is shown, and clicks in the first corner."""

    needs_prediction: bool
    needs_truth: bool
    needs_colorizer: bool
    shown: list[State] = field(default_factory=list)

    def choose(self, state: State) -> Tensor:
        self.shown.append(state)
        return torch.full_like(state.keys, state.step)


@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True)])
def test_a_policy_is_shown_only_what_it_declares_to_need(batch, needs):
    policy = Watching(*needs)
    played(policy, batch, (3,), hint_size=2)
    for step, state in enumerate(policy.shown):
        fields = state.predicted_ab, state.truth_ab, state.colorize
        assert tuple(value is not None for value in fields) == needs
        assert (state.step, state.hint_size) == (step, 2)
        assert state.positions.tolist() == [list(range(step))] * 3


def test_choosing_and_coloring_are_timed_and_what_the_caller_does_is_not(batch, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])

    def colorizer(lightness, clicks):
        clock[0] += 2.0
        return spread_clicks(lightness, clicks)

    class Slow(Watching):
        def choose(self, state: State) -> Tensor:
            clock[0] += 0.5
            return super().choose(state)

    seconds = []
    for step in rollout(colorizer, Slow(False, False, False), batch, budgets=(0, 1, 4)):
        seconds.append(step.seconds)
        clock[0] += 100.0
    assert seconds == [0.0, 2.5, 6.0]


def test_a_rollout_says_when_no_pixel_is_left(batch):
    with pytest.raises(ValueError, match="of 3 photos are clicked; ask for fewer clicks"):
        played(make("random"), batch, (30,), hint_size=15)
