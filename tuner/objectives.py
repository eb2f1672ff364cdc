"""From a validation to the numbers that a trial reports.

Each is the mean over the validation photos, under the guide that the recipe names as its objective; with the end
of another guide's name before it (`oracle_` for `editnet-oracle`), under that one. Budgets are the config's
`validation.clicks`: quality is taken at the last but one (`trainer.validation.middle_budget`), as in the trainer's
headline, and what asks where clicks fall at the largest.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from evaluator.metrics import METRICS, unavailable
from evaluator.metrics.clicks import click_crowding, click_distance, nri
from evaluator.protocol.bootstrap import mean_of
from evaluator.protocol.results import BASELINE, Results
from trainer.config import Config
from trainer.validation import middle_budget
from tuner.records import Direction, Measure


def guides_of(config: Config) -> dict[str, str]:
    """The policies that a recipe is judged by, by what stands before a measure's name; else random clicks."""
    recipe = config.recipe.build()
    main = recipe.objective or BASELINE
    others = {f"{guide.name.rpartition('-')[2]}_": guide.name for guide in recipe.guides if guide.name != main}
    return {"": main, **others}


_WANTED: dict[str, tuple[Direction, str]] = {
    "ab_psnr": ("max", "ab PSNR, dB, range 2, at {middle}"),
    "ab_psnr_gain": ("max", "ab PSNR above random clicks, dB, at {middle}"),
    "ab_ssim": ("max", "ab SSIM, range 2, at {middle}"),
    "lpips": ("min", "LPIPS at {middle}"),
    "nri": ("min", "NRI: clicks to reach the ab PSNR of random ones at {last}"),
    "dispersion": ("max", "distance to the nearest click, share of the diagonal, at {last}"),
    "crowding": ("min", "share of clicks within 3 % of the diagonal of an earlier one, at {last}"),
}


def measures_of(config: Config) -> dict[str, Measure]:
    """What a sweep over this config may look for, by name."""
    budgets = config.validation.clicks
    middle, last = _clicks(middle_budget(budgets)), _clicks(budgets[-1])
    return {
        prefix + name: Measure(
            prefix + name,
            direction,
            f"{label.format(middle=middle, last=last)}, guide {guide.rpartition('-')[2]}",
        )
        for prefix, guide in guides_of(config).items()
        for name, (direction, label) in _WANTED.items()
    }


def check_measurable(names: Sequence[str], config: Config) -> tuple[str, ...]:
    """What validation must measure beside its own metrics: LPIPS, which takes more time than all others together.

    Raises:
        ValueError: it is among the names, and cannot be measured here.
    """
    if not any(name.endswith("lpips") for name in names):
        return ()
    smallest = METRICS["lpips"].smallest
    if config.data.image_size < smallest:
        raise ValueError(f"data.image_size is {config.data.image_size}; lpips needs at least {smallest}")
    if why := unavailable("lpips"):
        raise ValueError(f"lpips cannot be measured here: {why}")
    return ("lpips",)


def measured(results: Results, config: Config) -> dict[str, float | None]:
    """All measures of a validation; None for what was not measured, or is defined for no photo.

    A guide that was not trained yet has not been measured.
    """
    values: dict[str, float | None] = {}
    for prefix, guide in guides_of(config).items():
        for name, take in _TAKES.items():
            value = take(results, guide) if guide in results.policies else math.nan
            values[prefix + name] = value if math.isfinite(value) else None
    return values


def _clicks(count: int) -> str:
    return f"{count} click{'' if count == 1 else 's'}"


def _quality(results: Results, guide: str, metric: str) -> float:
    """The table's mean at the middle budget."""
    return mean_of(_at_middle(results, guide, metric)) if metric in results.metrics else math.nan


def _gain(results: Results, guide: str) -> float:
    """ab PSNR minus that of random clicks on the same photo."""
    return mean_of(_at_middle(results, guide, "ab_psnr") - _at_middle(results, BASELINE, "ab_psnr"))


def _nri(results: Results, guide: str) -> float:
    """Clicks until a photo is as good as random clicks make it at the largest budget: its own level per photo.

    Counted on the budgets, as in `evaluator.metrics.clicks`; a photo that never is counts as the largest budget +
    1.
    """
    level = results.values(BASELINE, "ab_psnr")[:, -1:]
    return nri(results.values(guide, "ab_psnr") - level, results.protocol.clicks, 0.0).mean


def _dispersion(results: Results, guide: str) -> float:
    return mean_of(click_distance(_positions(results, guide), *results.size).numpy())


def _crowding(results: Results, guide: str) -> float:
    return mean_of(click_crowding(_positions(results, guide), *results.size).numpy())


_TAKES: dict[str, Callable[[Results, str], float]] = {
    "ab_psnr": lambda results, guide: _quality(results, guide, "ab_psnr"),
    "ab_psnr_gain": _gain,
    "ab_ssim": lambda results, guide: _quality(results, guide, "ab_ssim"),
    "lpips": lambda results, guide: _quality(results, guide, "lpips"),
    "nri": _nri,
    "dispersion": _dispersion,
    "crowding": _crowding,
}


def _positions(results: Results, guide: str) -> Int64[Tensor, "n clicks"]:
    """Flat indices of all its clicks."""
    rows, cols = np.moveaxis(results.positions(guide), -1, 0)
    return torch.from_numpy(rows * results.size[1] + cols)


def _at_middle(results: Results, policy: str, metric: str) -> Float64[np.ndarray, " n"]:
    budgets = results.protocol.clicks
    return results.values(policy, metric)[:, budgets.index(middle_budget(budgets))]
