"""Export of trained networks as graphs with contracts, independent of MLflow."""

import copy
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from evaluator.registry.contract import FILE_NAME, Contract, Port, Variant, standard_ports
from evaluator.registry.mlflow_registry import BINS_FILE, GRAPH_FILE, PART_FILES, write_tensor
from evaluator.system.environment import commit, versions
from trainer.networks.split import CELL, MULTIPLE, Embedding, SplitColorNet

TOLERANCE = 1e-5
"""Largest difference of graph and network, as a share of the network's largest output, at least 1."""


def _without(network: SplitColorNet, *names: str) -> SplitColorNet:
    """A copy without some of its layers, whose unused weights a part's graph would carry."""
    part = copy.deepcopy(network)
    for name in names:
        setattr(part, name, None)
    return part


class EmbedPart(nn.Module):
    """`embed` as a module."""

    def __init__(self, network: SplitColorNet) -> None:
        super().__init__()
        self.network = _without(network, "decoder", "palette")

    def forward(self, lightness: Tensor) -> tuple[Tensor, ...]:
        """Tensors of the embedding."""
        return tuple(self.network.embed(lightness))


class ColorPart(nn.Module):
    """`color` as a module."""

    def __init__(self, network: SplitColorNet) -> None:
        super().__init__()
        self.network = _without(network, "encoder", "base", "convex", "inject", "query", "key")

    def forward(self, lightness: Tensor, clicks: Tensor, *embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Ab and features."""
        ab, features = self.network.color(Embedding(*embedding), lightness, clicks)
        return ab, features


class PalettePart(nn.Module):
    """`palette` as a module of cells."""

    def __init__(self, network: SplitColorNet) -> None:
        super().__init__()
        self.palette = network.palette

    def forward(self, cells: Tensor) -> Tensor:
        """Logits over the colors, (n, bins), of (n, c) features."""
        return self.palette(cells[:, :, None, None])[:, :, 0, 0]


def export_parts(network: SplitColorNet) -> dict[str, ExportedProgram]:
    """Graphs of the parts by name in `PART_FILES`, with free batch and sides, of a network in evaluation mode.

    Raises:
        RuntimeError: the parts together do not give what the network gives.
    """
    lightness, clicks = _split_example(2, 2 * MULTIPLE, 2 * MULTIPLE, seed=0)
    embedding = network.embed(lightness)
    batch = Dim("batch")
    sides = [Dim(f"{side}_blocks", min=2) for side in ("height", "width")]

    def free(x: Tensor) -> dict[int, Any]:
        values = MULTIPLE * x.shape[-1] // lightness.shape[-1]
        return {0: batch, x.ndim - 2: values * sides[0], x.ndim - 1: values * sides[1]}

    shapes = (free(lightness), free(clicks), tuple(free(part) for part in embedding))
    programs = {
        "embed": torch.export.export(EmbedPart(network), (lightness,), dynamic_shapes=(free(lightness),)),
        "color": torch.export.export(ColorPart(network), (lightness, clicks, *embedding), dynamic_shapes=shapes),
        "palette": torch.export.export(
            PalettePart(network), (torch.rand(3, network.palette_channels),), dynamic_shapes=({0: batch},)
        ),
    }
    _check_parts(programs, network)
    return programs


@torch.no_grad()
def _check_parts(programs: Mapping[str, ExportedProgram], network: SplitColorNet) -> None:
    """Compare the exported parts with the network at another size and with more clicks."""
    lightness, clicks = _split_example(1, 3 * MULTIPLE, 2 * MULTIPLE, seed=1)
    found, features = programs["color"].module()(lightness, clicks, *programs["embed"].module()(lightness))
    whole = network.color(network.embed(lightness), lightness, clicks)
    cells = features[:, : network.palette_channels].flatten(2)[0].T
    logits = network.bin_logits(features, torch.arange(len(cells))[None])[0].T
    pairs = {"ab": (found, whole.ab), "features": (features, whole.features)}
    pairs["palette"] = programs["palette"].module()(cells), logits
    for name, (part, right) in pairs.items():
        error, allowed = float((part - right).abs().max()), TOLERANCE * max(1.0, float(right.abs().max()))
        if not error <= allowed:
            raise RuntimeError(
                f"{name} of the exported parts differ from the split network's by {error:.2g} "
                f"(allowed {allowed:.2g})"
            )


def save_parts(programs: Mapping[str, ExportedProgram], bins: Tensor, folder: Path) -> None:
    """Write the parts where `evaluator.registry.mlflow_registry.load` looks for them."""
    for name, program in programs.items():
        file = folder / PART_FILES[name]
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.export.save(program, file)
    write_tensor(folder / BINS_FILE, bins)


def _split_example(batch: int, height: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Example input: noise, and a few clicked cells in each photo."""
    generator = torch.Generator().manual_seed(seed)
    lightness = torch.rand(batch, 1, height, width, generator=generator)
    clicks = torch.zeros(batch, 3, height, width)
    for _ in range(3 + seed):
        row, col = (int(torch.randint(side - CELL, (), generator=generator)) for side in (height, width))
        ab = torch.rand(2, generator=generator) - 0.5
        clicks[:, :, row : row + 3, col : col + 3] = torch.cat([torch.ones(1), ab])[None, :, None, None]
    return lightness, clicks


@dataclass(frozen=True)
class Exported:
    """A graph that was checked against its network, with its inputs and outputs."""

    program: ExportedProgram
    contract: Contract
    parts: Mapping[str, ExportedProgram] = field(default_factory=dict)
    """Of a split colorizer, see `export_parts`."""
    bins: Tensor | None = None
    """The colors of its palette."""


def describe(
    network: nn.Module,
    name: str,
    *,
    variant: Variant | None = None,
    hint_size: int | tuple[int, int] = 1,
    temperature: float | None = None,
    follows_clicks: bool = True,
    colorizer: nn.Module | None = None,
    config: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> Contract:
    """Contract of a network of this repository.

    Args:
        network: has `multiple`, the divisor of its sides in pixels.
        name: its name in the registry.
        variant: "blind" or "oracle" makes it a guide; None a colorizer.
        hint_size: side of a hint patch in training, in pixels, or smallest and largest.
        temperature: T of a guide's heat map.
        follows_clicks: whether a colorizer uses clicks at all.
        colorizer: the network whose features a guide reads; without effect for one that reads none.
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
    features = getattr(network, "feature_channels", 0)
    inputs, outputs = standard_ports(kind, variant, features if variant else 0)
    reads = weights_hash(colorizer) if variant and features and colorizer is not None else ""
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
        follows_clicks=follows_clicks,
        features=features,
        weights=weights_hash(network),
        reads=reads,
        config=dict(config or {}),
        metrics={key: float(value) for key, value in (metrics or {}).items() if math.isfinite(value)},
        commit=commit(),
        versions=versions(("chromaclick", "torch")),
    )


def weights_hash(network: nn.Module) -> str:
    """SHA-256 over a network's weights and statistics by name, hexadecimal."""
    return hash_of(network.state_dict())


def hash_of(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over tensors by name, hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def export(network: nn.Module, contract: Contract) -> Exported:
    """Export a copy of a network in evaluation mode, on the CPU, in float32, and check it.

    Batch, height and width stay free: any batch, and sides that are multiples of `contract.multiple` from
    `contract.min_size` up. The network itself, its mode, device and dtype, and the random state are not touched.

    Raises:
        RuntimeError: the graph's output differs from the network's at another batch, height and width.
    """
    still = copy.deepcopy(network).to("cpu", torch.float32).eval().requires_grad_(False)
    headed, free = bool(contract.reads), _free_dimensions(contract)
    if headed:
        still = Called(still, contract)
    still.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]: missing overload
    program = torch.export.export(
        still,
        _example(contract, 2, contract.min_size, contract.min_size),
        dynamic_shapes=(free,) if headed else free,
    )
    if isinstance(still, SplitColorNet):
        exported = Exported(program, contract, export_parts(still), still.bins)
    else:
        exported = Exported(program, contract)
    _check(exported, still)
    return exported


def save(exported: Exported, folder: Path) -> Path:
    """Write graph and contract as a folder that `evaluator.registry.mlflow_registry.load` reads, and return it."""
    graph_file = folder / GRAPH_FILE
    graph_file.parent.mkdir(parents=True, exist_ok=True)
    torch.export.save(exported.program, graph_file)
    (folder / FILE_NAME).write_text(exported.contract.to_json(), encoding="utf-8")
    if exported.bins is not None:
        save_parts(exported.parts, exported.bins, folder)
    return folder


class Called(nn.Module):
    """A network behind its contract's call, with inputs in the order of the ports."""

    def __init__(self, network: nn.Module, contract: Contract) -> None:
        super().__init__()
        self.network = network
        self._names = [port.name for port in contract.inputs]

    def forward(self, *inputs: Tensor) -> Tensor:
        """Output of the network."""
        named = dict(zip(self._names, inputs, strict=True))
        features = {"features": named.pop("features")} if "features" in named else {}
        return self.network(*named.values(), **features)


def _free_dimensions(contract: Contract) -> tuple[dict[int, Any], ...]:
    least = contract.min_size // contract.multiple
    batch = Dim("batch")
    height, width = (Dim(f"{side}_blocks", min=least) for side in ("height", "width"))
    values = [contract.multiple // port.cell for port in contract.inputs]
    return tuple({0: batch, 2: count * height, 3: count * width} for count in values)


def _example(contract: Contract, batch: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Example input: uniform noise over each input's range."""
    generator = torch.Generator().manual_seed(seed)

    def draw(port: Port) -> Tensor:
        low, high = port.low or 0.0, port.high or 1.0
        sides = height // port.cell, width // port.cell
        return torch.rand(batch, port.channels or 1, *sides, generator=generator) * (high - low) + low

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
