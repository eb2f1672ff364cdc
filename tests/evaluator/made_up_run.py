"""The folder of a benchmark that never ran: made-up values and clicks in the layout of the real ones."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evaluator.metrics import METRICS
from evaluator.protocol.bootstrap import mean_intervals

LEVELS = {"ab_psnr": (28.0, 0.6), "ab_ssim": (0.4, 0.02), "rgb_psnr": (24.0, 0.6), "delta_e": (12.0, -0.8)}
"""Of the first policy without clicks, and per square root of a click."""
POLICIES = ("random", "guide-blind", "max-error")


def made_up_rows(
    *,
    photos: Sequence[str] = tuple(f"photo{i:02}.png" for i in range(40)),
    policies: Sequence[str] = POLICIES,
    metrics: Sequence[str] = ("ab_psnr", "ab_ssim", "rgb_psnr"),
    clicks: Sequence[int] = (0, 1, 5, 20),
    gain: float = 0.0,
    noise: float = 0.02,
    size: tuple[int, int] = (32, 48),
    seed: int = 0,
) -> Any:
    """A data frame of photos x policies x budgets. Each policy is a little better than the one before it.

    `gain` is added to every metric, in its direction and in units of its level's step, with noise of `noise` that
    depends on `seed`; all else is the same for every seed, as for two networks on the same photos.
    """
    generator = np.random.default_rng(seed)
    rows = []
    for index, photo in enumerate(photos):
        always = np.random.default_rng(sum(photo.encode()) + 1000 * index)
        spread = always.normal()
        for number, policy in enumerate(policies):
            cells = always.choice(size[0] * size[1], max(clicks), replace=False)
            for budget in clicks:
                row = {"photo": photo, "index": index, "height": size[0], "width": size[1], "policy": policy}
                row |= {"clicks": budget, "seconds_per_click": 0.01 * (number + 1)}
                for metric in metrics:
                    level, step = LEVELS[metric]
                    more = (1 + 0.2 * number) * np.sqrt(budget) + gain + noise * generator.normal()
                    row[metric] = level + step * (more + 2 * spread + 0.1 * always.normal())
                row["click_rows"] = (cells[:budget] // size[1]).astype(np.int32)
                row["click_cols"] = (cells[:budget] % size[1]).astype(np.int32)
                rows.append(row)
    return pd.DataFrame(rows)


def write_run(folder: Path, rows: Any = None, **about: Any) -> Path:
    """Write `rows` (else `made_up_rows()`) as a finished benchmark; `about` replaces parts of results.json."""
    rows = made_up_rows() if rows is None else rows
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(folder / "results.parquet", index=False)
    content = {
        "schema": 1,
        "protocol": {
            "clicks": sorted(int(budget) for budget in rows["clicks"].unique()),
            "hint_size": 3,
            "seed": 0,
            "batch_size": 32,
            "size": 64,
            "robot": {"position_sigma": 0.0, "colour_sigma": 0.0},
        },
        "machine": {"cpu": "A made-up processor", "cores": 2, "gpu": None},
        "versions": {"python": "3.11", "torch": "2.15.0"},
        "commit": "0123abc",
        "colorizer": {"source": "models:/colornet/1", "name": "colornet", "version": "1"},
        "guides": {"guide-blind": {"source": "models:/editnet-blind/1", "name": "editnet-blind", "version": "1"}},
        "photos": {
            "source": "photos.zip",
            "count": rows["photo"].nunique(),
            "sha256": "ab" * 32,
            "skipped": [{"photo": "broken.jpg", "reason": "cannot be read"}],
        },
        "rows": _means(rows),
    }
    (folder / "results.json").write_text(json.dumps(content | about, allow_nan=False))
    return folder


def _means(rows: Any) -> list[dict[str, Any]]:
    metrics = [name for name in METRICS if name in rows]
    rows = rows.sort_values(by="index")
    means = []
    for policy in rows["policy"].unique():
        for budget in sorted(rows["clicks"].unique()):
            at = rows[rows["clicks"] == budget].set_index("policy")
            mine, base = at.loc[[policy]], at.loc[["random"]]
            row: dict[str, Any] = {"policy": policy, "clicks": int(budget), "photos": len(mine)}
            for metric in metrics:
                values, others = (np.minimum(at[metric], METRICS[metric].ceiling) for at in (mine, base))
                row[metric] = _plain(values.mean())  # of those that are not NaN
                row |= _gain(metric, values.to_numpy() - others.to_numpy())
                if policy == "random":
                    row |= {f"{metric}_{end}": None for end in ("gain", "gain_low", "gain_high")}
            means.append(row)
    return means


def _gain(metric: str, difference: np.ndarray) -> dict[str, float | None]:
    difference = difference[~np.isnan(difference)]
    if not len(difference):
        return {f"{metric}_{end}": None for end in ("gain", "gain_low", "gain_high")}
    low, high = mean_intervals(difference[:, None], 0)
    return {
        f"{metric}_gain": _plain(difference.mean()),
        f"{metric}_gain_low": _plain(low[0]),
        f"{metric}_gain_high": _plain(high[0]),
    }


def _plain(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
