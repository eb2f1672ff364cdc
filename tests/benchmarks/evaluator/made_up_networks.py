"""A made-up colorizer and made-up photos: something to measure speed and memory with where none is given."""

from pathlib import Path

import numpy as np
import skimage
import torch
from PIL import Image
from torch import Tensor, nn
from torch.export import Dim

from evaluator.registry.contract import FILE_NAME, Contract, standard_ports


class MadeUp(nn.Module):
    """Colours from three convolutions with fixed random weights."""

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
