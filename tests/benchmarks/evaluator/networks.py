"""Untrained networks and made-up photos, for benchmarks where none are given.

`MadeUp` is a small colorizer. The U-Nets are of the trainer's size, so that they cost what trained ones do; what
they answer is noise.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image
from torch import Tensor, nn
from torch.export import Dim

from evaluator.registry.contract import FILE_NAME, Contract, standard_ports
from evaluator.registry.mlflow_registry import GRAPH_FILE
from evaluator.system.environment import commit, versions

COLORIZER_WIDTHS = (24, 48, 96, 128, 128, 192)
GUIDE_WIDTHS = (8, 16, 32, 32, 32, 64)


class MadeUp(nn.Module):
    """Colors from three convolutions with fixed random weights."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(4, 16, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 16, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 2, 1),
        )
        for parameter in self.parameters():
            parameter.data.normal_(0, 0.1, generator=generator).requires_grad_(False)

    def forward(self, lightness: Tensor, clicks: Tensor) -> Tensor:
        """(B,2,H,W) in [-1, 1]."""
        return self.layers(torch.cat([lightness, clicks], dim=1)).tanh()


def save_made_up(folder: Path) -> Path:
    """The network as a `.pt2` file with its contract, as `python -m evaluator benchmark` takes it."""
    inputs, outputs = standard_ports("colorizer", None)
    contract = Contract(
        kind="colorizer", name="made-up", inputs=inputs, outputs=outputs, multiple=1, min_size=8, hint_size=1
    )
    free = {0: Dim("batch"), 2: Dim("height", min=8), 3: Dim("width", min=8)}
    example = torch.zeros(2, 1, 16, 16), torch.zeros(2, 3, 16, 16)
    file = folder / "made-up.pt2"
    torch.export.save(torch.export.export(MadeUp().eval(), example, dynamic_shapes=(free, free)), file)
    (folder / FILE_NAME).write_text(contract.to_json(), encoding="utf-8")
    return file


def crops(folder: Path, count: int, size: int, suffix: str = "png") -> Path:
    """A folder with square crops of a photograph inside scikit-image's wheel.

    Args:
        folder: where they are written.
        count: how many, each from another place (seeded).
        size: side in pixels, at most 512.
        suffix: png or jpg.
    """
    astronaut = np.asarray(skimage.data.astronaut())
    places = np.random.default_rng(0).integers(0, max(1, 512 - size), (count, 2))
    for number, (top, left) in enumerate(places):
        crop = astronaut[top : top + size, left : left + size]
        Image.fromarray(crop).save(folder / f"{number:05d}.{suffix}")
    return folder


class _Block(nn.Module):
    """Two 3x3 convolutions beside a 1x1 one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs))
        self.beside = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.beside(x))


class PlainUNet(nn.Module):
    """A residual U-Net with one level less than there are widths; sides are multiples of `multiple`."""

    def __init__(self, inputs: int, outputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.multiple = 2 ** (len(widths) - 1)
        self.down = nn.ModuleList(_Block(a, b) for a, b in pairwise([inputs, *widths]))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairwise(reversed(widths)))
        self.fuse = nn.ModuleList(_Block(2 * width, width) for width in reversed(widths[:-1]))
        self.last = nn.Conv2d(widths[0], outputs, 1)

    def through(self, *maps: Tensor) -> Tensor:
        """(B,outputs,H,W) in [-1, 1], or (B,H,W) for one output."""
        x, skips = torch.cat(maps, dim=1), []
        for number, down in enumerate(self.down):
            x = down(x if number == 0 else nn.functional.max_pool2d(x, 2))
            skips.append(x)
        skips.pop()
        for grow, fuse in zip(self.grow, self.fuse, strict=True):
            x = fuse(torch.cat([skips.pop(), grow(x)], dim=1))
        x = torch.tanh(self.last(x))
        return x[:, 0] if x.shape[1] == 1 else x


class _Colorizer(PlainUNet):
    """As the house calls it."""

    def forward(self, lightness: Tensor, clicks: Tensor) -> Tensor:
        return self.through(lightness, clicks)


class _Guide(PlainUNet):
    """As the house calls a blind one."""

    def forward(self, lightness: Tensor, predicted_ab: Tensor, clicks: Tensor) -> Tensor:
        return self.through(lightness, predicted_ab, clicks)


def make_networks(
    folder: Path, colorizer_widths: Sequence[int] = COLORIZER_WIDTHS, guide_widths: Sequence[int] = GUIDE_WIDTHS
) -> tuple[Path, Path]:
    """Model folders of an untrained colorizer and an untrained blind guide, as the registry loads them."""
    torch.manual_seed(0)
    colorizer, guide = _Colorizer(4, 2, colorizer_widths), _Guide(6, 1, guide_widths)
    return _save(colorizer, folder / "colorizer", False), _save(guide, folder / "guide", True)


def _save(network: PlainUNet, folder: Path, is_guide: bool) -> Path:
    network.eval().requires_grad_(False)
    inputs, outputs = standard_ports("guide", "blind") if is_guide else standard_ports("colorizer", None)
    contract = Contract(
        kind="guide" if is_guide else "colorizer",
        name="untrained-guide" if is_guide else "untrained-colorizer",
        inputs=inputs,
        outputs=outputs,
        multiple=network.multiple,
        min_size=2 * network.multiple,
        hint_size=3,
        temperature=1.0 if is_guide else None,
        variant="blind" if is_guide else None,
        commit=commit(),
        versions=versions(("chromaclick", "torch")),
    )
    sides = {side: network.multiple * Dim(f"blocks_{side}", min=2) for side in (2, 3)}
    example = tuple(torch.rand(2, port.channels or 1, contract.min_size, contract.min_size) for port in inputs)
    shapes = tuple({0: Dim("batch"), **sides} for _ in inputs)
    program = torch.export.export(network, example, dynamic_shapes=shapes)
    (folder / GRAPH_FILE).parent.mkdir(parents=True)
    torch.export.save(program, folder / GRAPH_FILE)
    (folder / FILE_NAME).write_text(contract.to_json())
    return folder
