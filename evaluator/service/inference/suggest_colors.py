"""Ways to propose colours at a pixel without the true ones.

Two steps. Evidence: colours that speak for the pixel, such as the predicted one, and those that the network
predicts for a slightly different question. Choice: of all colours that a screen can show at the pixel's lightness,
the few that together cover most of the evidence, where a colour covers all that look alike (Delta E 2000 <= 10).
"""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from evaluator.metrics.color import delta_e_2000
from evaluator.registry.contract import FEATURE_CELL
from evaluator.registry.session import modes
from evaluator.service.inference.engine import Engine
from evaluator.service.inference.gamut import in_gamut, shown
from evaluator.service.inference.networks import Networks
from kernels.clicks import clicked
from kernels.color import AB_SCALE, lab_to_rgb, rgb_to_lab

ALIKE = 10.0
"""Delta E 2000 within which two colours count as alike."""
GRID_STEP = 6
"""Of the colours to choose from, in CIE units."""

# The next two were chosen on photos that the published hit rates do not use: docs/results/colour_suggestions.md.
WIDTH = (6.0, 12.0)
"""How far evidence speaks along a* and along b*, in CIE units. The colours of photos vary more along b*."""
PALE = 1.3
"""Factor on predicted a* and b*: a network that is trained to be right on average predicts too pale colours."""

_TIE = 1e-9
"""Shares that differ by less are equal, but for rounding."""

Colour = tuple[tuple[float, float], float | None]
"""ab in CIE / 128, and its probability."""
Evidence = Float[Tensor, "n 3"]
"""ab in CIE units, and a weight, of n colours."""


@dataclass(frozen=True, eq=False)
class Scene:
    """What a method may look at."""

    engine: Engine
    networks: Networks
    working: Float[Tensor, "1 1 h w"]
    clicks: Float[Tensor, "1 3 h w"]
    predicted_ab: Float[Tensor, "1 2 h w"]
    row: int
    col: int
    features: Tensor | None = None
    """Of the present colours, (1,c,h/4,w/4) of the padded photo, by a split colorizer."""

    @property
    def lightness(self) -> float:
        """At the pixel, CIE L* / 100."""
        return float(self.working[0, 0, self.row, self.col])

    @property
    def present(self) -> Float[Tensor, "1 2"]:
        """The predicted ab at the pixel, in CIE units."""
        return AB_SCALE * self.predicted_ab[0, :, self.row, self.col][None]

    async def colorize(self, lightness: Tensor, clicks: Tensor) -> Float[Tensor, "1 2 h w"]:
        """Ask the colorizer again."""
        return await self.engine.colorize(lightness, clicks, self.networks)

    @property
    def distribution(self) -> Float[Tensor, " bins"]:
        """Probability of each colour of a split colorizer's palette at the pixel; they sum to 1."""
        split = self.networks.colorizer.split
        assert split is not None
        assert self.features is not None
        cell = self.features[:, :, self.row // FEATURE_CELL, self.col // FEATURE_CELL]
        return split.distribution(cell)[0]

    @property
    def bins(self) -> Float[Tensor, "bins 2"]:
        """The colours of that palette, ab / 128."""
        assert self.networks.colorizer.split is not None
        return self.networks.colorizer.split.bins


# Evidence ------------------------------------------------------------------------------------------------------


async def predicted(scene: Scene) -> Evidence:
    """The predicted colour alone."""
    return _weighted(scene.present, 1.0)


async def similar(scene: Scene) -> Evidence:
    """The predicted colours of 64 of the photo's pixels that are about as light."""
    off = (scene.working[0, 0] - scene.lightness).abs().flatten()
    chosen = off.argsort(stable=True)[: max(64, off.numel() // 20)]
    spaced = chosen[torch.linspace(0, len(chosen) - 1, min(64, len(chosen))).long()]
    return _weighted(AB_SCALE * scene.predicted_ab[0].flatten(1)[:, spaced].T, 1.0)


async def used(scene: Scene) -> Evidence:
    """The colours that the person already gave, those of pixels that are about as light the more."""
    taken = clicked(scene.clicks)[0]
    if not taken.any():
        return torch.zeros(0, 3)
    few = slice(None, None, 1 + int(taken.sum()) // 512)
    colours = AB_SCALE * scene.clicks[0, 1:][:, taken][:, few].T
    off = (scene.working[0, 0][taken][few] - scene.lightness) / 0.1
    return torch.cat([colours, (-0.5 * off.square()).exp()[:, None]], dim=1)


async def jittered(scene: Scene) -> Evidence:
    """Predictions for the photo mirrored, lighter, darker, harder and softer."""
    found = [scene.present]
    for mirror, gamma, offset in _JITTER:
        flip = (-1,) if mirror else ()
        light = (scene.working.flip(flip) ** gamma + offset).clamp(0, 1)
        ab = (await scene.colorize(light, scene.clicks.flip(flip))).flip(flip)
        found.append(AB_SCALE * ab[0, :, scene.row, scene.col][None])
    return _weighted(torch.cat(found), 1.0)


_JITTER = ((True, 1.0, 0.0), (False, 0.8, 0.0), (False, 1.25, 0.0), (True, 1.0, 0.08), (True, 1.0, -0.08))


async def imagined(scene: Scene) -> Evidence:
    """Predictions with three imagined clicks elsewhere, each in its predicted colour plus noise, a few times."""
    found = [scene.present]
    height, width = scene.working.shape[-2:]
    generator = torch.Generator().manual_seed(0)  # the same question gets the same answer
    for _ in range(_IMAGINED):
        clicks = scene.clicks.clone()
        for place in torch.rand(3, 2, generator=generator).tolist():
            row, col = int(place[0] * height), int(place[1] * width)
            noise = _NOISE * torch.randn(2, generator=generator)
            clicks[0, 0, row, col] = 1.0
            clicks[0, 1:, row, col] = (scene.predicted_ab[0, :, row, col] + noise / AB_SCALE).clamp(-1, 1)
        ab = await scene.colorize(scene.working, clicks)
        found.append(AB_SCALE * ab[0, :, scene.row, scene.col][None])
    return _weighted(torch.cat(found), 1.0)


_IMAGINED, _NOISE = 5, 30.0


async def likely(scene: Scene) -> Evidence:
    """The colours of a split colorizer's palette, as likely as it says."""
    return torch.cat([AB_SCALE * scene.bins, scene.distribution.float()[:, None]], dim=1)


def _weighted(colours: Tensor, weight: float) -> Evidence:
    return torch.cat([colours, torch.full((len(colours), 1), weight / max(1, len(colours)))], dim=1)


# Choice --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=128)
def _choices(lightness: int) -> tuple[Float[Tensor, "n 2"], Bool[Tensor, "n n"]]:
    """Colours (CIE units) that a screen shows at a lightness (CIE L*), and which of them look alike."""
    colours = torch.tensor([(a, b) for a, b, _ in in_gamut(float(lightness), GRID_STEP)])
    return colours, _delta_e(float(lightness), colours, colours) <= ALIKE


def _delta_e(lightness: float, first: Float[Tensor, "n 2"], second: Float[Tensor, "m 2"]) -> Float[Tensor, "n m"]:
    """Delta E 2000 between colours (CIE units) of one lightness (CIE L*)."""
    shape = (len(first), len(second))
    one = (first.T[:, :, None].expand(-1, *shape) / AB_SCALE)[None]
    other = (second.T[:, None].expand(-1, *shape) / AB_SCALE)[None]
    light = torch.full((1, 1, *shape), lightness / 100)
    return delta_e_2000(light, one, light, other)[0]


def cover(lightness: float, density: Callable[[Tensor], Tensor], count: int) -> list[Colour]:
    """The colours that together cover most of a density over the colours of a lightness, greedily.

    Args:
        lightness: CIE L* / 100.
        density: of colours (n, 2) in CIE units, at least 0; need not sum to 1.
        count: of colours, at most.

    Returns:
        Each with the share of the density that it covers and those before it do not.
    """
    colours, alike = _choices(min(99, max(1, round(100 * lightness))))
    left = density(colours)
    left = left / left.sum()
    found: list[Colour] = []
    for _ in range(count):
        gains = alike.to(left.dtype) @ left
        # Near black and white several cover the same: then the densest of them, not the first one.
        best = int(left.masked_fill(gains < gains.max() * (1 - _TIE), -1.0).argmax())
        if not float(gains[best]) > 0.0:  # near black and white all colours look alike
            break
        found.append((_pair(colours[best] / AB_SCALE), float(gains[best])))
        left = left.masked_fill(alike[best], 0.0)
    return found


def kernel(evidence: Evidence) -> Callable[[Tensor], Tensor]:
    """A density around evidence: exp(-distance), in units of `WIDTH` along a* and b*."""
    scale = torch.tensor(WIDTH)
    centres, weights = evidence[:, :2] / scale, evidence[:, 2].double()

    def density(colours: Tensor) -> Tensor:
        return (-torch.cdist(colours / scale, centres).double()).exp() @ weights

    return density


# Methods -------------------------------------------------------------------------------------------------------

Source = Callable[[Scene], Awaitable[Evidence]]
Method = Callable[[Scene, int], Awaitable[list[Colour]]]


def covering(*sources: tuple[Source, float, float]) -> Method:
    """The method that covers a mixture of evidence.

    Args:
        sources: each with its share, and a factor on its a* and b*.
    """

    async def propose(scene: Scene, count: int) -> list[Colour]:
        parts = []
        for source, share, factor in sources:
            part = await source(scene)
            weights = share * part[:, 2:] / part[:, 2:].sum().clamp(min=1e-9)
            parts.append(torch.cat([factor * part[:, :2], weights], dim=1))
        return cover(scene.lightness, kernel(torch.cat(parts)), count)

    return propose


async def ring(scene: Scene, count: int) -> list[Colour]:
    """The predicted colour, and others at 20 CIE units around it."""
    angles = torch.arange(count - 1) * (2 * math.pi / max(1, count - 1))
    around = scene.present + 20 * torch.stack([angles.cos(), angles.sin()], dim=1)
    return _as_shown(scene, torch.cat([scene.present, around]))


async def fan(scene: Scene, count: int) -> list[Colour]:
    """The predicted hue and its neighbours, once as strong and twice as strong, and grey."""
    a, b = scene.present[0].tolist()
    strength, hue = max(8.0, math.hypot(a, b)), math.atan2(b, a)
    steps = [
        (1, 0.0),
        (2, 0.0),
        (0, 0.0),
        (1.5, 0.7),
        (1.5, -0.7),
        (1.5, 1.4),
        (1.5, -1.4),
        (3, 0.0),
        (1.5, math.pi),
    ]
    colours = [
        (times * strength * math.cos(hue + turn), times * strength * math.sin(hue + turn)) for times, turn in steps
    ]
    return _as_shown(scene, torch.tensor(colours[:count]))


async def distribution(scene: Scene, count: int) -> list[Colour]:
    """The modes of a split colorizer's palette."""
    return list(modes_in_gamut(scene.distribution, scene.bins, scene.lightness, count))


def modes_in_gamut(
    probability: Float[Tensor, " bins"], bins: Float[Tensor, "bins 2"], lightness: float, count: int
) -> list[tuple[tuple[float, float], float]]:
    """The `modes` of a distribution among the colours that a screen can show at a lightness.

    Args:
        probability: of each bin.
        bins: ab / 128; one of them grey, which a screen shows at any lightness.
        lightness: of the pixel, CIE L* / 100.
        count: at most so many.

    Returns:
        ab / 128, and the bin's share of the probability of all bins that can be shown; falling.
    """
    left = probability * shown(lightness, bins)
    colours, shares = modes((left / left.sum())[None], bins, count)
    return [(_pair(ab), float(share)) for ab, share in zip(colours[0], shares[0], strict=True) if share > 0]


async def diverse(scene: Scene, count: int) -> list[Colour]:
    """The predicted colour, then always the colour at this lightness that is farthest from those before."""
    lightness = min(99, max(1, round(100 * scene.lightness)))
    colours, _ = _choices(lightness)
    found = scene.present
    while len(found) < count:
        nearest = _delta_e(float(lightness), colours, found).min(1).values
        found = torch.cat([found, colours[nearest.argmax()][None]])
    return _as_shown(scene, found)


async def clusters_of_similar(scene: Scene, count: int) -> list[Colour]:
    """Centres of k-means over the predicted colours of pixels that are about as light."""
    return _as_shown(scene, _centres((await similar(scene))[:, :2], count))


async def clusters_of_answers(scene: Scene, count: int) -> list[Colour]:
    """Centres of k-means over the predictions for the photo changed a little, and with imagined clicks."""
    answers = torch.cat([(await jittered(scene))[:, :2], (await imagined(scene))[1:, :2]])
    return _as_shown(scene, _centres(answers, count))


def _centres(colours: Float[Tensor, "n 2"], count: int) -> Float[Tensor, "k 2"]:
    """Lloyd's k-means from farthest points, the largest cluster first."""
    centres = colours[:1]
    while len(centres) < count:
        far = torch.cdist(colours, centres).min(1).values.argmax()
        centres = torch.cat([centres, colours[far][None]])
    for _ in range(8):
        member = torch.cdist(colours, centres).argmin(1)
        centres = torch.stack(
            [colours[member == k].mean(0) if (member == k).any() else centres[k] for k in range(count)]
        )
    sizes = torch.bincount(torch.cdist(colours, centres).argmin(1), minlength=count)
    return centres[sizes.argsort(descending=True, stable=True)]


def _as_shown(scene: Scene, colours: Float[Tensor, "n 2"]) -> list[Colour]:
    """Colours as a screen shows them, without a probability."""
    ab = (colours.float().clamp(-AB_SCALE, AB_SCALE) / AB_SCALE).T.reshape(1, 2, 1, -1)
    light = torch.full((1, 1, 1, len(colours)), scene.lightness)
    return [(_pair(one), None) for one in rgb_to_lab(lab_to_rgb(light, ab))[1][0, :, 0].T]


def _pair(ab: Tensor) -> tuple[float, float]:
    a, b = ab.clamp(-1.0, 1.0).tolist()
    return a, b


METHODS: dict[str, Method] = {
    "ring": ring,
    "fan": fan,
    "diverse": diverse,
    "k-means of similar": clusters_of_similar,
    "k-means of answers": clusters_of_answers,
    "distribution": distribution,
    "cover distribution": covering((likely, 1.0, 1.0)),
    "cover prediction": covering((predicted, 1.0, PALE)),
    "cover similar": covering((similar, 1.0, PALE)),
    "cover jittered": covering((jittered, 1.0, PALE)),
    "cover imagined": covering((imagined, 1.0, PALE)),
    "cover photo": covering((predicted, 0.5, PALE), (similar, 0.2, PALE), (used, 0.3, 1.0)),
    "cover all": covering(
        (predicted, 0.35, PALE),
        (similar, 0.15, PALE),
        (used, 0.3, 1.0),
        (jittered, 0.1, PALE),
        (imagined, 0.1, PALE),
    ),
}
"""By name: from a scene and a number to as many colours, the likeliest first."""
OF_PALETTE = frozenset({"distribution", "cover distribution"})
"""Those that need a split colorizer."""


def available(networks: Networks) -> list[str]:
    """Names of the methods that a pair of networks allows."""
    return [name for name in METHODS if name not in OF_PALETTE or networks.colorizer.split is not None]
