"""A finished benchmark, read back from its folder: what was asked, every photo's values, where the clicks went.

`results.json` holds the protocol and the means, `results.parquet` one row per photo, policy and budget. Reading
checks that the two belong together: every mean is recomputed from the rows.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
from jaxtyping import Int64

from evaluator.metrics import METRICS
from evaluator.protocol.bootstrap import mean_of
from evaluator.protocol.results import CLICK_LISTS, KEYS, Protocol, Results
from evaluator.protocol.simulated_user import SimulatedUser

SCHEMA = 1
"""Version of the layout of `results.json`."""
SUMMARY_FILE, ROWS_FILE = "results.json", "results.parquet"
SPEED_ONLY = ("batch_size",)
"""Settings of a protocol that change how long it takes, and no result."""
_NEEDED = ("schema", "protocol", "colorizer", "photos", "rows")
_BEFORE, _AFTER = ("photo", "index", "height", "width", "policy", "clicks"), (*CLICK_LISTS, "seconds_per_click")
"""The columns around the metrics."""
_FINISH = "finish the benchmark with --resume, or run it again"


@dataclass(frozen=True, kw_only=True, eq=False)
class Finished(Results):
    """One benchmark's folder."""

    folder: Path
    about: dict[str, Any]
    """`results.json`."""

    @classmethod
    def read(cls, folder: Path) -> "Finished":
        """Read and check a folder.

        Raises:
            ValueError: a file is missing or of another layout, rows are missing or twice there, or the means of
                `results.json` are not those of `results.parquet`.
        """
        about = _read_summary(folder / SUMMARY_FILE)
        policies = list(dict.fromkeys(row["policy"] for row in about["rows"]))
        budgets = sorted({int(row["clicks"]) for row in about["rows"]})
        frame = _read_rows(folder / ROWS_FILE)
        for column, names in (("policy", policies), ("clicks", budgets)):
            if unknown := [str(name) for name in sorted(frame[column].unique()) if name not in names]:
                raise ValueError(
                    f"{folder}: {', '.join(unknown)} in {ROWS_FILE} is not in {SUMMARY_FILE}; {_FINISH}"
                )
        frame["policy"] = pd.Categorical(frame["policy"], policies)
        frame = frame.sort_values(KEYS, ignore_index=True)
        _check_rows(frame, policies, budgets, folder / ROWS_FILE)
        stated = {
            one.name: about["protocol"][one.name] for one in fields(Protocol) if one.name in about["protocol"]
        }
        stated |= {"clicks": tuple(budgets), "robot": SimulatedUser(**stated.get("robot", {}))}
        finished = cls(protocol=Protocol(**stated), frame=frame, folder=folder, about=about)
        for row in about["rows"]:
            for metric in finished.metrics:
                finished._check_mean(row, metric)
        return finished

    @property
    def budgets(self) -> list[int]:
        """Numbers of clicks, rising."""
        return list(self.protocol.clicks)

    @property
    def names(self) -> list[str]:
        """Of the photos, in the order of their index."""
        return self.photos["photo"].tolist()

    @property
    def sizes(self) -> Int64[np.ndarray, "n 2"]:
        """Height and width at which each photo was measured, in pixels."""
        return self.photos[["height", "width"]].to_numpy("int64")

    @property
    def name(self) -> str:
        """The colorizer, with its version where it has one."""
        colorizer = self.about["colorizer"]
        version = colorizer.get("version")
        return f"{colorizer.get('name', colorizer.get('source', '?'))}{f'/{version}' if version else ''}"

    def settings(self) -> dict[str, Any]:
        """The protocol without what changes only speed: two runs are comparable when these are equal."""
        return {key: value for key, value in self.about["protocol"].items() if key not in SPEED_ONLY}

    def digest(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of `settings`."""
        text = json.dumps(self.settings(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _check_mean(self, row: Mapping[str, Any], metric: str) -> None:
        """Refuse means of other rows."""
        mean = mean_of(self.values(row["policy"], metric)[:, self.budgets.index(row["clicks"])])
        stated = math.nan if row.get(metric) is None else row[metric]
        if not (math.isnan(mean) and math.isnan(stated)) and not math.isclose(
            mean, stated, rel_tol=1e-6, abs_tol=1e-6
        ):
            raise ValueError(
                f"{self.folder}: {metric} of {row['policy']!r} after {row['clicks']} clicks is {stated} in "
                f"{SUMMARY_FILE} and {mean} in {ROWS_FILE}; the files are of different runs: {_FINISH}"
            )


def read_table(file: Path) -> pd.DataFrame:
    """`Results.frame` as a Parquet file has it; lists of clicks stay Arrow's."""
    table = parquet.read_table(file)
    return table.to_pandas(
        types_mapper=lambda kind: pd.ArrowDtype(kind) if pa.types.is_list(kind) else None, ignore_metadata=True
    )


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


def _read_rows(file: Path) -> pd.DataFrame:
    """The table, with the metrics in their usual order."""
    if not file.is_file():
        raise ValueError(f"{file} is missing; {_FINISH}")
    names = parquet.read_schema(file).names
    if missing := [name for name in (*_BEFORE, *_AFTER) if name not in names]:
        raise ValueError(f"{file} lacks the columns {', '.join(missing)}; run the benchmark again")
    if unknown := [name for name in names if name not in (*_BEFORE, *METRICS, *_AFTER)]:
        raise ValueError(f"{file} has columns that are no metric here: {', '.join(unknown)}; update this code")
    frame = read_table(file)
    if not len(frame):
        raise ValueError(f"{file} has no rows; {_FINISH}")
    return frame.reindex(columns=[name for name in (*_BEFORE, *METRICS, *_AFTER) if name in names])


def _check_rows(frame: pd.DataFrame, policies: list[str], budgets: list[int], file: Path) -> None:
    """Refuse rows that are missing, there twice, or without their clicks."""
    photos = frame.drop_duplicates("index")["photo"].tolist()
    shape = len(photos), len(policies), len(budgets)
    places = pd.factorize(frame["index"])[0], frame["policy"].cat.codes, np.searchsorted(budgets, frame["clicks"])
    count = np.bincount(np.ravel_multi_index(places, shape), minlength=math.prod(shape)).reshape(shape)
    for photo, policy, budget in np.argwhere(count != 1):
        raise ValueError(
            f"{file} has {count[photo, policy, budget]} rows for photo {photos[photo]!r}, policy "
            f"{policies[policy]!r}, {budgets[budget]} clicks instead of one; {_FINISH}"
        )
    for name in CLICK_LISTS:
        for clicks in frame["clicks"][frame[name].list.len() != frame["clicks"]]:
            raise ValueError(f"{file} has rows of {clicks} clicks without {clicks} positions; {_FINISH}")
