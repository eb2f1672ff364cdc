from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from evaluator.policies import GuidePolicy, MaxErrorPolicy, Policy, RandomPolicy, RegionCentrePolicy, State
from kernels.clicks import clicked, place_clicks
from kernels.noise import sample_keys


def state_of(batch: int = 4, size: int = 16, seed: int = 0, first: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    predicted, truth = torch.rand(2, batch, 2, size, size, generator=generator).sub(0.5).unbind()
    return State(
        lightness=torch.rand(batch, 1, size, size, generator=generator),
        clicks=torch.zeros(batch, 3, size, size),
        keys=sample_keys(7, first, batch),
        positions=torch.empty(batch, 0, dtype=torch.int64),
        predicted_ab=predicted,
        truth_ab=truth,
    )


def colours(state: State) -> tuple[torch.Tensor, torch.Tensor]:
    """Present and true colours of a state that has them."""
    assert state.predicted_ab is not None
    assert state.truth_ab is not None
    return state.predicted_ab, state.truth_ab


def after(state: State, placed: int) -> State:
    """The same state, but counted as after `placed` clicks."""
    return replace(state, positions=torch.zeros(len(state.keys), placed, dtype=torch.int64))


def click(state: State, choice: torch.Tensor) -> State:
    return replace(state, clicks=place_clicks(state.clicks, colours(state)[1], choice))


def error_guide(lightness, predicted_ab, clicks, truth_ab):
    return (predicted_ab - truth_ab).square().sum(1)


def dark_guide(lightness, predicted_ab, clicks, truth_ab):
    assert truth_ab is None
    return -lightness[:, 0]


POLICIES = {
    "random": RandomPolicy(),
    "blind": GuidePolicy(guide=dark_guide, blind=True),
    "oracle": GuidePolicy(guide=error_guide, blind=False),
    "max error": MaxErrorPolicy(),
    "region centre": RegionCentrePolicy(),
}


@pytest.fixture(params=POLICIES.values(), ids=list(POLICIES))
def policy(request) -> Policy:
    return request.param


def test_every_policy_meets_the_interface(policy):
    assert isinstance(policy, Policy)


def test_a_policy_clicks_every_pixel_once_and_then_says_that_none_is_left(policy):
    state = state_of(batch=3, size=4)
    seen = []
    for step in range(16):
        choice = policy.choose(after(state, step))
        seen.append(choice)
        state = click(state, choice)
    for positions in torch.stack(seen, dim=1):
        assert sorted(positions.tolist()) == list(range(16))
    with pytest.raises(ValueError, match="fewer clicks"):
        policy.choose(after(state, 16))


def test_a_choice_does_not_depend_on_the_batch_around_it(policy):
    whole = state_of()
    predicted, truth = colours(whole)
    together = policy.choose(whole)
    for i in range(4):
        alone = State(
            lightness=whole.lightness[i : i + 1],
            clicks=whole.clicks[i : i + 1],
            keys=whole.keys[i : i + 1],
            positions=whole.positions[i : i + 1],
            predicted_ab=predicted[i : i + 1],
            truth_ab=truth[i : i + 1],
        )
        assert policy.choose(alone).item() == together[i].item()


def test_a_policy_works_with_exactly_what_it_declares_to_need(policy):
    state = state_of()
    given = replace(
        state,
        predicted_ab=state.predicted_ab if policy.needs_prediction else None,
        truth_ab=state.truth_ab if policy.needs_truth else None,
    )
    assert torch.equal(policy.choose(given), policy.choose(state))
    if policy.needs_truth:
        with pytest.raises(ValueError, match="truth_ab is None"):
            policy.choose(replace(given, truth_ab=None))
    if policy.needs_prediction:
        with pytest.raises(ValueError, match="predicted_ab is None"):
            policy.choose(replace(given, predicted_ab=None))


def test_random_clicks_are_uniform_over_the_unclicked_pixels():
    state = state_of(batch=4000, size=4)
    taken = torch.tensor([0, 5, 6, 15])
    for pixel in taken:
        state = click(state, pixel.repeat(4000))
    counts = np.bincount(RandomPolicy().choose(after(state, 4)).numpy(), minlength=16)
    assert counts[taken.numpy()].sum() == 0
    assert stats.chisquare(np.delete(counts, taken.numpy())).pvalue > 0.01


def test_random_clicks_change_with_seed_and_step_but_repeat_otherwise():
    state = state_of(batch=8, size=32)
    choice = RandomPolicy().choose(state)
    assert torch.equal(choice, RandomPolicy().choose(state))
    assert not torch.equal(choice, RandomPolicy().choose(after(state, 1)))
    assert not torch.equal(choice, RandomPolicy().choose(replace(state, keys=sample_keys(8, 0, 8))))


def test_a_guide_is_followed_to_its_largest_logit_outside_of_clicked_pixels():
    state = state_of()
    policy = GuidePolicy(guide=dark_guide, blind=True)
    order = state.lightness.flatten(1).argsort(dim=1)
    assert torch.equal(policy.choose(state), order[:, 0])
    state = click(state, order[:, 0])
    assert torch.equal(policy.choose(state), order[:, 1])


def test_a_guide_in_training_mode_is_refused():
    class Guide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm2d(1)

        def forward(self, lightness, predicted_ab, clicks, truth_ab):
            return self.norm(lightness)[:, 0]

    guide = Guide()
    policy = GuidePolicy(guide=guide, blind=True)
    with pytest.raises(ValueError, match=r"'norm' \(BatchNorm2d\) is in training mode; call .eval\(\)"):
        policy.choose(state_of())
    guide.eval()
    policy.choose(state_of())


def test_a_guide_can_run_under_autocast_and_still_gives_a_choice():
    layer = torch.nn.Conv2d(1, 1, 3, padding=1)
    dtypes = []

    def guide(lightness, predicted_ab, clicks, truth_ab):
        logits = layer(lightness)[:, 0]
        dtypes.append(logits.dtype)
        return logits

    with torch.no_grad():
        GuidePolicy(guide=guide, blind=True).choose(state_of())
        GuidePolicy(guide=guide, blind=True, autocast=torch.bfloat16).choose(state_of())
    assert dtypes == [torch.float32, torch.bfloat16]


def test_max_error_takes_the_pixel_farthest_from_its_true_colour():
    state = state_of()
    predicted, truth = colours(state)
    error = np.linalg.norm(predicted.numpy() - truth.numpy(), axis=1).reshape(4, -1)
    assert MaxErrorPolicy().choose(state).tolist() == error.argmax(1).tolist()


def test_region_centre_takes_the_middle_of_the_largest_wrong_region():
    state = state_of(batch=1, size=32)
    predicted = colours(state)[1].clone()
    predicted[:, :, 4:13, 5:14] += 0.2  # 9 x 9 around (8, 9)
    predicted[:, :, 25, 25] += 0.9  # one pixel, far more wrong
    state = replace(state, predicted_ab=predicted)
    assert divmod(RegionCentrePolicy().choose(state).item(), 32) == (8, 9)
    assert divmod(MaxErrorPolicy().choose(state).item(), 32) == (25, 25)


def test_region_centre_keeps_away_from_earlier_clicks():
    state = state_of(batch=1, size=32)
    predicted = colours(state)[1].clone()
    predicted[:, :, 4:13, 5:14] += 0.2
    state = replace(state, predicted_ab=predicted)
    first = RegionCentrePolicy().choose(state)
    state = click(state, first)
    assert clicked(state.clicks).sum() == 1
    row, col = divmod(RegionCentrePolicy().choose(state).item(), 32)
    assert np.hypot(row - 8, col - 9) > 3
