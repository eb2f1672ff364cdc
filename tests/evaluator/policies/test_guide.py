import pytest
import torch

from evaluator.policies import GuidePolicy
from tests.evaluator.policies.states import click, state_of


def dark_guide(lightness, predicted_ab, clicks, truth_ab):
    assert truth_ab is None
    return -lightness[:, 0]


def test_a_guide_is_followed_to_its_largest_logit_outside_of_clicked_pixels():
    state = state_of()
    policy = GuidePolicy(guide=dark_guide, blind=True)
    order = state.lightness.flatten(1).argsort(dim=1)
    assert torch.equal(policy.choose(state), order[:, 0])
    state = click(state, order[:, 0])
    assert torch.equal(policy.choose(state), order[:, 1])


def test_an_oracle_guide_is_given_the_truth():
    seen = []

    def guide(lightness, predicted_ab, clicks, truth_ab):
        seen.append(truth_ab)
        return lightness[:, 0]

    state = state_of()
    GuidePolicy(guide=guide, blind=False).choose(state)
    assert seen[0] is state.truth_ab


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
