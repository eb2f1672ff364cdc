"""A replica's engine with made-up networks; replicas import this module by its name."""

from torch import Tensor

from evaluator.service.inference.engine import Engine
from evaluator.service.settings import Settings
from tests.evaluator.service import fakes

_TIMES = 20
"""As slow as a small network: some 20 ms, so that requests are under way when a replica dies."""


def slow_spread(lightness: Tensor, clicks: Tensor) -> Tensor:
    """`fakes.spread`, computed many times."""
    for _ in range(_TIMES - 1):
        fakes.spread(lightness, clicks)
    return fakes.spread(lightness, clicks)


def make_engine(settings: Settings) -> Engine:
    """An engine that is ready at once."""
    return Engine.from_networks(slow_spread, fakes.detail, most_waiting=settings.most_waiting)
