"""Finished benchmarks side by side: paired differences with their intervals, and which network is better."""

import csv
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from jaxtyping import Float64
from rich.console import Console
from rich.text import Text

from evaluator.metrics import METRICS
from evaluator.protocol.bootstrap import Means, defined_means
from evaluator.protocol.finished import Finished
from evaluator.protocol.results import BASELINE, RULER, Record
from evaluator.protocol.tables import gains

_METRICS_ABREAST = 4
"""Columns of one printed table."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of one policy at one budget: a run minus the first run, photo by photo."""

    run: str
    first_mean: float
    """The first run's mean on the same photos."""
    record: Record
    """Of the run; its `gain` is the difference, with the paired bootstrap 95 % interval."""

    def row(self, first: str) -> dict[str, str | int | float | None]:
        """Flat, for JSON and CSV; None stands for what is not a number."""
        record = self.record
        return {
            "first": first,
            "run": self.run,
            "policy": record.policy,
            "clicks": record.clicks,
            "metric": record.metric,
            "photos": record.photos,
            "first_mean": _number(self.first_mean),
            "mean": _number(record.value),
            "difference": _number(record.gain),
            "low": _number(record.gain_low),
            "high": _number(record.gain_high),
            "verdict": record.verdict,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """What `compare` found."""

    runs: dict[str, Finished]
    """By the names of their folders; the first is compared with."""
    photos: list[str]
    """The photos that all runs have measured."""
    policies: list[str]
    metrics: list[str]
    differences: list[Difference]
    warnings: list[str]
    """What only some runs have, with counts."""

    def rows(self) -> list[dict[str, str | int | float | None]]:
        """One flat row per difference."""
        first = next(iter(self.runs))
        return [difference.row(first) for difference in self.differences]


def compare(folders: Sequence[Path]) -> Compared:
    """Subtract the first benchmark from each of the others, photo by photo.

    A photo counts for a metric where both runs have a value. Intervals are percentile bootstraps over photos
    (`evaluator.protocol.bootstrap`), drawn from the protocol's seed.

    Raises:
        ValueError: fewer than two folders, one that is not finished, another protocol (the message names the
            field), photos of one name that differ, or nothing in common.
    """
    if len(folders) < 2:
        raise ValueError(f"{len(folders)} folder to compare; give at least two")
    runs = _named([Finished.read(Path(folder)) for folder in folders])
    for name, run in runs.items():
        _refuse_shared_names(name, run.names)
        _refuse_other_protocol(runs, name, run)
    warnings: list[str] = []
    photos = _common("photos", {name: run.names for name, run in runs.items()}, warnings)
    policies = _common("policies", {name: run.policies for name, run in runs.items()}, warnings)
    metrics = _common("metrics", {name: run.metrics for name, run in runs.items()}, warnings)
    _refuse_other_photos(runs, photos)
    tables = [_table(run, photos, policies, metrics) for run in runs.values()]
    first = next(iter(runs.values()))
    places = [(p, c, m) for p in policies for c in first.budgets for m in metrics]
    differences = [
        difference
        for name, table in zip(list(runs)[1:], tables[1:], strict=True)
        for difference in _differences(name, tables[0], table, places, first.protocol.seed)
    ]
    return Compared(
        runs=runs, photos=photos, policies=policies, metrics=metrics, differences=differences, warnings=warnings
    )


def paired(first: np.ndarray, second: np.ndarray, seed: int) -> tuple[Means, np.ndarray, np.ndarray]:
    """`second - first`, both (photos, quantities): its means and intervals, and both means on the same photos."""
    difference = second - first
    both = ~np.isnan(difference)
    count = np.maximum(both.sum(0), 1)
    means = (np.where(both, values, 0.0).sum(0) / count for values in (first, second))
    first_mean, second_mean = (np.where(both.any(0), mean, np.nan) for mean in means)
    return defined_means(difference, seed), first_mean, second_mean


def main(
    folders: tyro.conf.Positional[tuple[Path, ...]],
    *,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
    csv_file: Annotated[Path | None, tyro.conf.arg(name="csv")] = None,
) -> int:
    """Compare finished benchmarks on the photos that they share.

    Args:
        folders: `--out` folders of benchmarks under one protocol; the others are compared with the first.
        json_file: write the differences here.
        csv_file: write the differences here, one row each.
    """
    compared = compare(folders)
    _print(compared)
    if json_file is not None:
        json_file.write_text(json.dumps(_content(compared), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if csv_file is not None:
        with csv_file.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(compared.rows()[0]))
            writer.writeheader()
            writer.writerows(compared.rows())
    return 0


def _named(runs: Sequence[Finished]) -> dict[str, Finished]:
    """By the last part of the folder's path, or by the whole path where two would be called alike."""
    paths = [run.folder.resolve() for run in runs]
    if len(set(paths)) < len(paths):
        raise ValueError(f"a folder is given twice: {', '.join(str(run.folder) for run in runs)}")
    short = [path.name for path in paths]
    names = short if len(set(short)) == len(short) else [str(path) for path in paths]
    return dict(zip(names, runs, strict=True))


def _refuse_other_protocol(runs: Mapping[str, Finished], name: str, run: Finished) -> None:
    first_name, first = next(iter(runs.items()))
    mine, theirs = first.settings(), run.settings()
    for field in dict.fromkeys([*mine, *theirs]):
        if mine.get(field) != theirs.get(field):
            raise ValueError(
                f"{field} is {mine.get(field)!r} in {first_name} and {theirs.get(field)!r} in {name}; benchmark "
                "both under one protocol"
            )


def _refuse_other_photos(runs: Mapping[str, Finished], photos: Sequence[str]) -> None:
    """Photos of one name must have been measured at one size, and equal sets of names be of equal bytes."""
    first_name, first = next(iter(runs.items()))
    sizes = dict(zip(first.names, first.sizes.tolist(), strict=True))
    for name, run in list(runs.items())[1:]:
        theirs = dict(zip(run.names, run.sizes.tolist(), strict=True))
        for photo in photos:
            if sizes[photo] != theirs[photo]:
                raise ValueError(
                    f"photo {photo!r} has {sizes[photo]} pixels (height, width) in {first_name} and "
                    f"{theirs[photo]} in {name}; benchmark both on the same photos"
                )
        prints = [one.about["photos"].get("sha256") for one in (first, run)]
        if set(first.names) == set(run.names) and None not in prints and prints[0] != prints[1]:
            raise ValueError(
                f"the photos of {first_name} and {name} have the same names and other contents (their SHA-256 "
                "differs); benchmark both on the same photos"
            )


def _refuse_shared_names(name: str, photos: Sequence[str]) -> None:
    if twice := [photo for photo, count in Counter(photos).items() if count > 1]:
        raise ValueError(
            f"{len(twice)} names in {name} stand for two photos each ({twice[0]!r}); photos are compared by name, "
            "so give them different ones"
        )


def _common(what: str, have: Mapping[str, Sequence[str]], warnings: list[str]) -> list[str]:
    """What all runs have, in the order of the first; what only some have becomes a warning."""
    shared = [one for one in next(iter(have.values())) if all(one in set(names) for names in have.values())]
    if not shared:
        raise ValueError(f"the runs {', '.join(have)} have no {what} in common; nothing can be compared")
    counts = {name: len(names) for name, names in have.items()}
    if any(count > len(shared) for count in counts.values()):
        each = ", ".join(f"{count} in {name}" for name, count in counts.items())
        warnings.append(f"{what} differ: {each}; compared on the {len(shared)} that all have")
    return shared


def _table(run: Finished, photos: Sequence[str], policies: Sequence[str], metrics: Sequence[str]) -> np.ndarray:
    """(photos, policies * budgets * metrics)."""
    place = {name: row for row, name in enumerate(run.names)}
    rows = [place[photo] for photo in photos]
    values = np.stack(
        [[run.values(p, m) for m in metrics] for p in policies]
    )  # policies, metrics, photos, budgets
    return values[:, :, rows].transpose(2, 0, 3, 1).reshape(len(photos), -1)


def _differences(
    name: str, first: np.ndarray, second: np.ndarray, places: Sequence[tuple[str, int, str]], seed: int
) -> list[Difference]:
    means, first_mean, second_mean = paired(first, second, seed)
    return [
        Difference(
            run=name,
            first_mean=float(first_mean[column]),
            record=Record(
                policy=policy,
                clicks=clicks,
                metric=metric,
                value=float(second_mean[column]),
                photos=int(means.photos[column]),
                exact=int((second[:, column] >= METRICS[metric].ceiling).sum()),
                gain=float(means.mean[column]),
                gain_low=float(means.low[column]),
                gain_high=float(means.high[column]),
            ),
        )
        for column, (policy, clicks, metric) in enumerate(places)
    ]


def _print(compared: Compared) -> None:
    console = Console()
    first, *others = compared.runs
    for warning in compared.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for name in others:
        title = f"{name} ({compared.runs[name].name}) minus {first} ({compared.runs[first].name})"
        console.print(Text(f"{title}: {len(compared.photos)} photos, ± half the 95 % interval", style="bold"))
        mine = [difference.record for difference in compared.differences if difference.run == name]
        for start in range(0, len(compared.metrics), _METRICS_ABREAST):
            console.print(gains(mine, compared.metrics[start : start + _METRICS_ABREAST]))
    scales = ", ".join(METRICS[metric].title for metric in compared.metrics)
    console.print(Text(f"{scales}; means of per-photo values; ▲ better, ▼ worse, = no different", style="dim"))


def _content(compared: Compared) -> dict[str, Any]:
    first = next(iter(compared.runs.values()))
    about = ("colorizer", "guides", "commit", "machine", "versions")
    return {
        "protocol": first.settings(),
        "protocol_digest": first.digest(),
        "photos": len(compared.photos),
        "runs": {
            name: {key: run.about.get(key) for key in about} | {"photos": len(run.names)}
            for name, run in compared.runs.items()
        },
        "warnings": compared.warnings,
        "rows": compared.rows(),
    }


def _number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else value


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A challenger minus a champion, on the same photos."""

    policy: str
    clicks: int | None
    """None: each photo's mean over all measured numbers of clicks."""
    chosen: Record
    """The metric that is to be better; `gain` is the difference, with its paired bootstrap 95 % interval."""
    others: list[Record]
    """Every other metric of quality that has a better side."""

    @property
    def objection(self) -> str | None:
        """Why the challenger must not replace the champion; None if it may."""
        if self.chosen.verdict != "better":
            return f"the challenger is not better beyond its interval: {in_words(self.chosen)}"
        worse = [in_words(one) for one in self.others if one.verdict == "worse"]
        if worse:
            return f"the challenger is worse beyond its interval: {'; '.join(worse)}"
        unknown = [METRICS[one.metric].label for one in self.others if not one.verdict]
        if unknown or not self.others:
            lacking = f"{', '.join(unknown)} has no interval" if unknown else "no other metric was measured"
            return f"{lacking}, so nothing shows that the challenger is not worse elsewhere; measure more"
        return None


def weigh(champion: Path, challenger: Path, metric: str, policy: str, clicks: int | None = None) -> Evidence:
    """Compare two benchmarks on every metric of quality that has a better side.

    Args:
        champion: folder of the champion's benchmark.
        challenger: folder of the challenger's.
        metric: to be better on.
        policy: whose clicks are compared.
        clicks: a measured number; None for each photo's mean over all of them.

    Raises:
        ValueError: another protocol, other photos, or a metric, policy or number of clicks that was not measured.
    """
    if policy == RULER:
        raise ValueError(f"policy is {RULER!r}, which every network shares; decide by {BASELINE} or a guide's")
    compared = compare([champion, challenger])
    old, new = compared.runs.values()
    if not len(compared.photos) == len(old.names) == len(new.names):
        raise ValueError(f"{compared.warnings[0]}; a promotion needs both benchmarks on the same photos")
    judging = [name for name in compared.metrics if _judges(name)]
    if metric not in judging:
        raise ValueError(
            f"metric is {metric!r}; both measured these, which have a better side: {', '.join(judging)}"
        )
    if policy not in compared.policies:
        raise ValueError(f"policy is {policy!r}; both measured {', '.join(compared.policies)}")
    if clicks is not None and clicks not in old.budgets:
        raise ValueError(f"clicks is {clicks}; measured were {', '.join(map(str, old.budgets))}")
    records = {one.metric: one for one in _records(old, new, judging, policy, clicks)}
    return Evidence(policy=policy, clicks=clicks, chosen=records.pop(metric), others=list(records.values()))


def in_words(record: Record) -> str:
    """Metric, difference and interval, such as "ab PSNR +0.52 dB [+0.29, +0.78]"."""
    entry = METRICS[record.metric]
    gain, low, high = (
        f"{np.nan if value is None else value:+.{entry.decimals}f}"
        for value in (record.gain, record.gain_low, record.gain_high)
    )
    return f"{entry.label} {gain}{f' {entry.unit}' if entry.unit else ''} [{low}, {high}]"


def _judges(metric: str) -> bool:
    """Whether nobody may get worse on a metric; those of clicks describe, and differ for good reasons."""
    return METRICS[metric].group == "quality" and METRICS[metric].higher_is_better is not None


def _records(
    old: Finished, new: Finished, metrics: Sequence[str], policy: str, clicks: int | None
) -> list[Record]:
    """One per metric: challenger minus champion, one value per photo."""
    columns = slice(None) if clicks is None else [old.budgets.index(clicks)]
    place = {photo: row for row, photo in enumerate(new.names)}
    rows = [place[photo] for photo in old.names]
    mine = [new.values(policy, metric)[rows][:, columns] for metric in metrics]
    theirs = [old.values(policy, metric)[:, columns] for metric in metrics]
    gains = np.stack([_row_means(a - b) for a, b in zip(mine, theirs, strict=True)], axis=1)
    found = defined_means(gains, old.protocol.seed)
    return [
        Record(
            policy=policy,
            clicks=old.budgets[-1] if clicks is None else clicks,
            metric=metric,
            value=float(_row_means(mine[k].reshape(1, -1))[0]),
            photos=int(found.photos[k]),
            exact=int((mine[k] >= METRICS[metric].ceiling).sum()),
            gain=float(found.mean[k]),
            gain_low=float(found.low[k]),
            gain_high=float(found.high[k]),
        )
        for k, metric in enumerate(metrics)
    ]


def _row_means(values: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, " n"]:
    """Each row's mean over what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    count = defined.sum(1)
    return np.where(count > 0, np.where(defined, values, 0.0).sum(1) / np.maximum(count, 1), np.nan)
