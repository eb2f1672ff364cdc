"""Ways to run an exported network on a CPU, checked against each other and chosen by a measured warm-up.

A runtime that cannot run a network (a package or a compiler is missing, an operator is unknown, the numbers differ)
is left out, and the log says why.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from evaluator.loaded import LoadedColorizer, LoadedGuide, LoadedNetwork

_log = logging.getLogger("chromaclick")
TOLERANCE = 1e-4
"""Largest difference from the exported graph, relative to the largest output or 1: 0.013 CIE units of ab."""
_ROUNDS = 5


class Unusable(Exception):
    """A runtime that cannot run a network, and why."""


@dataclass(frozen=True, eq=False)
class Choice:
    """The quickest runtime of a network."""

    network: LoadedNetwork
    """The network in that runtime."""
    runtime: str
    milliseconds: dict[str, float]
    """Median of a call for one photo, of every runtime that works."""
    skipped: dict[str, str]
    """Why others do not."""

    @property
    def words(self) -> str:
        """For the log."""
        times = ", ".join(f"{name} {value:.1f} ms" for name, value in self.milliseconds.items())
        left_out = "".join(f"; {name} left out: {reason}" for name, reason in self.skipped.items())
        return f"{self.runtime} ({times}{left_out})"


def choose(network: LoadedNetwork, sizes: Sequence[tuple[int, int]], runtimes: Sequence[str]) -> Choice:
    """Warm every runtime at every size, check its numbers, and take the one that is quickest at the first size.

    The first of the runtimes, which needs nothing but torch, is what the others are checked against.

    Raises:
        ValueError: an unknown runtime, or none.
    """
    if not runtimes or not set(runtimes) <= set(RUNTIMES):
        raise ValueError(f"the runtimes are {list(runtimes)}; name some of {list(RUNTIMES)}")
    examples = [example(network, *size, batch) for size in sizes for batch in (1, 2)]
    expected = [_call(network, inputs) for inputs in examples]
    usable: dict[str, LoadedNetwork] = {}
    skipped: dict[str, str] = {}
    for name in runtimes:
        try:
            usable[name] = _checked(RUNTIMES[name](network), examples, expected)
        except Unusable as error:
            skipped[name] = str(error)
    if not usable:
        raise ValueError(f"{network.source} runs in none of the runtimes: {skipped}")
    milliseconds = _measured(usable, examples[0])
    quickest = min(usable, key=lambda name: milliseconds[name])
    return Choice(usable[quickest], quickest, milliseconds, skipped)


def example(network: LoadedNetwork, height: int, width: int, batch: int = 1) -> tuple[Tensor, ...]:
    """Made-up inputs of a network, always the same."""
    generator = torch.Generator().manual_seed(0)
    maps = {
        port.name: 2 * torch.rand(batch, port.channels or 1, height, width, generator=generator) - 1
        for port in network.contract.inputs
    }
    maps["lightness"] = maps["lightness"].abs()
    maps["clicks"][:, 0] = (maps["clicks"][:, 0] > 0.99).float()
    maps["clicks"][:, 1:] *= maps["clicks"][:, :1]
    return tuple(maps.values())


@torch.no_grad()
def _call(network: Any, inputs: Sequence[Tensor]) -> Tensor:
    return network(*inputs)


def _checked(
    network: LoadedNetwork, examples: Sequence[tuple[Tensor, ...]], expected: Sequence[Tensor]
) -> LoadedNetwork:
    """The network, warmed at all sizes; Unusable when its numbers differ."""
    for inputs, right in zip(examples, expected, strict=True):
        try:
            found = _call(network, inputs)
        except Exception as error:  # of any library below
            raise Unusable(_first_line(error)) from error
        difference = float((found - right).abs().max()) / max(1.0, float(right.abs().max()))
        if not difference <= TOLERANCE:  # also NaN
            raise Unusable(
                f"it differs by {difference:.2g} at {tuple(right.shape)}, more than {TOLERANCE:g}, from torch"
            )
    return network


def _measured(networks: dict[str, LoadedNetwork], inputs: tuple[Tensor, ...]) -> dict[str, float]:
    """Median milliseconds of a call, in the order A B A B, so that the machine's other work meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(_ROUNDS):
        for name, network in networks.items():
            started = time.perf_counter()
            _call(network, inputs)
            seconds[name].append(time.perf_counter() - started)
    return {name: round(1000 * median(taken), 2) for name, taken in seconds.items()}


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


def _as_it_is(network: LoadedNetwork) -> LoadedNetwork:
    return network


def _with_graph(network: LoadedNetwork, graph: Any) -> LoadedNetwork:
    """The same network, computed by something else: the same checks, padding and cropping."""
    kind = LoadedColorizer if isinstance(network, LoadedColorizer) else LoadedGuide
    return kind(graph, network.contract, network.source, network.device)


RUNTIMES: dict[str, Callable[[LoadedNetwork], LoadedNetwork]] = {"torch": _as_it_is}
"""By name: how a network is made to run there. Each raises Unusable where it cannot."""
