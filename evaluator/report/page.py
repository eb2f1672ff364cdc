"""One HTML page with everything that a benchmark found: no script, nothing from outside, readable offline."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evaluator.metrics import METRICS
from evaluator.protocol.finished import Finished
from evaluator.protocol.results import RULER
from evaluator.report import figures, tables
from evaluator.report.figures import jpeg
from evaluator.report.gallery import Gallery, nearest_budget

FILE_NAME = "report.html"
_HERE = Path(__file__).parent
_MAX_NAMED = 100
"""Photos that were left out are named up to here, and counted beyond."""


def build(finished: Finished, gallery: Gallery | None = None) -> Path:
    """Write `report.html` into the folder of a finished benchmark.

    Args:
        finished: the benchmark.
        gallery: photos to show, from `evaluator.report.gallery`; None leaves them out, and the page says so.

    Returns:
        The page.
    """
    page = templates().get_template("page.html.jinja").render(_content(finished, gallery))
    target = finished.folder / FILE_NAME
    target.write_text(page, encoding="utf-8")
    return target


def templates(*folders: Path) -> Environment:
    """Jinja over these folders and this one, which has the parts that reports share."""
    environment = Environment(
        loader=FileSystemLoader([*folders, _HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["jpeg"] = jpeg
    return environment


def style() -> str:
    """The style sheet of reports."""
    return (_HERE / "style.css").read_text(encoding="utf-8")


def facts(commit: str, machine: Mapping[str, Any], versions: Mapping[str, str]) -> list[tuple[str, str]]:
    """Machine, versions and commit as names and values."""
    hardware = [(key.replace("_", " "), "none" if value is None else str(value)) for key, value in machine.items()]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [("commit", str(commit)), *hardware, ("versions", packages)]


def save_figures(finished: Finished, target: Path) -> list[Path]:
    """Write the page's curves and heat maps as PNG files, for a tracker that shows pictures.

    Args:
        finished: the benchmark.
        target: folder for the files, which is made.
    """
    pictures: dict[str, figures.Picture | None] = {
        f"clicks-{policy}": picture for policy, picture in _heat_maps(finished).items()
    }
    for metric in finished.metrics:
        pictures[metric] = figures.mean_curves(finished, metric)
        pictures[f"{metric}-gain"] = figures.gain_curves(finished, metric)
    target.mkdir(parents=True, exist_ok=True)
    files = {target / f"{name}.png": picture for name, picture in pictures.items() if picture}
    for file, picture in files.items():
        picture.figure.savefig(file, dpi=130)
    return list(files)


def _content(finished: Finished, gallery: Gallery | None) -> dict[str, Any]:
    """Everything that the template shows."""
    about = finished.about
    return {
        "finished": finished,
        "style": style(),
        "protocol": tables.protocol_sentences(finished),
        "findings": tables.findings(finished),
        "glance": tables.glance_table(finished, nearest_budget(finished.budgets)),
        "metrics": [_metric(finished, metric) for metric in finished.metrics],
        "seconds": tables.seconds_table(finished),
        "nri": _nri(finished, about.get("nri") or []),
        "fid": tables.fid_table(about["fid"]) if about.get("fid") else None,
        "papers": [paper | {"table": tables.paper_table(paper)} for paper in about.get("papers") or []],
        "cycles": tables.cycles_table(about["cycles"]) if about.get("cycles") else None,
        "gallery": gallery,
        "heat_maps": _heat_maps(finished),
        "skipped": about["photos"].get("skipped", []),
        "most_named": _MAX_NAMED,
        "not_measured": about.get("not_measured") or [],
        "networks": _networks(about),
        "facts": facts(about["commit"], about["machine"], about["versions"]),
    }


def _networks(about: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """By role; files from before the ruler have none."""
    ruler = {RULER: about["ruler"]} if about.get("ruler") else {}
    return {"colorizer": about["colorizer"], **(about.get("guides") or {}), **ruler}


def _metric(finished: Finished, metric: str) -> dict[str, Any]:
    pictures = figures.mean_curves(finished, metric), figures.gain_curves(finished, metric)
    return {
        "name": metric,
        "label": METRICS[metric].label,
        "about": METRICS[metric].about,
        "direction": tables.direction(metric),
        "pictures": [picture for picture in pictures if picture],
        "table": tables.metric_table(finished, metric),
    }


def _nri(finished: Finished, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Bars per metric and level, and one table."""
    if not entries:
        return None
    levels = groupby(sorted(entries, key=_level), key=_level)
    bars = [
        figures.nri_bars(list(group), finished.policies, tables.level_words(metric, level))
        for (metric, level), group in levels
    ]
    return {"bars": bars, "table": tables.nri_table(entries)}


def _level(entry: Mapping[str, Any]) -> tuple[str, float]:
    return entry["metric"], entry["level"]


def _heat_maps(finished: Finished) -> dict[str, figures.Picture]:
    """Where each policy's clicks fall, up to the largest budget; the ruler's are the baseline's."""
    densities = {
        policy: figures.click_density(finished.positions(policy), finished.sizes)
        for policy in finished.policies
        if policy != RULER
    }
    return {policy: figures.heat_map(cells, policy) for policy, cells in densities.items() if cells is not None}
