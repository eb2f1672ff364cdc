"""A simulated user colors a batch of photos click by click: policy, click in the true color, colorizer, again."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from evaluator.policies import Policy, State
from evaluator.protocol.simulated_user import EXACT, SimulatedUser
from evaluator.registry.networks import Colorizer
from evaluator.registry.session import Colored, PhotoSession
from kernels.clicks import hint_colors, no_clicks
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
    shared: dict[str, Any] = field(default_factory=dict)
    """What metrics computed from these photos alone, for every policy and budget (`Comparison.shared`)."""

    @classmethod
    def from_rgb(cls, rgb: UInt8[Tensor, "b 3 h w"], *, seed: int, first_index: int) -> "Photos":
        """Photos `first_index`, `first_index + 1`, ... of a data set; the noise of each depends on its index."""
        lightness, truth_ab = rgb_to_lab(rgb)
        keys = sample_keys(fold(seed, _POLICY_NOISE), first_index, len(rgb), rgb.device)
        return cls(lightness=lightness, truth_ab=truth_ab, keys=keys)


@dataclass(frozen=True, eq=False)
class RolloutStep:
    """The batch after a number of clicks."""

    predicted_ab: Float[Tensor, "b 2 h w"]
    clicks: Float[Tensor, "b 3 h w"]
    positions: Int64[Tensor, "b placed"]
    """Flat indices of the clicks, in the order in which they were placed."""
    previous_ab: Float[Tensor, "b 2 h w"] | None = None
    """The colors just before the newest click; None without a click, or where they were not asked for."""
    features: Tensor | None = None
    """Of a split colorizer, see `evaluator.registry.session.Colored`."""
    seconds: float = 0.0
    """Wall time since the automatic coloring that the whole batch took to choose, click and color."""


@torch.no_grad()
def before_clicks(colorizer: Colorizer, photos: Photos) -> RolloutStep:
    """The automatic coloring, which every policy starts from."""
    clicks = no_clicks(photos.truth_ab)
    colored = _colorize(session_of(colorizer, photos), photos, clicks)
    return RolloutStep(colored.ab, clicks, photos.keys.new_empty(len(photos.keys), 0), features=colored.features)


def session_of(colorizer: Colorizer, photos: Photos) -> PhotoSession:
    """The colorizer in front of these photos; a session stays what it is."""
    return colorizer if isinstance(colorizer, PhotoSession) else PhotoSession(colorizer, photos.lightness)


def colored_steps(policy: Policy, budgets: Sequence[int], with_previous: bool) -> set[int]:
    """Numbers of clicks after which the colorizer is called; 0 is the automatic coloring."""
    steps = set(range(budgets[-1] + 1)) if policy.needs_prediction else set(budgets)
    return steps | {budget - 1 for budget in budgets if budget and with_previous}


@torch.no_grad()
def rollout(
    colorizer: Colorizer,
    policy: Policy,
    photos: Photos,
    start: RolloutStep | None = None,
    *,
    budgets: Sequence[int],
    hint_size: int = 1,
    robot: SimulatedUser = EXACT,
    with_previous: bool = False,
    on_click: Callable[[], None] = lambda: None,
) -> Iterator[RolloutStep]:
    """Click as the policy says and yield the batch at each budget.

    The colorizer is called once per click, or once per budget for a policy that does not look at the colors;
    what a policy with `needs_colorizer` tries comes on top.

    Args:
        colorizer: in evaluation mode (see `evaluator.registry.networks.run_network`), or a session of these
        photos, which
            all policies may share.
        policy: chooses one click per photo and step.
        photos: the batch.
        start: from `before_clicks`, which all policies may share; None to color here if at all.
        budgets: numbers of clicks, rising; 0 yields the start.
        hint_size: side of a click's patch in pixels.
        robot: who carries out what the policy says.
        with_previous: whether to color just before each budget's newest click too (`RolloutStep.previous_ab`).
        on_click: called after each step.

    Raises:
        ValueError: no unclicked pixel is left, or the colorizer returns another shape.
    """
    session = session_of(colorizer, photos)
    colored = colored_steps(policy, budgets, with_previous)
    if start is None and 0 in colored:
        start = before_clicks(session, photos)
    if start is not None and 0 in budgets:
        yield start
    colors = hint_colors(photos.truth_ab, hint_size)
    clicks, positions = no_clicks(photos.truth_ab), photos.keys.new_empty(len(photos.keys), 0)
    before, now = None, Colored(start.predicted_ab, start.features) if start else None
    watch = _Stopwatch(clicks.device)
    for step in range(budgets[-1]):
        choice = policy.choose(_state(policy, photos, session, clicks, positions, now, hint_size))
        clicks, hit = robot.click(clicks, colors, choice, photos.keys, step=step, hint_size=hint_size)
        positions = torch.cat([positions, hit[:, None]], dim=1)
        if step + 1 in colored:
            before, now = now, _colorize(session, photos, clicks)
        on_click()
        if step + 1 in budgets:
            assert now is not None
            watch.stop()
            previous = before.ab if before and with_previous else None
            yield RolloutStep(now.ab, clicks, positions, previous, now.features, watch.seconds)
            watch.start()


def _state(
    policy: Policy,
    photos: Photos,
    session: PhotoSession,
    clicks: Tensor,
    positions: Tensor,
    colored: Colored | None,
    hint_size: int,
) -> State:
    """What this policy may see."""
    return State(
        lightness=photos.lightness,
        clicks=clicks,
        keys=photos.keys,
        positions=positions,
        hint_size=hint_size,
        predicted_ab=colored.ab if colored and policy.needs_prediction else None,
        features=colored.features if colored and policy.needs_prediction else None,
        truth_ab=photos.truth_ab if policy.needs_truth else None,
        colorize=session if policy.needs_colorizer else None,
    )


def _colorize(session: PhotoSession, photos: Photos, clicks: Tensor) -> Colored:
    colored = session.look(clicks)
    if colored.ab.shape != photos.truth_ab.shape:
        raise ValueError(
            f"the colorizer returned shape {tuple(colored.ab.shape)} for photos with ab of shape "
            f"{tuple(photos.truth_ab.shape)}; it must return the same shape"
        )
    return colored


class _Stopwatch:
    """Wall time between `start` and `stop`, summed up; work that a device still has to do counts."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, 0.0
        self.start()

    def start(self) -> None:
        self.began = self._now()

    def stop(self) -> None:
        self.seconds += self._now() - self.began

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()
