"""Policies that try clicks with the colorizer, on the U-Net of before and on the split network, side by side.

    python -m tests.benchmarks tried_clicks [--size 128] [--repeats 5] [--json FILE]

The split network looks at a photo once for all tries of a click. Both networks are untrained, which changes no
time; before anything is timed, tries from one look must give what whole calls give.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import nn

from evaluator.policies import ExpectedReductionPolicy, GreedyPolicy, Policy
from evaluator.protocol.rollout import Photos, rollout
from evaluator.registry.session import PhotoSession
from tests.benchmarks.harness import Refused, at_least, interleave, quantiles, report
from trainer.data.embedded import validation_photos
from trainer.networks import ColorNet, SplitColorNet

UNET_WIDTHS = (24, 48, 96, 128, 128, 192)
"""Of the preset `small` until it became the split network."""
GOAL = 5.0
_CLICKS = 3


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Time policies that try clicks, on a U-Net and on the split network."""

    size: int = 128
    """Side of the photo in pixels."""
    repeats: int = 5
    """Timed rollouts of each, in turn."""
    json: Path | None = None
    """Also write the report to this file."""


def timed(network: nn.Module, policy: Policy, photos: Photos) -> Callable[[], float]:
    """A function that places some clicks on a photo and returns its seconds for each."""

    def run() -> float:
        started = time.perf_counter()
        list(rollout(network, policy, photos, budgets=(_CLICKS,), hint_size=3))
        return (time.perf_counter() - started) / _CLICKS

    return run


@torch.no_grad()
def check(network: nn.Module, photos: Photos) -> None:
    """Refuse to time a session whose colors are not the network's.

    Raises:
        Refused: it says by how much they differ.
    """
    clicks = torch.zeros(2, 3, *photos.lightness.shape[-2:])
    clicks[:, :, 8:11, 8:11] = torch.tensor([[1.0, 0.3, 0.2], [1.0, -0.3, 0.1]])[:, :, None, None]
    tried = PhotoSession(network, photos.lightness).rows(torch.zeros(2, dtype=torch.int64), clicks)
    whole = network(photos.lightness.expand(2, -1, -1, -1), clicks)
    if not torch.allclose(tried, whole, atol=1e-5):
        raise Refused(f"tries differ from whole calls by {float((tried - whole).abs().max())}; nothing is timed")


def main(args: Sequence[str]) -> int:
    """Check, time, report."""
    arguments = tyro.cli(Arguments, prog="python -m tests.benchmarks tried_clicks", args=args)
    torch.manual_seed(0)
    networks = {"U-Net": ColorNet(UNET_WIDTHS).eval(), "split": SplitColorNet().eval()}
    photos = Photos.from_rgb(validation_photos(arguments.size, 1)[0], seed=0, first_index=0)
    for network in networks.values():
        check(network, photos)
    rows, goals = [], []
    for policy in (GreedyPolicy(), ExpectedReductionPolicy()):
        name = type(policy).__name__
        calls = {kind: timed(network, policy, photos) for kind, network in networks.items()}
        seconds = {kind: quantiles(values) for kind, values in interleave(calls, arguments.repeats).items()}
        ratio = seconds["U-Net"]["p50"] / seconds["split"]["p50"]
        rows += [
            {
                "policy": name,
                "network": kind,
                **{f"{quantile} ms a click": 1000 * value for quantile, value in found.items()},
                "times faster": ratio if kind == "split" else None,
            }
            for kind, found in seconds.items()
        ]
        goals.append(at_least(f"{name}: a click's tries, times faster than on the U-Net", GOAL, ratio))
    title = f"tried clicks on one photo of {arguments.size} px, {torch.get_num_threads()} threads"
    report(title, rows, goals, arguments.json)
    return 0
