"""A finished benchmark, read back from its folder: what was asked, every photo's values, where the clicks went.

`results.json` holds the protocol and the means, `results.parquet` one row per photo, policy and budget. Reading
checks that the two belong together: every mean is recomputed from the rows.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
from jaxtyping import Float64, Int64

from evaluator.metrics import METRICS
from evaluator.protocol.bootstrap import Means, defined_means
from evaluator.protocol.results import BASELINE, Summary

SCHEMA = 1
"""Version of the layout of `results.json`."""
SUMMARY_FILE, ROWS_FILE = "results.json", "results.parquet"
SPEED_ONLY = ("batch_size",)
"""Settings of a protocol that change how long it takes, and no result."""
_KEYS = ("photo", "index", "height", "width", "policy", "clicks")
_NEEDED = ("schema", "protocol", "colorizer", "photos", "rows")
_CLICKS = ("click_rows", "click_cols")
_NO_METRIC = (*_KEYS, *_CLICKS, "seconds_per_click")
_FINISH = "finish the benchmark with --resume, or run it again"


@dataclass(frozen=True, kw_only=True, eq=False)
class Finished:
    """One benchmark's folder."""

    folder: Path
    about: dict[str, Any]
    """`results.json`."""
    photos: list[str]
    """Names, in the order of their index."""
    indices: Int64[np.ndarray, " n"]
    """Place of each photo in the whole set: what its noise is drawn from."""
    sizes: Int64[np.ndarray, "n 2"]
    """Height and width at which each was measured, in pixels."""
    budgets: list[int]
    values: dict[str, dict[str, Float64[np.ndarray, "n budgets"]]]
    """`values[policy][metric]`; NaN where a metric is not defined, infinite PSNR as its ceiling."""
    seconds: dict[str, Float64[np.ndarray, "n budgets"]]
    """`seconds[policy]`: wall time per click, NaN without clicks (see `Results.seconds_per_click`)."""

    @classmethod
    def read(cls, folder: Path) -> "Finished":
        """Read and check a folder.

        Raises:
            ValueError: a file is missing or of another layout, rows are missing or twice there, or the means of
                `results.json` are not those of `results.parquet`.
        """
        about = _read_summary(folder / SUMMARY_FILE)
        columns = _read_rows(folder / ROWS_FILE)
        indices, first, photo_of = np.unique(columns["index"], return_index=True, return_inverse=True)
        policies = list(dict.fromkeys(row["policy"] for row in about["rows"]))
        budgets = sorted({int(row["clicks"]) for row in about["rows"]})
        places = photo_of, _codes(columns["policy"], policies, folder), _codes(columns["clicks"], budgets, folder)
        shape = len(indices), len(budgets)
        metrics = [name for name in METRICS if name in columns]
        finished = cls(
            folder=folder,
            about=about,
            photos=[str(name) for name in columns["photo"][first]],
            indices=indices.astype(np.int64),
            sizes=np.stack([columns["height"][first], columns["width"][first]], axis=1).astype(np.int64),
            budgets=budgets,
            values={
                policy: {
                    name: _arrange(columns[name], places, code, shape, METRICS[name].ceiling) for name in metrics
                }
                for code, policy in enumerate(policies)
            },
            seconds={
                policy: _arrange(columns["seconds_per_click"], places, code, shape)
                for code, policy in enumerate(policies)
            },
        )
        finished._check(places)
        return finished

    @property
    def policies(self) -> list[str]:
        """Names, in the order of `results.json`."""
        return list(self.values)

    @property
    def metrics(self) -> list[str]:
        """Names in `METRICS`, in their order there."""
        return list(next(iter(self.values.values())))

    @property
    def name(self) -> str:
        """The colorizer, with its version where it has one."""
        colorizer = self.about["colorizer"]
        version = colorizer.get("version")
        return f"{colorizer.get('name', colorizer.get('source', '?'))}{f'/{version}' if version else ''}"

    @cached_property
    def means(self) -> dict[str, dict[str, Means]]:
        """`means[policy][metric]`: over photos, one entry per budget, with intervals; all from one bootstrap."""
        places = [(policy, metric) for policy in self.policies for metric in self.metrics]
        columns = np.concatenate([self.values[policy][metric] for policy, metric in places], axis=1)
        found = defined_means(columns, int(self.about["protocol"]["seed"]))
        means: dict[str, dict[str, Means]] = {policy: {} for policy in self.policies}
        for number, (policy, metric) in enumerate(places):
            part = slice(number * len(self.budgets), (number + 1) * len(self.budgets))
            means[policy][metric] = Means(found.mean[part], found.low[part], found.high[part], found.photos[part])
        return means

    def summaries(self) -> list[Summary]:
        """The rows of `results.json`, metric by metric."""
        return [self._summary(row, metric) for row in self.about["rows"] for metric in self.metrics]

    def settings(self) -> dict[str, Any]:
        """The protocol without what changes only speed: two runs are comparable when these are equal."""
        return {key: value for key, value in self.about["protocol"].items() if key not in SPEED_ONLY}

    def digest(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of `settings`."""
        text = json.dumps(self.settings(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def positions(self, clicks: int) -> "dict[str, Int64[np.ndarray, 'n clicks 2']]":
        """`positions(clicks)[policy]`: (row, col) of each photo's clicks up to a budget, in their order."""
        columns = ["index", "policy", "click_rows", "click_cols"]
        table = parquet.read_table(self.folder / ROWS_FILE, columns=columns, filters=[("clicks", "==", clicks)])
        table = table.sort_by("index")
        policy = table["policy"].to_numpy()
        flat = [table[name].combine_chunks().flatten().to_numpy() for name in _CLICKS]
        if any(len(values) != len(table) * clicks for values in flat):
            raise ValueError(
                f"{self.folder / ROWS_FILE} has rows of {clicks} clicks without {clicks} positions; {_FINISH}"
            )
        places = np.stack(flat, axis=-1).astype(np.int64).reshape(len(table), clicks, 2)
        return {name: places[policy == name] for name in self.policies}

    def _summary(self, row: Mapping[str, Any], metric: str) -> Summary:
        def number(name: str) -> float:
            return math.nan if row.get(name) is None else float(row[name])

        gains = {name: number(f"{metric}_{name}") for name in ("gain", "gain_low", "gain_high")}
        compared = row["policy"] != BASELINE and BASELINE in self.values
        values = self.values[row["policy"]][metric][:, self.budgets.index(row["clicks"])]
        return Summary(
            policy=row["policy"],
            clicks=int(row["clicks"]),
            metric=metric,
            mean=number(metric),
            photos=int((~np.isnan(values)).sum()),
            exact=int((values >= METRICS[metric].ceiling).sum()),
            **(gains if compared else {}),
        )

    def _check(self, places: tuple[np.ndarray, ...]) -> None:
        """Refuse rows that are missing or there twice, and means of other rows."""
        shape = len(self.photos), len(self.policies), len(self.budgets)
        count = np.bincount(np.ravel_multi_index(places, shape), minlength=math.prod(shape)).reshape(shape)
        if (count != 1).any():
            photo, policy, budget = np.argwhere(count != 1)[0]
            raise ValueError(
                f"{self.folder / ROWS_FILE} has {count[photo, policy, budget]} rows for photo "
                f"{self.photos[photo]!r}, policy {self.policies[policy]!r}, {self.budgets[budget]} clicks instead "
                f"of one; {_FINISH}"
            )
        for row in self.about["rows"]:
            for metric in self.metrics:
                self._check_mean(row, metric)

    def _check_mean(self, row: Mapping[str, Any], metric: str) -> None:
        values = self.values[row["policy"]][metric][:, self.budgets.index(row["clicks"])]
        mean, stated = mean_of(values), row.get(metric)
        stated = math.nan if stated is None else stated
        if not (math.isnan(mean) and math.isnan(stated)) and not math.isclose(
            mean, stated, rel_tol=1e-6, abs_tol=1e-6
        ):
            raise ValueError(
                f"{self.folder}: {metric} of {row['policy']!r} after {row['clicks']} clicks is {stated} in "
                f"{SUMMARY_FILE} and {mean} in {ROWS_FILE}; the files are of different runs: {_FINISH}"
            )


def mean_of(values: Float64[np.ndarray, " n"]) -> float:
    """The mean over the photos for which a value is defined; NaN when there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


def _read_summary(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"{file} is missing; give the --out folder of a finished `python -m evaluator benchmark`")
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}); {_FINISH}") from error
    if not isinstance(about, dict) or about.get("schema") != SCHEMA:
        found = about.get("schema") if isinstance(about, dict) else type(about).__name__
        raise ValueError(f"{file} has schema {found!r}; this code reads {SCHEMA}: run the benchmark again")
    if missing := [key for key in _NEEDED if not about.get(key)]:
        raise ValueError(f"{file} lacks {', '.join(missing)}; {_FINISH}")
    return about


def _read_rows(file: Path) -> dict[str, np.ndarray]:
    """Every column but the click positions."""
    if not file.is_file():
        raise ValueError(f"{file} is missing; {_FINISH}")
    names = parquet.read_schema(file).names
    if missing := [name for name in _NO_METRIC if name not in names]:
        raise ValueError(f"{file} lacks the columns {', '.join(missing)}; run the benchmark again")
    if unknown := [name for name in names if name not in (*_NO_METRIC, *METRICS)]:
        raise ValueError(f"{file} has columns that are no metric here: {', '.join(unknown)}; update this code")
    table = parquet.read_table(file, columns=[name for name in names if name not in _CLICKS])
    if not len(table):
        raise ValueError(f"{file} has no rows; {_FINISH}")
    return {name: table[name].to_numpy() for name in table.column_names}


def _codes(column: np.ndarray, names: Sequence[Any], folder: Path) -> np.ndarray:
    """The place of each entry in `names`."""
    found, inverse = np.unique(column, return_inverse=True)
    if unknown := [str(name) for name in found if name not in names]:
        raise ValueError(f"{folder}: {', '.join(unknown)} in {ROWS_FILE} is not in {SUMMARY_FILE}; {_FINISH}")
    return np.array([names.index(name) for name in found])[inverse]


def _arrange(
    column: np.ndarray,
    places: tuple[np.ndarray, np.ndarray, np.ndarray],
    code: int,
    shape: tuple[int, int],
    ceiling: float = math.inf,
) -> np.ndarray:
    """One policy's entries of a column as (photos, budgets)."""
    photo, policy, budget = places
    mine = policy == code
    values = np.full(shape, np.nan)
    values[photo[mine], budget[mine]] = np.minimum(column[mine].astype(np.float64), ceiling)
    return values
