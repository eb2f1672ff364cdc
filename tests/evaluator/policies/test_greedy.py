from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from evaluator.policies import ExpectedReductionPolicy, GreedyPolicy, Imagination, State
from evaluator.policies.greedy import candidates, principal_deviation
from evaluator.protocol.rollout import Photos, rollout
from evaluator.registry.session import PhotoSession
from kernels.clicks import clicked, place_clicks
from tests.evaluator.conftest import spread_clicks
from tests.evaluator.policies.states import click, colors, photo_of, place_of, state_of


def cell_of(place: tuple[int, int], height: int, width: int, side: int) -> tuple[int, int]:
    """By its definition: cell i of n begins at pixel i * length // n."""
    rows, cols = ([size * i // min(side, size) for i in range(min(side, size))] for size in (height, width))
    return sum(place[0] >= first for first in rows) - 1, sum(place[1] >= first for first in cols) - 1


@pytest.mark.parametrize(("height", "width"), [(16, 16), (13, 29), (4, 40), (1, 1)])
def test_there_is_one_unclicked_candidate_in_every_cell_of_the_grid(height, width):
    state = state_of(6, height, width)
    places, free = candidates(state, 6)
    assert free.all()
    expected = [(r, c) for r in range(min(6, height)) for c in range(min(6, width))]
    for photo in places.tolist():
        assert [cell_of(divmod(place, width), height, width, 6) for place in photo] == expected


def test_candidates_are_uniform_over_the_unclicked_pixels_of_their_cell():
    state = state_of(6000, 6, 8)
    state = click(state, torch.full((6000,), 9))  # in the first cell of 2 x 2: rows 0-2, columns 0-3
    places, _ = candidates(state, 2)
    counts = np.bincount(places[:, 0].numpy(), minlength=48).reshape(6, 8)
    assert counts[1, 1] == 0
    assert counts[:3, :4].sum() == 6000
    assert stats.chisquare(np.delete(counts[:3, :4].ravel(), 5)).pvalue > 0.01


def test_a_cell_without_an_unclicked_pixel_has_no_candidate():
    state = state_of(1, 4, 4)
    for pixel in (0, 1, 4, 5):
        state = click(state, torch.tensor([pixel]))
    assert candidates(state, 2)[1].tolist() == [[False, True, True, True]]


def best_by_hand(state: State, side: int) -> list[int]:
    """Every candidate of every photo, one after another, with the kernels' own click."""
    places, free = candidates(state, side)
    found = []
    for photo in range(len(places)):
        one = photo_of(state, photo)
        _, truth = colors(one)
        errors = []
        for place, possible in zip(places[photo].tolist(), free[photo].tolist(), strict=True):
            clicks = place_clicks(one.clicks, truth, torch.tensor([place]), state.hint_size)
            predicted = spread_clicks(one.lightness, clicks).double().numpy()
            errors.append(np.square(predicted - truth.double().numpy()).mean() if possible else np.inf)
        found.append(places[photo, int(np.argmin(errors))].item())
    return found


@pytest.mark.parametrize("hint_size", [1, 4])
def test_greedy_takes_the_candidate_with_the_smallest_error_after_its_click(hint_size):
    state = state_of(3, 12, 15, hint_size=hint_size)
    for _ in range(3):
        choice = GreedyPolicy(side=4).choose(state)
        assert choice.tolist() == best_by_hand(state, 4)
        state = click(state, choice)


@pytest.mark.parametrize("pixels_at_once", [1, 12 * 15 * 7, 10**9])
@pytest.mark.parametrize("policy", [GreedyPolicy, ExpectedReductionPolicy])
def test_memory_is_bounded_and_the_choice_does_not_depend_on_the_bound(policy, pixels_at_once):
    state = state_of(3, 12, 15)
    batches = []

    def colorizer(lightness: Tensor, clicks: Tensor) -> Tensor:
        batches.append(len(clicks))
        return spread_clicks(lightness, clicks)

    chosen = policy(side=4, pixels_at_once=pixels_at_once).choose(replace(state, colorize=colorizer))
    assert torch.equal(chosen, policy(side=4).choose(state))
    trials = batches if policy is GreedyPolicy else batches[8:]  # after the imagination, one batch per member
    assert max(trials) == {1: 1, 12 * 15 * 7: 7, 10**9: 48}[pixels_at_once]


def test_the_colorizer_is_called_as_often_as_stated():
    state, calls = state_of(2, 12, 12), []

    def colorizer(lightness, clicks):
        calls.append(len(clicks))
        return spread_clicks(lightness, clicks)

    GreedyPolicy().choose(replace(state, colorize=colorizer))
    assert sum(calls) == 2 * 36
    calls.clear()
    ExpectedReductionPolicy().choose(replace(state, colorize=colorizer))
    assert sum(calls) == 2 * (8 + 2 * 36)


def test_candidates_that_do_equally_well_give_way_to_the_first():
    state = replace(state_of(), colorize=lambda lightness, clicks: torch.zeros_like(clicks[:, 1:]))
    assert torch.equal(GreedyPolicy().choose(state), candidates(state, 6)[0][:, 0])


def test_expected_reduction_agrees_with_trying_both_colors_of_every_candidate_by_hand():
    state = click(state_of(2, 10, 11), torch.tensor([17, 40]))
    present = spread_clicks(state.lightness, state.clicks)
    state = replace(state, predicted_ab=present)
    imagination = Imagination(members=3)
    changes = torch.stack(list(imagination.changes(state))).double().numpy()
    places, _ = candidates(state, 3)
    expected = []
    for photo in range(2):
        scores = []
        for place, (row, col) in zip(places[photo].tolist(), place_of(state, places[photo]), strict=True):
            moves = changes[:, photo, :, row, col]
            values, vectors = np.linalg.eigh(moves.T @ moves / 3)
            step = torch.from_numpy(np.sqrt(values[1]) * vectors[:, 1]).float()
            change = 0.0
            for sign in (1, -1):
                named = (present[photo, :, row, col] + sign * step).view(1, 2, 1, 1).expand(1, 2, 10, 11)
                clicks = place_clicks(state.clicks[photo : photo + 1], named, torch.tensor([place]))
                after = spread_clicks(state.lightness[photo : photo + 1], clicks)
                change += float((after - present[photo]).double().square().mean())
            scores.append(change)
        expected.append(places[photo, int(np.argmax(scores))].item())
    chosen = ExpectedReductionPolicy(side=3, imagination=imagination).choose(state)
    assert chosen.tolist() == expected


def test_the_principal_deviation_is_the_first_eigenvector_of_the_second_moments():
    changes = torch.randn(9, 3, 5, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.2])
    found = principal_deviation(changes).double().numpy()
    for photo in range(3):
        for place in range(5):
            moves = changes[:, photo, place].double().numpy()
            values, vectors = np.linalg.eigh(moves.T @ moves / 9)
            expected = np.sqrt(values[1]) * vectors[:, 1]
            sign = np.sign(expected @ found[photo, place])
            np.testing.assert_allclose(sign * found[photo, place], expected, atol=1e-6)
    assert principal_deviation(torch.zeros(4, 1, 1, 2)).tolist() == [[[0.0, 0.0]]]


def test_a_full_photo_has_no_candidates():
    state = state_of(2, 1, 2)
    for pixel in (0, 1):
        state = click(state, torch.full((2,), pixel))
    assert clicked(state.clicks).all()
    with pytest.raises(ValueError, match="all pixels of 2 of 2 photos are clicked"):
        candidates(state, 6)


class TwoColors:
    """A split colorizer by formula: grey, with a click's color on the right half of the photo only.

    Its distribution knows two colors, one of them likelier.
    """

    bins = torch.tensor([[0.0, 0.0], [0.05, 0.0], [0.5, 0.0]])

    def __call__(self, lightness, clicks):
        return self.color((lightness,), lightness, clicks)[0]

    def embed(self, lightness):
        return (lightness,)

    def color(self, embedding, lightness, clicks):
        ab = torch.zeros(len(clicks), 2, *clicks.shape[-2:])
        half = clicks.shape[-1] // 2
        ab[..., half:] = clicks[:, 1:, :, half:].sum((2, 3), keepdim=True)
        return ab, torch.ones(len(clicks), 1, clicks.shape[-2] // 4, clicks.shape[-1] // 4)

    def distribution(self, cells):
        return torch.tensor([0.5, 0.4, 0.1]).expand(len(cells), 3)


def test_the_likeliest_colors_leave_out_shades_of_a_likelier_one():
    session = PhotoSession(TwoColors(), torch.rand(1, 1, 8, 8))
    features = session.look(torch.zeros(1, 3, 8, 8)).features
    assert features is not None
    found = session.likely_colors(features, torch.tensor([[0, 63]]), 8, 2)
    assert found is not None
    colors, shares = found
    assert torch.allclose(colors[0, :, :, 0], torch.tensor([[0.0, 0.5], [0.0, 0.5]]))
    assert torch.allclose(shares, torch.tensor([5 / 6, 1 / 6]).expand(1, 2, 2))


def test_expected_reduction_weighs_the_colors_of_a_distribution_by_how_likely_they_are():
    rgb = torch.randint(0, 255, (1, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    photos = Photos.from_rgb(rgb, seed=0, first_index=0)
    policy = ExpectedReductionPolicy(side=2, colors=2)
    steps = list(rollout(TwoColors(), policy, photos, budgets=(1,)))
    assert int(steps[0].positions[0, 0]) % 8 >= 4  # only there does a click change anything
