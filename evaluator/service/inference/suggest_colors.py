"""Colors to propose at a pixel without the true ones, for colorizers that have no palette.

First the evidence: the predicted color, those of pixels that are about as light, and those that the person
already gave. Then the choice: of all colors that a screen can show at the pixel's lightness, the few that together
cover most of the evidence, where a color covers all that look alike (Delta E 2000 <= 10). Other evidence and other
choices do worse (`tests.benchmarks.evaluator.color_suggestions`). Of a split colorizer's
palette: its modes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evaluator.metrics.color import delta_e_2000
from evaluator.registry.session import modes
from evaluator.service.inference.gamut import in_gamut, shown
from kernels.clicks import clicked
from kernels.color import AB_SCALE

ALIKE = 10.0
"""Delta E 2000 within which two colors count as alike."""
GRID_STEP = 6
"""Of the colors to choose from, in CIE units."""

# The next two were chosen on photos that the published hit rates do not use: docs/results/color_suggestions.md.
WIDTH = (6.0, 12.0)
"""How far evidence speaks along a* and along b*, in CIE units. The colors of photos vary more along b*."""
PALE = 1.3
"""Factor on predicted a* and b*: a network that is trained to be right on average predicts too pale colors."""

_TIE = 1e-9
"""Shares that differ by less are equal, but for rounding."""

Color = tuple[tuple[float, float], float]
"""ab in CIE / 128, and its probability."""
Evidence = Float[Tensor, "n 3"]
"""ab in CIE units, and a weight, of n colors."""


@dataclass(frozen=True, eq=False)
class Scene:
    """What is known of a photo, and the pixel (`row`, `col`) in question."""

    working: Float[Tensor, "1 1 h w"]
    """Lightness."""
    clicks: Float[Tensor, "1 3 h w"]
    predicted_ab: Float[Tensor, "1 2 h w"]
    row: int
    col: int

    @property
    def lightness(self) -> float:
        """At the pixel, CIE L* / 100."""
        return float(self.working[0, 0, self.row, self.col])

    @property
    def present(self) -> Float[Tensor, "1 2"]:
        """The predicted ab at the pixel, in CIE units."""
        return AB_SCALE * self.predicted_ab[0, :, self.row, self.col][None]


def covering_colors(scene: Scene, count: int) -> list[Color]:
    """At most `count` colors that cover the prediction, those of similar pixels, and what the person gave."""
    parts = (predicted(scene), 0.5, PALE), (similar(scene), 0.2, PALE), (used(scene), 0.3, 1.0)
    return cover(scene.lightness, kernel(mixture(*parts)), count)


def modes_in_gamut(
    probability: Float[Tensor, " bins"], bins: Float[Tensor, "bins 2"], lightness: float, count: int
) -> list[tuple[tuple[float, float], float]]:
    """The `modes` of a distribution among the colors that a screen can show at a lightness.

    Args:
        probability: of each bin.
        bins: ab / 128; one of them grey, which a screen shows at any lightness.
        lightness: of the pixel, CIE L* / 100.
        count: at most so many.

    Returns:
        ab / 128, and the bin's share of the probability of all bins that can be shown; falling.
    """
    left = probability * shown(lightness, bins)
    colors, shares = modes((left / left.sum())[None], bins, count)
    return [
        ((float(a), float(b)), float(share))
        for (a, b), share in zip(colors[0], shares[0], strict=True)
        if share > 0
    ]


def predicted(scene: Scene) -> Evidence:
    """The predicted color alone."""
    return weighted(scene.present)


def similar(scene: Scene) -> Evidence:
    """The predicted colors of 64 of the photo's pixels that are about as light."""
    off = (scene.working[0, 0] - scene.lightness).abs().flatten()
    chosen = off.argsort(stable=True)[: max(64, off.numel() // 20)]
    spaced = chosen[torch.linspace(0, len(chosen) - 1, min(64, len(chosen))).long()]
    return weighted(AB_SCALE * scene.predicted_ab[0].flatten(1)[:, spaced].T)


def used(scene: Scene) -> Evidence:
    """The colors that the person already gave, those of pixels that are about as light the more."""
    taken = clicked(scene.clicks)[0]
    if not taken.any():
        return torch.zeros(0, 3)
    few = slice(None, None, 1 + int(taken.sum()) // 512)
    colors = AB_SCALE * scene.clicks[0, 1:][:, taken][:, few].T
    off = (scene.working[0, 0][taken][few] - scene.lightness) / 0.1
    return torch.cat([colors, (-0.5 * off.square()).exp()[:, None]], dim=1)


def weighted(colors: Float[Tensor, "n 2"]) -> Evidence:
    """Colors (CIE units) that count alike, together 1."""
    return torch.cat([colors, torch.full((len(colors), 1), 1 / max(1, len(colors)))], dim=1)


def mixture(*parts: tuple[Float[Tensor, "_ 3"], float, float]) -> Evidence:
    """Evidence from several sources, each with its share, and a factor on its a* and b*."""
    return torch.cat(
        [
            torch.cat([factor * part[:, :2], share * part[:, 2:] / part[:, 2:].sum().clamp(min=1e-9)], dim=1)
            for part, share, factor in parts
        ]
    )


def kernel(evidence: Evidence) -> Callable[[Tensor], Tensor]:
    """A density around evidence: exp(-distance), in units of `WIDTH` along a* and b*."""
    scale = torch.tensor(WIDTH)
    centers, weights = evidence[:, :2] / scale, evidence[:, 2].double()

    def density(colors: Tensor) -> Tensor:
        return (-torch.cdist(colors / scale, centers).double()).exp() @ weights

    return density


def cover(lightness: float, density: Callable[[Tensor], Tensor], count: int) -> list[Color]:
    """The colors that together cover most of a density over the colors of a lightness, greedily.

    Args:
        lightness: CIE L* / 100.
        density: of colors (n, 2) in CIE units, at least 0; need not sum to 1.
        count: of colors, at most.

    Returns:
        Each with the share of the density that it covers and those before it do not.
    """
    colors, alike = choices(min(99, max(1, round(100 * lightness))))
    left = density(colors)
    left = left / left.sum()
    found: list[Color] = []
    for _ in range(count):
        gains = alike.to(left.dtype) @ left
        # Near black and white several cover the same: then the densest of them, not the first one.
        best = int(left.masked_fill(gains < gains.max() * (1 - _TIE), -1.0).argmax())
        if not float(gains[best]) > 0.0:  # near black and white all colors look alike
            break
        a, b = (colors[best] / AB_SCALE).clamp(-1.0, 1.0).tolist()
        found.append(((a, b), float(gains[best])))
        left = left.masked_fill(alike[best], 0.0)
    return found


@lru_cache(maxsize=128)
def choices(lightness: int) -> tuple[Float[Tensor, "n 2"], Bool[Tensor, "n n"]]:
    """Colors (CIE units) that a screen shows at a lightness (CIE L*), and which of them look alike."""
    colors = torch.tensor([(a, b) for a, b, _ in in_gamut(float(lightness), GRID_STEP)])
    return colors, color_differences(float(lightness), colors, colors) <= ALIKE


def color_differences(
    lightness: float, first: Float[Tensor, "n 2"], second: Float[Tensor, "m 2"]
) -> Float[Tensor, "n m"]:
    """Delta E 2000 between colors (CIE units) of one lightness (CIE L*)."""
    shape = (len(first), len(second))
    one = (first.T[:, :, None].expand(-1, *shape) / AB_SCALE)[None]
    other = (second.T[:, None].expand(-1, *shape) / AB_SCALE)[None]
    light = torch.full((1, 1, *shape), lightness / 100)
    return delta_e_2000(light, one, light, other)[0]
