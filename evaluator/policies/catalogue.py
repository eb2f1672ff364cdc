"""Policies by name."""

from collections.abc import Callable

import torch

from evaluator.policies.base import Policy
from evaluator.policies.baseline import FarthestPolicy, GaussianPolicy, GridPolicy, RandomPolicy
from evaluator.policies.greedy import ExpectedReductionPolicy, GreedyPolicy
from evaluator.policies.guide import GuidePolicy
from evaluator.policies.oracle import BlurredErrorPolicy, MaxErrorPolicy, RegionCenterPolicy
from evaluator.policies.uncertainty import UncertaintyPolicy
from evaluator.registry.networks import Colorizer, Guide

_UNLEARNED: dict[str, tuple[Callable[[], Policy], str]] = {
    "random": (RandomPolicy, "uniform over the unclicked pixels; what the others are compared with"),
    "gaussian": (GaussianPolicy, "Gaussian around the centre, sigma a quarter of each side"),
    "grid": (GridPolicy, "points of a low-discrepancy sequence, spread evenly after every click"),
    "farthest": (FarthestPolicy, "farthest from all clicks and from the border"),
    "uncertainty": (UncertaintyPolicy, "where imagined clicks change the colours most; 8 colorizer calls a click"),
    "expected-reduction": (
        ExpectedReductionPolicy,
        "candidate of 36 whose plausible colours would change the photo most; 80 colorizer calls a click",
    ),
    "max-error": (MaxErrorPolicy, "largest error in ab; knows the true colours"),
    "blurred-error": (
        BlurredErrorPolicy,
        "largest blurred error, away from clicks; knows the true colours",
    ),
    "region-centre": (RegionCenterPolicy, "middle of the largest wrong region; knows the true colours"),
    "greedy": (
        GreedyPolicy,
        "best of 36 candidates, each tried in its true colour; knows the true colours; 36 colorizer calls a click",
    ),
}

NAMES: dict[str, str] = {name: about for name, (_, about) in _UNLEARNED.items()}
"""Policies that need no learned guide, with one line about each."""

GUIDES: dict[str, str] = {
    "guide-blind": "largest logit of a learned guide that does not see the true colours",
    "guide-oracle": "largest logit of a learned guide; knows the true colours",
}
"""Policies of a learned guide, with one line about each."""


def make(
    name: str,
    *,
    guide: Guide | None = None,
    colorizer: Colorizer | None = None,
    autocast: torch.dtype | None = None,
) -> Policy:
    """A policy of `NAMES` with its defaults, or one of `GUIDES` that follows a guide.

    Args:
        name: which.
        guide: for a name of `GUIDES`: `guide(lightness, predicted_ab, clicks, truth_ab) -> logits`, on the device.
        colorizer: the one that is evaluated; if it has a method `uncertainty(lightness, clicks) -> (B,H,W)`, the
            policy "uncertainty" asks that.
        autocast: run the guide under autocast in this dtype.

    Raises:
        ValueError: an unknown name, a guide policy without a guide, or a guide for another policy.
    """
    if name not in NAMES and name not in GUIDES:
        raise ValueError(f"unknown policy {name!r}; choose from {', '.join((*NAMES, *GUIDES))}")
    if (guide is None) == (name in GUIDES):
        raise ValueError(
            f"policy {name!r} follows a learned guide, and none was given"
            if guide is None
            else f"policy {name!r} follows no guide; a guide is for {' and '.join(GUIDES)}"
        )
    if guide is not None:
        return GuidePolicy(guide=guide, blind=name == "guide-blind", autocast=autocast)
    if name == "uncertainty":
        return UncertaintyPolicy(given=getattr(colorizer, "uncertainty", None))
    return _UNLEARNED[name][0]()
