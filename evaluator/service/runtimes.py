"""Ways to run an exported network on a CPU, checked against each other and chosen by a measured warm-up.

A runtime that cannot run a network (a package or a compiler is missing, an operator is unknown, the numbers
differ) is left out, and the log says why.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from evaluator.service.converted import Loaded, Unusable, first_line, to_compiled, to_onnx
from kernels.benchmarking import seconds

TOLERANCE = 1e-4
"""Largest difference from the exported graph, relative to the largest output or 1: 0.013 CIE units of ab."""
_ROUNDS = 7
_SECONDS = 2.0
_TOGETHER = 4
"""Photos of the batch that is measured."""
_WORTH = 1.2
"""How much quicker a batch has to be than its photos one by one, as each of them waits for the last one."""
DEFAULT = ("torch", "onnxruntime")
"""Those that are ready in seconds. `torch-compiled` takes both cores for a minute first, and a C++ compiler."""


@dataclass(frozen=True, eq=False)
class Choice:
    """The quickest runtime of a network."""

    network: Loaded
    """The network in that runtime."""
    runtime: str
    milliseconds: dict[str, float]
    """Median of a call for one photo, of every runtime that works."""
    skipped: dict[str, str]
    """Why others do not."""
    batch_gain: float
    """How many times quicker a batch is than its photos one by one."""

    @property
    def gains_by_batches(self) -> bool:
        """Whether photos should be computed together."""
        return self.batch_gain >= _WORTH

    @property
    def words(self) -> str:
        """For the log."""
        times = ", ".join(f"{name} {value:.1f} ms" for name, value in self.milliseconds.items())
        left_out = "".join(f"; {name} left out: {reason}" for name, reason in self.skipped.items())
        return f"{self.runtime} ({times}; batches are {self.batch_gain:.2f} times quicker{left_out})"


def choose(
    network: Loaded, sizes: Sequence[tuple[int, int]], runtimes: Sequence[str], cache: Path | None = None
) -> Choice:
    """Warm every runtime at every size, check its numbers, and take the one that is quickest at the first size.

    All are checked against the exported graph. The second size is checked with two photos, a third one with three.

    Raises:
        ValueError: an unknown runtime, or none.
    """
    if not runtimes or not set(runtimes) <= set(RUNTIMES):
        raise ValueError(f"the runtimes are {list(runtimes)}; name some of {list(RUNTIMES)}")
    examples = [example(network, *size, batch) for batch, size in enumerate(sizes, start=1)]
    expected = [_call(network, inputs) for inputs in examples]
    usable: dict[str, Loaded] = {}
    skipped: dict[str, str] = {}
    for name in runtimes:
        try:
            made = RUNTIMES[name](network, cache)
            usable[name] = made if made is network else _checked(made, examples, expected)
        except Unusable as error:
            skipped[name] = str(error)
    if not usable:
        raise ValueError(f"{network.source} runs in none of the runtimes: {skipped}")
    milliseconds = _measured(usable, examples[0])
    quickest = min(usable, key=lambda name: milliseconds[name])
    gain = _batch_gain(usable[quickest], sizes[0])
    return Choice(usable[quickest], quickest, milliseconds, skipped, gain)


def example(network: Loaded, height: int, width: int, batch: int = 1) -> tuple[Tensor, ...]:
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


def _checked(network: Loaded, examples: Sequence[tuple[Tensor, ...]], expected: Sequence[Tensor]) -> Loaded:
    """The network, warmed at all sizes; Unusable when its numbers differ."""
    for inputs, right in zip(examples, expected, strict=True):
        try:
            found = _call(network, inputs)
        except Exception as error:  # of any library below
            raise Unusable(first_line(error)) from error
        difference = float((found - right).abs().max()) / max(1.0, float(right.abs().max()))
        if not difference <= TOLERANCE:  # also NaN
            raise Unusable(
                f"it differs by {difference:.2g} at {tuple(right.shape)}, more than {TOLERANCE:g}, from torch"
            )
    return network


def _measured(networks: Mapping[str, Loaded], inputs: tuple[Tensor, ...]) -> dict[str, float]:
    """Median milliseconds of a call."""
    taken = _timed({name: partial(_call, network, inputs) for name, network in networks.items()})
    return {name: round(1000 * median(times), 2) for name, times in taken.items()}


def _batch_gain(network: Loaded, size: tuple[int, int]) -> float:
    alone, together = (partial(_call, network, example(network, *size, batch)) for batch in (1, _TOGETHER))
    taken = _timed({"alone": alone, "together": together})
    return _TOGETHER * median(taken["alone"]) / median(taken["together"])


def _timed(calls: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of each call, alternating, so that the machine's other work meets all of them.

    All were called before. The last round begins within `_SECONDS`, so that a busy machine starts as well.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    started = time.perf_counter()
    for number in range(_ROUNDS):
        if number and time.perf_counter() - started > _SECONDS:
            break
        for name, call in calls.items():
            taken[name].append(seconds(call, torch.device("cpu")))
    return taken


def _as_it_is(network: Loaded, cache: Path | None) -> Loaded:
    return network


RUNTIMES: dict[str, Callable[[Loaded, Path | None], Loaded]] = {
    "torch": _as_it_is,
    "onnxruntime": to_onnx,
    "torch-compiled": to_compiled,
}
"""By name: how a network is made to run there. Each raises Unusable where it cannot."""
