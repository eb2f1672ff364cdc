"""How many passes over the pixels the chain and the CPU's implementation make, and how many bytes they move.

Run by `choose_click --traffic`. An operation of torch counts as a pass when it goes over every pixel of a photo,
for one channel or more. Its bytes are those of its inputs and outputs, each once: the least that it moves, from
memory or from a cache.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kernels.choose_click import cpu
from kernels.choose_click.interface import ENTROPY, LOG_PROBABILITY, Settings, Tensors
from kernels.choose_click.reference import choose_click_chain
from kernels.estimators import ESTIMATORS
from tests.benchmarks.harness import report
from tests.benchmarks.kernels.choose_click_paths import Inputs, backward, make_inputs

SIDE = 64
"""Of the photo, in pixels: one photo is one part of the CPU's implementation."""
FEW = frozenset({"gather", "scatter_", "scatter_add_", "scatter"})
"""Operations that touch as many elements as their index has."""


class Traffic(NamedTuple):
    """Of one pass, forward or backward."""

    operations: Counter[str]
    """How often each operation goes over the pixels."""
    bytes: float
    """Per pixel."""


class Recorder(TorchDispatchMode):
    """Counts the operations that run while it is on."""

    def __init__(self, pixels: int):
        super().__init__()
        self.pixels = pixels
        self.operations: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.is_view or name in FEW or "empty" in name:
            return result
        # `x.new_zeros` takes nothing from x but its type.
        moved = _tensors(result) + ([] if name.startswith("new_") else _tensors((args, kwargs)))
        if max((tensor.numel() for tensor in moved), default=0) >= self.pixels:
            self.operations[name] += 1
            self.bytes += sum(map(_size, moved))
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _size(tensor: Tensor) -> int:
    """Bytes in memory; an expanded tensor repeats them."""
    counts = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0]
    return torch.Size(counts).numel() * tensor.element_size()


def traffic(run: Callable[[], Any]) -> tuple[Traffic, Any]:
    """What `run` does to photos of SIDE x SIDE pixels, and its result."""
    pixels = SIDE * SIDE
    with Recorder(pixels) as recorder:
        result = run()
    return Traffic(recorder.operations, recorder.bytes / pixels), result


def of_chain(inputs: Inputs, estimator: str) -> tuple[Traffic, Traffic]:
    """Forward and backward pass of the chain, the noise left out."""
    logits = inputs.logits.detach().requires_grad_()
    noise = torch.randn(1, SIDE * SIDE)
    ahead, click = traffic(
        lambda: choose_click_chain(
            logits, *inputs[1:3], estimator=estimator, keys=inputs.keys, check=False, noise=lambda *_: noise
        )
    )
    back, _ = traffic(lambda: backward(click, logits, inputs, estimator))
    return ahead, back


def of_cpu(inputs: Inputs, estimator: str) -> tuple[Traffic, Traffic]:
    """Forward and backward pass of the CPU's implementation, the noise left out."""
    settings = Settings(estimator, 1.0, 1.0, 0, 0, 1, 1)
    tensors = Tensors(inputs.logits, inputs.clicks, inputs.truth_ab, inputs.keys, None)
    noise = torch.randn(1, SIDE * SIDE)
    with patch.object(cpu, "gumbel", lambda *_: noise):
        ahead, (_, choice, statistics, kept) = traffic(lambda: cpu.forward(tensors, settings))
        given = torch.zeros_like(statistics)
        given[:, ENTROPY] = given[:, LOG_PROBABILITY] = 1.0
        of_clicks = None if estimator == "reinforce" else inputs.of_clicks
        back, _ = traffic(lambda: cpu.backward(tensors, settings, choice, statistics, kept, of_clicks, given))
    return ahead, back


def report_traffic(json_file: Path | None) -> None:
    """Print the passes of every estimator; the JSON also has which operations they are."""
    inputs = make_inputs(1, SIDE, SIDE, torch.device("cpu"))
    rows: list[dict[str, object]] = []
    for estimator, (path, measure) in product(ESTIMATORS, (("chain", of_chain), ("ours on a CPU", of_cpu))):
        for which, found in zip(("forward", "backward"), measure(inputs, estimator), strict=True):
            row: dict[str, object] = {"estimator": estimator, "path": path, "pass": which}
            row |= {"passes": found.operations.total(), "bytes/pixel": found.bytes}
            rows.append(row | {"operations": dict(found.operations)})
    shown = [{key: value for key, value in row.items() if key != "operations"} for row in rows]
    report("passes over the pixels, without those of the noise", rows, [], json_file, shown)
