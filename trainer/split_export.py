"""A split network as graphs: its two parts and its palette, beside the whole that every colorizer is."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from evaluator.registry.mlflow_registry import BINS_FILE, PART_FILES, write_tensor
from trainer.networks.split import CELL, MULTIPLE, Embedding, SplitColorNet

TOLERANCE = 1e-5
"""Largest difference of graph and network, as a share of the network's largest output, at least 1."""


def _without(network: SplitColorNet, *names: str) -> SplitColorNet:
    """A copy without some of its layers, whose weights the graph of a part would carry unused."""
    part = copy.deepcopy(network)
    for name in names:
        setattr(part, name, None)
    return part


class EmbedPart(nn.Module):
    """`embed` as a network."""

    def __init__(self, network: SplitColorNet) -> None:
        super().__init__()
        self.network = _without(network, "decoder", "palette")

    def forward(self, lightness: Tensor) -> tuple[Tensor, ...]:
        """The parts of the embedding."""
        return tuple(self.network.embed(lightness))


class ColourPart(nn.Module):
    """`colour` as a network."""

    def __init__(self, network: SplitColorNet) -> None:
        super().__init__()
        self.network = _without(network, "encoder", "base", "convex", "inject", "query", "key")

    def forward(self, lightness: Tensor, clicks: Tensor, *embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Ab and features."""
        ab, features = self.network.colour(Embedding(*embedding), lightness, clicks)
        return ab, features


class PalettePart(nn.Module):
    """`palette` as a network of cells."""

    def __init__(self, network: SplitColorNet) -> None:
        super().__init__()
        self.palette = network.palette

    def forward(self, cells: Tensor) -> Tensor:
        """Logits over the colours, (n, bins), of (n, c) features."""
        return self.palette(cells[:, :, None, None])[:, :, 0, 0]


def export_parts(network: SplitColorNet) -> dict[str, ExportedProgram]:
    """Graphs of the parts, by name in `PART_FILES`, batch and sides free; of a network in evaluation mode.

    Raises:
        RuntimeError: the parts together do not give what the network gives.
    """
    lightness, clicks = _example(2, 2 * MULTIPLE, 2 * MULTIPLE, seed=0)
    embedding = network.embed(lightness)
    batch = Dim("batch")
    sides = [Dim(f"{side}_blocks", min=2) for side in ("height", "width")]

    def free(x: Tensor) -> dict[int, Any]:
        values = MULTIPLE * x.shape[-1] // lightness.shape[-1]
        return {0: batch, x.ndim - 2: values * sides[0], x.ndim - 1: values * sides[1]}

    shapes = (free(lightness), free(clicks), tuple(free(part) for part in embedding))
    programs = {
        "embed": torch.export.export(EmbedPart(network), (lightness,), dynamic_shapes=(free(lightness),)),
        "colour": torch.export.export(ColourPart(network), (lightness, clicks, *embedding), dynamic_shapes=shapes),
        "palette": torch.export.export(
            PalettePart(network), (torch.rand(3, network.palette_channels),), dynamic_shapes=({0: batch},)
        ),
    }
    _check(programs, network)
    return programs


@torch.no_grad()
def _check(programs: Mapping[str, ExportedProgram], network: SplitColorNet) -> None:
    """At another size, with more clicks."""
    lightness, clicks = _example(1, 3 * MULTIPLE, 2 * MULTIPLE, seed=1)
    found, features = programs["colour"].module()(lightness, clicks, *programs["embed"].module()(lightness))
    whole = network.colour(network.embed(lightness), lightness, clicks)
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
    """Write the parts where `evaluator.registry.load` looks for them."""
    for name, program in programs.items():
        file = folder / PART_FILES[name]
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.export.save(program, file)
    write_tensor(folder / BINS_FILE, bins)


def _example(batch: int, height: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise, and a few clicked cells in each photo."""
    generator = torch.Generator().manual_seed(seed)
    lightness = torch.rand(batch, 1, height, width, generator=generator)
    clicks = torch.zeros(batch, 3, height, width)
    for _ in range(3 + seed):
        row, col = (int(torch.randint(side - CELL, (), generator=generator)) for side in (height, width))
        ab = torch.rand(2, generator=generator) - 0.5
        clicks[:, :, row : row + 3, col : col + 3] = torch.cat([torch.ones(1), ab])[None, :, None, None]
    return lightness, clicks
