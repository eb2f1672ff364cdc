"""Ways to propose colors at a pixel without the true ones: the two that serve, and those that lost to them.

Most collect evidence, such as what the network predicts for a slightly different question, and cover it as
`evaluator.service.inference.suggest_colors` does; the others choose colors by a rule or by clusters.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from evaluator.registry.contract import FEATURE_CELL
from evaluator.registry.session import SplitColorizer
from evaluator.service.inference.engine import Engine
from evaluator.service.inference.suggest_colors import (
    PALE,
    Evidence,
    Scene,
    choices,
    color_differences,
    cover,
    covering_colors,
    kernel,
    mixture,
    modes_in_gamut,
    predicted,
    similar,
    used,
    weighted,
)
from kernels.color import AB_SCALE, lab_to_rgb, rgb_to_lab

ColorPair = tuple[float, float]
"""ab in CIE / 128."""


@dataclass(frozen=True, eq=False)
class Question(Scene):
    """A pixel in question, and the networks, which may be asked again."""

    engine: Engine
    features: Tensor | None = None
    """Of the present colors, (1,c,h/4,w/4) of the padded photo, by a split colorizer."""

    @property
    def split(self) -> SplitColorizer:
        """The split colorizer's parts."""
        split = self.engine.networks.colorizer.split
        assert split is not None, "only methods of OF_PALETTE ask for it"
        return split

    @property
    def distribution(self) -> Float[Tensor, " bins"]:
        """Probability of each color of a split colorizer's palette at the pixel."""
        assert self.features is not None
        cell = self.features[:, :, self.row // FEATURE_CELL, self.col // FEATURE_CELL]
        return self.split.distribution(cell)[0]


# Evidence ------------------------------------------------------------------------------------------------------

_JITTER = ((True, 1.0, 0.0), (False, 0.8, 0.0), (False, 1.25, 0.0), (True, 1.0, 0.08), (True, 1.0, -0.08))
_IMAGINED, _NOISE = 5, 30.0


async def jittered(asked: Question) -> Evidence:
    """Predictions for the photo mirrored, lighter, darker, harder and softer."""
    found = [asked.present]
    for mirror, gamma, offset in _JITTER:
        flip = (-1,) if mirror else ()
        light = (asked.working.flip(flip) ** gamma + offset).clamp(0, 1)
        ab = (await asked.engine.colorize(light, asked.clicks.flip(flip))).flip(flip)
        found.append(AB_SCALE * ab[0, :, asked.row, asked.col][None])
    return weighted(torch.cat(found))


async def imagined(asked: Question) -> Evidence:
    """Predictions with three imagined clicks elsewhere, each in its predicted color plus noise, a few times."""
    found = [asked.present]
    height, width = asked.working.shape[-2:]
    generator = torch.Generator().manual_seed(0)  # the same question gets the same answer
    for _ in range(_IMAGINED):
        clicks = asked.clicks.clone()
        for place in torch.rand(3, 2, generator=generator).tolist():
            row, col = int(place[0] * height), int(place[1] * width)
            noise = _NOISE * torch.randn(2, generator=generator)
            clicks[0, 0, row, col] = 1.0
            clicks[0, 1:, row, col] = (asked.predicted_ab[0, :, row, col] + noise / AB_SCALE).clamp(-1, 1)
        ab = await asked.engine.colorize(asked.working, clicks)
        found.append(AB_SCALE * ab[0, :, asked.row, asked.col][None])
    return weighted(torch.cat(found))


async def likely(asked: Question) -> Evidence:
    """The colors of a split colorizer's palette, as likely as it says."""
    return torch.cat([AB_SCALE * asked.split.bins, asked.distribution.float()[:, None]], dim=1)


# Methods -------------------------------------------------------------------------------------------------------

Source = Callable[[Question], Awaitable[Evidence]]
Method = Callable[[Question, int], Awaitable[list[ColorPair]]]


def covering(*sources: tuple[Source, float, float]) -> Method:
    """The method that covers a mixture of evidence, each with its share, and a factor on its a* and b*."""

    async def propose(asked: Question, count: int) -> list[ColorPair]:
        parts = [(await source(asked), share, factor) for source, share, factor in sources]
        return [ab for ab, _ in cover(asked.lightness, kernel(mixture(*parts)), count)]

    return propose


def at_once(source: Callable[[Scene], Evidence]) -> Source:
    """Evidence for which no network is asked."""

    async def collect(asked: Question) -> Evidence:
        return source(asked)

    return collect


async def cover_photo(asked: Question, count: int) -> list[ColorPair]:
    """What the service proposes where there is no palette."""
    return [ab for ab, _ in covering_colors(asked, count)]


async def distribution(asked: Question, count: int) -> list[ColorPair]:
    """The modes of a split colorizer's palette, which the service proposes where there is one."""
    return [ab for ab, _ in modes_in_gamut(asked.distribution, asked.split.bins, asked.lightness, count)]


async def ring(asked: Question, count: int) -> list[ColorPair]:
    """The predicted color, and others at 20 CIE units around it."""
    angles = torch.arange(count - 1) * (2 * math.pi / max(1, count - 1))
    around = asked.present + 20 * torch.stack([angles.cos(), angles.sin()], dim=1)
    return _as_shown(asked, torch.cat([asked.present, around]))


_FAN = ((1, 0.0), (2, 0.0), (0, 0.0), (1.5, 0.7), (1.5, -0.7), (1.5, 1.4), (1.5, -1.4), (3, 0.0), (1.5, math.pi))


async def fan(asked: Question, count: int) -> list[ColorPair]:
    """The predicted hue and its neighbors, once as strong and twice as strong, and grey."""
    a, b = asked.present[0].tolist()
    strength, hue = max(8.0, math.hypot(a, b)), math.atan2(b, a)
    colors = [
        (times * strength * math.cos(hue + turn), times * strength * math.sin(hue + turn)) for times, turn in _FAN
    ]
    return _as_shown(asked, torch.tensor(colors[:count]))


async def diverse(asked: Question, count: int) -> list[ColorPair]:
    """The predicted color, then always the color at this lightness that is farthest from those before."""
    lightness = min(99, max(1, round(100 * asked.lightness)))
    colors, _ = choices(lightness)
    found = asked.present
    while len(found) < count:
        nearest = color_differences(float(lightness), colors, found).min(1).values
        found = torch.cat([found, colors[nearest.argmax()][None]])
    return _as_shown(asked, found)


async def clusters_of_similar(asked: Question, count: int) -> list[ColorPair]:
    """Centers of k-means over the predicted colors of pixels that are about as light."""
    return _as_shown(asked, _centers(similar(asked)[:, :2], count))


async def clusters_of_answers(asked: Question, count: int) -> list[ColorPair]:
    """Centers of k-means over the predictions for the photo changed a little, and with imagined clicks."""
    answers = torch.cat([(await jittered(asked))[:, :2], (await imagined(asked))[1:, :2]])
    return _as_shown(asked, _centers(answers, count))


def _centers(colors: Float[Tensor, "n 2"], count: int) -> Float[Tensor, "k 2"]:
    """Lloyd's k-means from farthest points, the largest cluster first."""
    centers = colors[:1]
    while len(centers) < count:
        far = torch.cdist(colors, centers).min(1).values.argmax()
        centers = torch.cat([centers, colors[far][None]])
    for _ in range(8):
        member = torch.cdist(colors, centers).argmin(1)
        centers = torch.stack(
            [colors[member == k].mean(0) if (member == k).any() else centers[k] for k in range(count)]
        )
    sizes = torch.bincount(torch.cdist(colors, centers).argmin(1), minlength=count)
    return centers[sizes.argsort(descending=True, stable=True)]


def _as_shown(asked: Question, colors: Float[Tensor, "n 2"]) -> list[ColorPair]:
    """Colors (CIE units) as a screen shows them at the pixel's lightness."""
    ab = (colors.float().clamp(-AB_SCALE, AB_SCALE) / AB_SCALE).T.reshape(1, 2, 1, -1)
    light = torch.full((1, 1, 1, len(colors)), asked.lightness)
    shown = rgb_to_lab(lab_to_rgb(light, ab))[1][0, :, 0].T.clamp(-1.0, 1.0)
    return [(a, b) for a, b in shown.tolist()]


_PREDICTED, _SIMILAR, _USED = at_once(predicted), at_once(similar), at_once(used)
METHODS: dict[str, Method] = {
    "ring": ring,
    "fan": fan,
    "diverse": diverse,
    "k-means of similar": clusters_of_similar,
    "k-means of answers": clusters_of_answers,
    "distribution": distribution,
    "cover distribution": covering((likely, 1.0, 1.0)),
    "cover prediction": covering((_PREDICTED, 1.0, PALE)),
    "cover similar": covering((_SIMILAR, 1.0, PALE)),
    "cover jittered": covering((jittered, 1.0, PALE)),
    "cover imagined": covering((imagined, 1.0, PALE)),
    "cover photo": cover_photo,
    "cover all": covering(
        (_PREDICTED, 0.35, PALE),
        (_SIMILAR, 0.15, PALE),
        (_USED, 0.3, 1.0),
        (jittered, 0.1, PALE),
        (imagined, 0.1, PALE),
    ),
}
"""By name: from a question and a number to as many colors, the likeliest first."""
OF_PALETTE = frozenset({"distribution", "cover distribution"})
"""Those that need a split colorizer."""


def available(engine: Engine) -> Sequence[str]:
    """Names of the methods that an engine's colorizer allows."""
    is_split = engine.networks.colorizer.split is not None
    return [name for name in METHODS if is_split or name not in OF_PALETTE]
