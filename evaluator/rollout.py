"""A robot user colours a batch of photos click by click: policy, click in the true colour, colorizer, again."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from evaluator.inference import Colorizer
from evaluator.policies import Policy, State
from kernels.clicks import no_clicks, place_clicks
from kernels.color import rgb_to_lab
from kernels.noise import fold, sample_keys

_POLICY_NOISE = 1
"""Keeps a policy's noise apart from other uses of the same seed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Photos:
    """A batch of photos on one device, ready for a rollout."""

    lightness: Float[Tensor, "b 1 h w"]
    truth_ab: Float[Tensor, "b 2 h w"]
    keys: Int64[Tensor, " b"]
    """One noise key per photo."""

    @classmethod
    def from_rgb(cls, rgb: UInt8[Tensor, "b 3 h w"], *, seed: int, first_index: int) -> "Photos":
        """Photos `first_index`, `first_index + 1`, ... of a data set; the noise of each depends on its index."""
        lightness, truth_ab = rgb_to_lab(rgb)
        keys = sample_keys(fold(seed, _POLICY_NOISE), first_index, len(rgb), rgb.device)
        return cls(lightness=lightness, truth_ab=truth_ab, keys=keys)


@dataclass(frozen=True, kw_only=True, eq=False)
class Moment:
    """The batch after a number of clicks."""

    predicted_ab: Float[Tensor, "b 2 h w"]
    clicks: Float[Tensor, "b 3 h w"]
    positions: Int64[Tensor, "b placed"]
    """Flat indices of the clicks, in the order in which they were placed."""


@torch.no_grad()
def before_clicks(colorizer: Colorizer, photos: Photos) -> Moment:
    """The automatic colouring, which every policy starts from."""
    clicks = no_clicks(photos.truth_ab)
    return Moment(
        predicted_ab=_colorize(colorizer, photos, clicks),
        clicks=clicks,
        positions=photos.keys.new_empty(len(photos.keys), 0),
    )


@torch.no_grad()
def rollout(
    colorizer: Colorizer,
    policy: Policy,
    photos: Photos,
    start: Moment,
    *,
    budgets: Sequence[int],
    hint_size: int = 1,
    on_click: Callable[[], None] = lambda: None,
) -> Iterator[Moment]:
    """Click as the policy says and yield the batch at each budget.

    The colorizer is called once per click, or once per budget for a policy that does not look at the colours.

    Args:
        colorizer: in evaluation mode (see `evaluator.inference.run_network`).
        policy: places one click per photo and step.
        photos: the batch.
        start: from `before_clicks`; all policies may share it.
        budgets: numbers of clicks, rising; 0 yields `start`.
        hint_size: side of a click's stamp in pixels.
        on_click: called after each step.

    Raises:
        ValueError: no unclicked pixel is left, or the colorizer returns another shape.
    """
    moment = start
    if budgets[0] == 0:
        yield start
    for placed in range(1, budgets[-1] + 1):
        clicks, positions = _click(policy, photos, moment, hint_size)
        predicted_ab = moment.predicted_ab
        if policy.needs_prediction or placed in budgets:
            predicted_ab = _colorize(colorizer, photos, clicks)
        moment = Moment(predicted_ab=predicted_ab, clicks=clicks, positions=positions)
        on_click()
        if placed in budgets:
            yield moment


def _click(policy: Policy, photos: Photos, before: Moment, hint_size: int) -> tuple[Tensor, Tensor]:
    """One more click per photo: the new click map and all positions."""
    state = State(
        lightness=photos.lightness,
        clicks=before.clicks,
        keys=photos.keys,
        step=before.positions.shape[1],
        predicted_ab=before.predicted_ab if policy.needs_prediction else None,
        truth_ab=photos.truth_ab if policy.needs_truth else None,
    )
    choice = policy.choose(state)
    clicks = place_clicks(before.clicks, photos.truth_ab, choice, hint_size)
    return clicks, torch.cat([before.positions, choice[:, None]], dim=1)


def _colorize(colorizer: Colorizer, photos: Photos, clicks: Tensor) -> Tensor:
    predicted_ab = colorizer(photos.lightness, clicks)
    if predicted_ab.shape != photos.truth_ab.shape:
        raise ValueError(
            f"the colorizer returned shape {tuple(predicted_ab.shape)} for photos with ab of shape "
            f"{tuple(photos.truth_ab.shape)}; it must return the same shape"
        )
    return predicted_ab
