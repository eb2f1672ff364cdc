"""A trained network becomes an exported graph with a contract. Knows nothing of MLflow: see `trainer.tracking`."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from evaluator.contract import FILE_NAME, Contract, Port, Variant, standard_ports
from evaluator.registry import GRAPH_FILE
from kernels.benchmarking import commit, versions

TOLERANCE = 1e-5
"""Largest difference of graph and network, as a share of the network's largest output, at least 1."""


@dataclass(frozen=True)
class Exported:
    """A graph that was checked against its network, and what it takes and gives."""

    program: ExportedProgram
    contract: Contract


def describe(
    network: nn.Module,
    name: str,
    *,
    variant: Variant | None = None,
    hint_size: int | tuple[int, int] = 1,
    temperature: float | None = None,
    config: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Contract:
    """The contract of a network of this repository.

    Args:
        network: has `multiple`, the divisor of its sides in pixels.
        name: its name in the registry.
        variant: "blind" or "oracle" makes it a guide; None a colorizer.
        hint_size: side of a click's stamp in training, in pixels, or smallest and largest.
        temperature: T of a guide's heat map.
        config: the whole training config.
        metrics: validation results; those that are not finite are left out.

    Raises:
        ValueError: the values do not fit each other.
    """
    multiple = getattr(network, "multiple", None)
    if not isinstance(multiple, int):
        raise ValueError(
            f"{type(network).__name__}.multiple is {multiple!r}; give the divisor of its sides in pixels"
        )
    kind = "guide" if variant else "colorizer"
    inputs, outputs = standard_ports(kind, variant)
    return Contract(
        kind=kind,
        name=name,
        inputs=inputs,
        outputs=outputs,
        multiple=multiple,
        min_size=2
        * multiple,  # torch.export takes a 1x1 bottleneck for a constant, so that no other size would fit
        hint_size=hint_size,
        temperature=temperature,
        variant=variant,
        config=dict(config or {}),
        metrics={key: float(value) for key, value in (metrics or {}).items() if math.isfinite(value)},
        commit=commit(),
        versions=versions(("chromaclick", "torch")),
    )


def export(network: nn.Module, contract: Contract) -> Exported:
    """Export a copy of a network in evaluation mode, on the CPU, in float32, and check it.

    Batch, height and width stay free: any batch, and sides that are multiples of `contract.multiple` from
    `contract.min_size` up. The network itself, its mode, device and dtype, and the random state are not touched.

    Raises:
        RuntimeError: the graph's output differs from the network's at another batch, height and width.
    """
    still = copy.deepcopy(network).to("cpu", torch.float32).eval().requires_grad_(False)
    still.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]: missing overload
    program = torch.export.export(
        still,
        _example(contract, 2, contract.min_size, contract.min_size),
        dynamic_shapes=_free_dimensions(contract),
    )
    exported = Exported(program, contract)
    _check(exported, still)
    return exported


def save(exported: Exported, folder: Path) -> Path:
    """Write graph and contract as a folder that `evaluator.registry.load` reads, and return it."""
    graph_file = folder / GRAPH_FILE
    graph_file.parent.mkdir(parents=True, exist_ok=True)
    torch.export.save(exported.program, graph_file)
    (folder / FILE_NAME).write_text(exported.contract.to_json(), encoding="utf-8")
    return folder


def _free_dimensions(contract: Contract) -> tuple[dict[int, Any], ...]:
    least = contract.min_size // contract.multiple
    batch = Dim("batch")
    height, width = (contract.multiple * Dim(f"{side}_blocks", min=least) for side in ("height", "width"))
    return tuple({0: batch, 2: height, 3: width} for _ in contract.inputs)


def _example(contract: Contract, batch: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Uniform noise over each input's range."""
    generator = torch.Generator().manual_seed(seed)

    def draw(port: Port) -> Tensor:
        low, high = port.low or 0.0, port.high or 0.0
        return torch.rand(batch, port.channels or 1, height, width, generator=generator) * (high - low) + low

    return tuple(draw(port) for port in contract.inputs)


@torch.no_grad()
def _check(exported: Exported, network: nn.Module) -> None:
    contract = exported.contract
    # One photo, not square: the batch and the sides that a specialised graph would get wrong.
    inputs = _example(contract, 1, contract.min_size + contract.multiple, contract.min_size, seed=1)
    expected, found = network(*inputs), exported.program.module()(*inputs)
    error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
    if not error <= TOLERANCE:
        raise RuntimeError(
            f"the exported {contract.name} differs from its network by {error:.2g} (allowed {TOLERANCE}); it was "
            f"not written. Is every layer the same in evaluation mode, and free of randomness?"
        )
