"""The networks of the toy recipe: one tints a photo by its lightness, one tells tinted photos from true ones."""

import torch
from torch import Tensor, nn


class Tint(nn.Module):
    """ab of every pixel from its lightness alone."""

    multiple = 1

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, width, 1), nn.ReLU(), nn.Conv2d(width, 2, 1), nn.Tanh())

    def forward(self, lightness: Tensor) -> Tensor:
        return self.layers(lightness)


class Judge(nn.Module):
    """A score for each photo: the higher, the truer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, 3, stride=2), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 3))

    def forward(self, lightness: Tensor, ab: Tensor) -> Tensor:
        return self.layers(torch.cat([lightness, ab], 1)).mean((1, 2, 3))


class Colorizer(nn.Module):
    """The house's call around `Tint`, which looks at no clicks."""

    multiple = 1

    def __init__(self, tint: nn.Module) -> None:
        super().__init__()
        self.tint = tint

    def forward(self, lightness: Tensor, clicks: Tensor) -> Tensor:
        return self.tint(lightness) + 0 * clicks[:, :2]
