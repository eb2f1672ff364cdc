"""The figures of the benchmark `choose_click` as a table: for the screen, and in docs/results/kernels.md."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import markdown, put

PATHS = {
    "eager": "eager",
    "eager, torch's noise": "eager, other noise",
    "compiled": "compiled",
    "compiled, torch's noise": "compiled, other noise",
    "ours": "ours",
}
"""Columns of paths, by the name that the figures have for them."""
EMPTY = "-"
CASE = ("estimator", "photos", "size", "threads")

Row = Mapping[str, Any]


def pivot(rows: Iterable[Row]) -> list[dict[str, str]]:
    """One line for each case and pass, the paths beside each other; one for each path that could not run.

    Medians in ms, ours with its quantiles of 20 and 80 %. A column that is empty everywhere is left out.
    """
    groups: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in rows:
        groups.setdefault((*(row[key] for key in CASE), row["pass"]), {})[row["path"]] = row
    lines = [line for group in groups.values() for line in _lines(group)]
    columns = dict.fromkeys(key for line in lines for key in line)
    filled = [key for key in columns if any(line.get(key, EMPTY) != EMPTY for line in lines)]
    return [{key: line.get(key, EMPTY) for key in filled} for line in lines]


def _lines(group: Mapping[str, Row]) -> Iterable[dict[str, str]]:
    timed = {name: row for name, row in group.items() if "p50 ms" in row}
    if timed:
        yield _case(next(iter(timed.values()))) | _figures(timed)
    for name in (name for name in group if name not in timed):
        yield _case(group[name]) | {"ours": name}


def _case(row: Row) -> dict[str, str]:
    name = f"{row['estimator']} {row['photos']} x {row['size']} px"
    return {"case": name, "threads": str(row["threads"] or EMPTY), "pass": row["pass"]}


def _figures(timed: Mapping[str, Row]) -> dict[str, str]:
    ours = timed.get("ours", {})
    return {
        **{column: _number(timed.get(path, {}).get("p50 ms")) for path, column in PATHS.items()},
        "p20-p80": f"{_number(ours.get('p20 ms'))}-{_number(ours.get('p80 ms'))}",
        "x eager": _ratio(timed, "eager", "p50 ms"),
        "x compiled": _ratio(timed, "compiled", "p50 ms"),
        "of a copy": _percent(ours.get("of a copy")),
        "as called, x eager": _ratio(timed, "eager", "as called ms"),
        "eager MiB": _number(timed.get("eager", {}).get("peak MiB")),
        "compiled MiB": _number(timed.get("compiled", {}).get("peak MiB")),
        "ours MiB": _number(ours.get("peak MiB")),
    }


def _ratio(timed: Mapping[str, Row], path: str, key: str) -> str:
    """How many times as long a path takes as ours."""
    one, other = (timed.get(name, {}).get(key) for name in (path, "ours"))
    return EMPTY if one is None or other is None else f"{one / other:.2f}"


def _number(value: float | None) -> str:
    return EMPTY if value is None else f"{value:.3g}"


def _percent(share: float | None) -> str:
    return EMPTY if share is None else f"{100 * share:.0f} %"


def section(content: Mapping[str, Any]) -> str:
    """Machine, figures and the goals that were measured."""
    machine, versions = content["machine"], content["versions"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['cores']} cores"
    software = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "triton") if name in versions)
    lines = pivot(content["rows"])
    parts = [f"{where}; {software}; commit {content['commit']}."]
    parts.append(markdown(list(lines[0]), [list(line.values()) for line in lines]))
    goals = [
        (goal["name"], f"{goal['goal']:g}", f"{goal['measured']:.3g}", "yes" if goal["met"] else "**no**")
        for goal in content["goals"]
        if goal["measured"] is not None
    ]
    if goals:
        parts.append(markdown(("goal", "wanted", "measured", "met"), goals))
    return "\n\n".join(parts)


def write_figures(content: Mapping[str, Any], document: Path) -> None:
    """Write a report into a document, between its lines for a CPU or for a GPU, by where the figures come from.

    Raises:
        ValueError: the document has no such lines.
    """
    name = "gpu" if content["machine"]["gpu"] else "cpu"
    document.write_text(put(document.read_text(), name, section(content)))
