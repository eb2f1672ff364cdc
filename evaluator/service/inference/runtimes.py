"""Ways to run an exported network on a CPU, checked against each other and chosen by a measured warm-up.

A runtime that cannot run a network (a package or a compiler is missing, an operator is unknown, the numbers
differ) is left out, and the log says why.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from evaluator.registry.networks import LoadedGuide, LoadedSplitColorizer
from evaluator.service.inference.converted import Loaded, Unusable, first_line, to_compiled, to_onnx
from evaluator.service.inference.side_by_side import side_by_side

_log = logging.getLogger("chromaclick")
TOLERANCE = 1e-4
"""Largest difference from the exported graph, relative to the largest output or 1: 0.013 CIE units of ab."""
_ROUNDS = 7
_SECONDS = 2.0
_TOGETHER = 4
"""Photos of the batch that is measured, at least, where so many may come."""
MOST_BATCH = 8
"""Photos that wait at the same time and are computed together."""
Way = Literal["one by one", "together", "side by side"]
"""How photos that wait at the same time are computed: each with all threads, in one call, each on one core."""
_WORTH: dict[Way, float] = {"one by one": 1.0, "side by side": 1.03, "together": 1.2}
"""How many times quicker than one by one it has to be: in a call of several, each waits for the last one."""
_SETTLED = ("onnxruntime", "torch")
"""Runtimes of split networks, the better one first."""
T = TypeVar("T")
AT_ONCE = "torch"
"""Needs nothing to be made."""
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
    way: Way
    """How `network` computes several photos."""
    gains: dict[Way, float]
    """How many times quicker than one by one each way is, of those that work."""
    most_batch: int | None
    """Photos to give it at once; None: any number."""

    @property
    def words(self) -> str:
        """For the log."""
        times = ", ".join(f"{name} {value:.1f} ms" for name, value in self.milliseconds.items())
        left_out = "".join(f"; {name} left out: {reason}" for name, reason in self.skipped.items())
        gains = ", ".join(f"{way} {gain:.2f}" for way, gain in self.gains.items())
        return f"{self.runtime} ({times}), several photos {self.way} (times as fast: {gains}){left_out}"


def choose(
    network: Loaded,
    sizes: Sequence[tuple[int, int]],
    runtimes: Sequence[str],
    cache: Path | None = None,
    most_batch: int = MOST_BATCH,
) -> Choice:
    """Warm every runtime at every size, check its numbers, and take the one that is quickest at the first size.

    A split colorizer and a guide that reads its features are taken without a contest, so that a start takes
    seconds: in ONNX Runtime where it gives the exported graph's numbers, else in torch.

    For others then the quickest way for several photos is taken, `most_batch` at most: more would tell of nothing
    that comes, and on many cores need more memory than there is. All are checked against the exported graph. The
    second size is checked with two photos, a third one with three.

    Raises:
        ValueError: an unknown runtime, or none.
    """
    if not runtimes or not set(runtimes) <= set(RUNTIMES):
        raise ValueError(f"the runtimes are {list(runtimes)}; name some of {list(RUNTIMES)}")
    examples = [example(network, *size, batch) for batch, size in enumerate(sizes, start=1)]
    expected = [_call(network, inputs) for inputs in examples]
    if network.contract.features:
        return _settle(network, examples, expected, runtimes, cache)
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
    cores = min(torch.get_num_threads(), most_batch)
    ways = _ways(usable[quickest], quickest, network, sizes[-1], cores, skipped)
    gains = _gains(ways, sizes[0], min(most_batch, max(_TOGETHER, cores)))
    way = max(ways, key=lambda one: gains[one] / _WORTH[one])
    most: dict[Way, int | None] = {"one by one": 1, "side by side": cores, "together": None}
    return Choice(ways[way], quickest, milliseconds, skipped, way, gains, most[way])


def _settle(
    network: Loaded,
    examples: Sequence[tuple[Tensor, ...]],
    expected: Sequence[Tensor],
    runtimes: Sequence[str],
    cache: Path | None,
) -> Choice:
    """The first of `_SETTLED` that is asked for and works, its call timed once."""
    skipped = {name: "split networks are not run by it" for name in runtimes if name not in _SETTLED}
    for name in [name for name in _SETTLED if name in runtimes]:
        try:
            made = RUNTIMES[name](network, cache)
            made = made if made is network else _checked(made, examples, expected)
        except Unusable as error:
            skipped[name] = str(error)
            _log.warning("%s is left out for %s: %s", name, network.source, error)
            continue
        taken = seconds(partial(_call, made, examples[0]))
        return Choice(made, name, {name: round(1000 * taken, 2)}, skipped, "one by one", {"one by one": 1.0}, 1)
    raise ValueError(f"{network.source} runs in none of the runtimes: {skipped}")


def example(network: Loaded, height: int, width: int, batch: int = 1) -> tuple[Tensor, ...]:
    """Made-up inputs of a network, always the same."""
    generator = torch.Generator().manual_seed(0)
    contract = network.contract
    least, multiple = contract.min_size, contract.multiple

    def sides(cell: int) -> list[int]:
        """Of a map; one of cells has those of the padded photo."""
        padded = [max(least, math.ceil(side / multiple) * multiple) // cell for side in (height, width)]
        return [height, width] if cell == 1 else padded

    maps = {
        port.name: 2 * torch.rand(batch, port.channels or 1, *sides(port.cell), generator=generator) - 1
        for port in contract.inputs
    }
    maps["lightness"] = maps["lightness"].abs()
    maps["clicks"][:, 0] = (maps["clicks"][:, 0] > 0.99).float()
    maps["clicks"][:, 1:] *= maps["clicks"][:, :1]
    return tuple(maps.values())


@torch.no_grad()
def _call(network: Any, inputs: Sequence[Tensor]) -> Tensor:
    """All that a network answers, as one tensor where it has several answers."""
    if isinstance(network, LoadedSplitColorizer):
        ab, features = network.colour(network.embed(inputs[0]), *inputs)
        return torch.cat([ab.flatten(1), features.flatten(1)], 1)
    if isinstance(network, LoadedGuide) and network.reads_features:
        return network(*inputs[:-1], features=inputs[-1])
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


def _ways(
    network: Loaded, runtime: str, exported: Loaded, size: tuple[int, int], cores: int, skipped: dict[str, str]
) -> dict[Way, Loaded]:
    """What computes several photos in each way; one that gives other numbers is noted in `skipped`."""
    ways: dict[Way, Loaded] = {"one by one": network, "together": network}
    # What torch compiles has its number of threads in its code.
    if cores > 1 and runtime != "torch-compiled":
        inputs = example(exported, *size, cores)
        try:
            ways["side by side"] = _checked(side_by_side(network, cores), [inputs], [_call(exported, inputs)])
        except Unusable as error:
            skipped["side by side"] = str(error)
    return ways


def _gains(ways: Mapping[Way, Loaded], size: tuple[int, int], photos: int) -> dict[Way, float]:
    """How many times quicker than one by one."""
    alone = ways["one by one"]
    several = example(alone, *size, photos)
    calls = {way: partial(_call, network, several) for way, network in ways.items()}
    calls["one by one"] = partial(_call, alone, example(alone, *size))
    taken = _timed(calls)
    one = median(taken["one by one"])
    return {way: 1.0 if way == "one by one" else photos * one / median(taken[way]) for way in ways}


def _timed(calls: Mapping[T, Callable[[], object]]) -> dict[T, list[float]]:
    """Seconds of each call, alternating, so that the machine's other work meets all of them.

    All were called before. The last round begins within `_SECONDS`, so that a busy machine starts as well.
    """
    taken: dict[T, list[float]] = {name: [] for name in calls}
    started = time.perf_counter()
    for number in range(_ROUNDS):
        if number and time.perf_counter() - started > _SECONDS:
            break
        for name, call in calls.items():
            taken[name].append(seconds(call))
    return taken


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _as_it_is(network: Loaded, cache: Path | None) -> Loaded:
    return network


RUNTIMES: dict[str, Callable[[Loaded, Path | None], Loaded]] = {
    "torch": _as_it_is,
    "onnxruntime": to_onnx,
    "torch-compiled": to_compiled,
}
"""By name: how a network is made to run there. Each raises Unusable where it cannot."""
