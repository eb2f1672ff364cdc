"""Gallery of the report: worst and best photos by each metric, recolored from their recorded clicks."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from evaluator.metrics import METRICS, rgb_psnr
from evaluator.protocol.finished import Finished
from evaluator.protocol.results import BASELINE, RULER
from evaluator.protocol.rollout import Photos
from evaluator.registry.networks import Colorizer, run_network
from evaluator.report.click_grid import marked
from kernels.color import lab_to_rgb, to_uint8

CELL = 192
"""Longer side of a thumbnail in pixels, about: small photos are enlarged by a whole number."""
MAX_NUMBERED = 20
"""Shown budgets are at most this: more numbers cannot be read on a thumbnail."""
_COLUMNS, _ROWS = 5, 4
_USUAL = 10
"""Photos are ranked at the budget nearest to this many clicks."""


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A photo of the gallery with the reason for its choice."""

    photo: str
    index: int
    """In the whole set: what its noise is drawn from."""
    reasons: tuple[str, ...]
    """Such as "worst ab PSNR (21.30 dB)"."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One thumbnail."""

    picture: Image.Image
    caption: str
    alt: str
    """What a person who cannot see it is told."""


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """One photo with all its thumbnails."""

    pick: Pick
    grey: Shot
    truth: Shot
    rows: dict[str, list[Shot]]
    """`rows[policy]`: one per budget."""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Photos shown in the report."""

    rule: str
    """How they were chosen, in a sentence."""
    budgets: list[int]
    exhibits: list[Exhibit]


def choose(finished: Finished) -> list[Pick]:
    """The worst and the best photo by each metric, in the order of the metrics; each photo once.

    For a metric of which more is neither better nor worse, the lowest and the highest.

    A photo's rank is the mean of its values over all policies but the ruler after the number of clicks nearest to
    10; ties go to the first photo. Photos for which a metric is not defined there do not count for it.
    """
    column = finished.budgets.index(nearest_budget(finished.budgets))
    names, reasons = finished.names, dict[int, list[str]]()
    policies = [policy for policy in finished.policies if policy != RULER]
    for metric in finished.metrics:
        values = np.mean([finished.values(policy, metric)[:, column] for policy in policies], axis=0)
        if np.isnan(values).all():
            continue
        low, high = int(np.nanargmin(values)), int(np.nanargmax(values))
        for word, place in zip(_words(metric), (low, high), strict=True):
            reasons.setdefault(place, []).append(f"{word} {_written(metric, values[place])}")
    return [
        Pick(photo=names[place], index=int(finished.photos["index"].iat[place]), reasons=tuple(why))
        for place, why in reasons.items()
    ]


def render(
    finished: Finished,
    picks: Sequence[Pick],
    photos: Mapping[str, UInt8[Tensor, "3 h w"]],
    colorizer: Colorizer,
    device: torch.device | str = "cpu",
    *,
    ruler: Colorizer | None = None,
    autocast: torch.dtype | None = None,
    on_photo: Callable[[int, int], None] = lambda done, total: None,
) -> Gallery:
    """Color the picked photos again, with the recorded clicks.

    Positions are those of the Parquet file, where the simulated user hit; its color noise is a function of the
    photo's index and the click's number, so a noisy robot's clicks are repeated exactly too.

    Args:
        finished: the benchmark.
        picks: from `choose`.
        photos: each picked photo by name, as it was measured.
        colorizer: the one that was measured, in evaluation mode, on `device`.
        device: where to compute.
        ruler: what colored as `RULER`; None leaves that out.
        autocast: dtype in which to run the colorizer under autocast.
        on_photo: called with (photos done, photos to do).

    Raises:
        ValueError: a photo is missing, or has another size than it was measured at.
    """
    measured = [policy for policy in finished.policies if policy != RULER or ruler]
    policies, budgets = shown_policies(measured), shown_budgets(finished.budgets)
    colorizers = dict.fromkeys(policies, partial(run_network, colorizer, autocast=autocast))
    if ruler and RULER in policies:
        colorizers[RULER] = partial(run_network, ruler, autocast=None)
    places = {policy: finished.positions(policy, budgets[-1]) for policy in policies}
    exhibits = []
    for done, pick in enumerate(picks, start=1):
        rgb = _measured(finished, pick, photos)
        replay = _Replay(finished, pick, rgb.to(device), colorizers)
        row = finished.names.index(pick.photo)
        rows = {policy: replay.shots(policy, places[policy][row], budgets) for policy in policies}
        exhibits.append(Exhibit(pick=pick, grey=replay.grey(), truth=replay.truth(), rows=rows))
        on_photo(done, len(picks))
    return Gallery(rule=_rule(finished, policies), budgets=budgets, exhibits=exhibits)


def shown_policies(policies: Sequence[str], baseline: str = BASELINE) -> list[str]:
    """At most four: the baseline, then guides, the ruler and the others, in the order of the benchmark."""
    ranks = {policy: (policy != baseline, not policy.startswith("guide"), policy != RULER) for policy in policies}
    return sorted(policies, key=lambda policy: ranks[policy])[:_ROWS]


def shown_budgets(budgets: Sequence[int]) -> list[int]:
    """At most five, evenly among those of up to `MAX_NUMBERED` clicks; the smallest if there are none."""
    few = [budget for budget in budgets if budget <= MAX_NUMBERED] or [budgets[0]]
    places = np.linspace(0, len(few) - 1, min(_COLUMNS, len(few))).round().astype(int)
    return [few[place] for place in places]


class _Replay:
    """One photo, its recorded clicks, and the colorizers to replay them, by policy."""

    def __init__(self, finished: Finished, pick: Pick, rgb: Tensor, colorizers: Mapping[str, Colorizer]):
        self.pick, self.rgb, self.colorizers, self.protocol = pick, rgb, colorizers, finished.protocol
        self.photo = Photos.from_rgb(rgb[None], seed=self.protocol.seed, first_index=pick.index)

    def grey(self) -> Shot:
        lightness, ab = self.photo.lightness, torch.zeros_like(self.photo.truth_ab)
        return self._plain(to_uint8(lab_to_rgb(lightness, ab))[0], "grey", "in grey, as the colorizer gets it")

    def truth(self) -> Shot:
        return self._plain(self.rgb, "truth", "in its true colours")

    def shots(self, policy: str, places: Int64[np.ndarray, "clicks 2"], budgets: Sequence[int]) -> list[Shot]:
        """Thumbnails of the photo after each number of clicks of a policy at these (row, col)."""
        flat = torch.from_numpy(places[:, 0] * self.rgb.shape[-1] + places[:, 1]).to(self.rgb.device)
        steps = zip(budgets, (0, *budgets[:-1]), strict=True)
        return [self._colored(policy, flat[None, :placed], placed - before) for placed, before in steps]

    @torch.no_grad()
    def _colored(self, policy: str, positions: Int64[Tensor, "1 placed"], newest: int) -> Shot:
        photo, placed = self.photo, positions.shape[1]
        clicks = self.protocol.robot.click_map(photo.truth_ab, positions, photo.keys, self.protocol.hint_size)
        ab = self.colorizers[policy](photo.lightness, clicks)
        predicted = to_uint8(lab_to_rgb(photo.lightness, ab))
        named = to_uint8(lab_to_rgb(photo.lightness, clicks[:, 1:])).flatten(2)
        picture = marked(
            predicted[0].cpu(),
            positions[0].cpu(),
            named[0, :, positions[0]].T.cpu(),
            newest=newest,
            scale=_scale(self.rgb),
            numbered=True,
        )
        value = _written("rgb_psnr", float(rgb_psnr(predicted, self.rgb[None])[0]))
        after = f"after {placed} click{'s' if placed != 1 else ''} of {policy}"
        return Shot(picture=picture, caption=value, alt=f"{self.pick.photo} {after}: {value}")

    def _plain(self, rgb: Tensor, caption: str, words: str) -> Shot:
        none = torch.empty(0, dtype=torch.int64), torch.empty(0, 3, dtype=torch.uint8)
        picture = marked(rgb.cpu(), *none, newest=0, scale=_scale(rgb))
        return Shot(picture=picture, caption=caption, alt=f"{self.pick.photo} {words}")


def _measured(finished: Finished, pick: Pick, photos: Mapping[str, Tensor]) -> Tensor:
    """The photo, checked against the size at which it was measured."""
    if pick.photo not in photos:
        raise ValueError(f"photo {pick.photo!r} is picked for the gallery and not among the {len(photos)} given")
    rgb, size = photos[pick.photo], finished.sizes[finished.names.index(pick.photo)].tolist()
    if list(rgb.shape[-2:]) != size:
        raise ValueError(
            f"photo {pick.photo!r} has {list(rgb.shape[-2:])} pixels (height, width) and was measured at {size}; "
            "prepare it as the benchmark did"
        )
    return rgb


def nearest_budget(budgets: Sequence[int]) -> int:
    """The measured budget nearest to 10 clicks; the smaller of two."""
    return min(budgets, key=lambda budget: abs(budget - _USUAL))


def _words(metric: str) -> tuple[str, str]:
    """Names of a metric's smallest and largest value."""
    match METRICS[metric].higher_is_better:
        case None:
            return "lowest", "highest"
        case higher:
            return ("worst", "best") if higher else ("best", "worst")


def _scale(rgb: Tensor) -> float | int:
    longer = max(rgb.shape[-2:])
    return CELL / longer if longer > CELL else max(1, round(CELL / longer))


def _written(metric: str, value: float) -> str:
    """Name, value and unit of a metric, as text."""
    entry = METRICS[metric]
    number = f"{value:.{entry.decimals}f}" if math.isfinite(value) else "exact"
    return f"{entry.label} {number}{f' {entry.unit}' if entry.unit else ''}"


def _rule(finished: Finished, policies: Sequence[str]) -> str:
    clicks = nearest_budget(finished.budgets)
    return (
        f"The worst and the best photo by each metric, ranked by the mean over all policies after {clicks} "
        f"click{'s' if clicks != 1 else ''}; no photo was picked by hand. Shown are the clicks of "
        f"{', '.join(policies)}."
    )
