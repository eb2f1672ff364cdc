from dataclasses import replace

import pytest
import torch

from evaluator.policies import Imagination, UncertaintyPolicy, make
from evaluator.policies.oracle import BLUR, INHIBITION, peak
from kernels.clicks import clicked
from tests.evaluator.policies.states import click, colors, place_of, state_of


def test_a_part_that_no_imagined_click_can_change_is_never_chosen():
    """A colorizer that listens to clicks in its right half only, and colors that half alone."""

    def half_deaf(lightness, clicks):
        right = torch.zeros_like(clicks[:, 1:])
        right[:, :, :, 20:] = clicks[:, 1:, :, 20:].mean((2, 3), keepdim=True)
        return right

    state = state_of(3, 40, 40)
    state = replace(state, predicted_ab=half_deaf(state.lightness, state.clicks), colorize=half_deaf)
    for _ in range(3):
        choice = UncertaintyPolicy(imagination=Imagination(imagined=8)).choose(state)
        assert all(col >= 20 for _, col in place_of(state, choice))
        state = click(state, choice)


def test_imagined_clicks_are_the_present_colors_with_the_stated_noise_on_unclicked_pixels():
    state = click(state_of(200, 6, 6), torch.full((200,), 14))
    predicted, _ = colors(state)
    seen = []

    def listening(lightness, clicks):
        seen.append(clicks)
        return predicted

    UncertaintyPolicy(imagination=Imagination(members=4, imagined=2, sigma=8.0)).choose(
        replace(state, colorize=listening)
    )
    assert len(seen) == 4
    clicks = torch.stack(seen)
    new = clicked(clicks.flatten(0, 1)).view(4, 200, 6, 6) & ~clicked(state.clicks)
    assert set(new.flatten(2).sum(2).unique().tolist()) <= {1, 2}  # both may fall on one pixel
    assert torch.equal(clicks[:, :, :, 2, 2], state.clicks[:, :, 2, 2].expand(4, -1, -1))
    noise = (clicks[:, :, 1:] - predicted)[new[:, :, None].expand(-1, -1, 2, -1, -1)] * 128
    assert abs(noise.mean()) < 0.6
    assert noise.std().item() == pytest.approx(8.0, rel=0.06)


def test_it_is_the_blurred_mean_square_change_away_from_clicks():
    state = click(state_of(2, 20, 20), torch.tensor([30, 200]))
    predicted, _ = colors(state)
    answers = [predicted + 0.1 * torch.randn(predicted.shape) for _ in range(3)]
    remaining = list(answers)
    policy = UncertaintyPolicy(imagination=Imagination(members=3))
    choice = policy.choose(replace(state, colorize=lambda lightness, clicks: remaining.pop(0)))
    change = torch.stack([(answer - predicted).double().square().sum(1) for answer in answers]).mean(0)
    expected = peak(change, clicked(state.clicks), blur=BLUR, inhibition=INHIBITION)
    assert torch.equal(choice, expected)
    assert remaining == []


def test_a_colorizer_with_an_uncertainty_of_its_own_is_asked_for_it():
    class Certain:
        def __call__(self, lightness, clicks):
            raise AssertionError("nothing needs to be coloured")

        def uncertainty(self, lightness, clicks):
            at = torch.zeros_like(lightness[:, 0])
            at[:, 9, 4] = 1.0
            return at

    policy = make("uncertainty", colorizer=Certain())
    assert not policy.needs_prediction
    assert not policy.needs_colorizer
    state = replace(state_of(), predicted_ab=None, truth_ab=None, colorize=None)
    assert place_of(state, policy.choose(state)) == [(9, 4)] * 4


@pytest.mark.parametrize("settings", [{"members": 0}, {"imagined": 0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is 0; it must be at least 1"):
        Imagination(**settings)
