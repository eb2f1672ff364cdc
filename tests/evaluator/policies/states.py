"""States for policies, without photos or networks."""

from dataclasses import replace

import torch
from torch import Tensor

from evaluator.policies import State
from kernels.clicks import place_patches
from kernels.noise import sample_keys
from tests.evaluator.conftest import spread_clicks


def state_of(batch: int = 4, height: int = 16, width: int = 16, seed: int = 0, hint_size: int = 1) -> State:
    """Before the first click, with everything that a policy may ask for. The photos are noise."""
    generator = torch.Generator().manual_seed(seed)
    lightness = torch.rand(batch, 1, height, width, generator=generator)
    clicks = torch.zeros(batch, 3, height, width)
    return State(
        lightness=lightness,
        clicks=clicks,
        keys=sample_keys(7, 0, batch),
        positions=torch.empty(batch, 0, dtype=torch.int64),
        hint_size=hint_size,
        predicted_ab=spread_clicks(lightness, clicks)
        + 0.2 * torch.randn(batch, 2, height, width, generator=generator),
        truth_ab=torch.rand(batch, 2, height, width, generator=generator) - 0.5,
        colorize=spread_clicks,
    )


def colors(state: State) -> tuple[Tensor, Tensor]:
    """Present and true colors."""
    assert state.predicted_ab is not None
    assert state.truth_ab is not None
    return state.predicted_ab, state.truth_ab


def click(state: State, choice: Tensor) -> State:
    """After one more click in each photo, in its pixel's true color. The present colors stay."""
    at = colors(state)[1].flatten(2).gather(2, choice[:, None, None].expand(-1, 2, 1))[:, :, 0]
    return replace(
        state,
        clicks=place_patches(state.clicks, choice, at, state.hint_size),
        positions=torch.cat([state.positions, choice[:, None]], dim=1),
    )


def photo_of(state: State, index: int) -> State:
    """One photo of a batch, alone."""
    row = slice(index, index + 1)
    predicted, truth = colors(state)
    return replace(
        state,
        lightness=state.lightness[row],
        clicks=state.clicks[row],
        keys=state.keys[row],
        positions=state.positions[row],
        predicted_ab=predicted[row],
        truth_ab=truth[row],
    )


def place_of(state: State, choice: Tensor) -> list[tuple[int, int]]:
    """(row, col) of each photo's choice."""
    width = state.clicks.shape[-1]
    return [divmod(place, width) for place in choice.tolist()]
