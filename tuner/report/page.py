"""Report page of a sweep: one HTML file, readable offline and without its script."""

import base64
import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluator.report.page import facts, style, templates
from evaluator.system.files import write_atomically
from trainer.config import Config
from trainer.config.overrides import config_of, overridden
from tuner.plan import FINISHED
from tuner.records import BEST_FILE, LEGS_FILE, REPORT_FILE, Sweep, Trial, best, read_trials
from tuner.report import figures, tables
from tuner.report.analysis import QUESTIONS, by_setting, comparable, front, importance, over_seeds, written
from tuner.report.figures import parallel

_HERE = Path(__file__).parent


def write_report(folder: Path) -> Path:
    """Write `sweep.html` into the folder of a sweep, which may still be running.

    Returns:
        The page.

    Raises:
        ValueError: the folder has no sweep, or a damaged one.
    """
    sweep, trials = Sweep.read(folder), read_trials(folder)
    page = templates(_HERE).get_template("sweep.html.jinja").render(_content(folder, sweep, trials))
    target = folder / REPORT_FILE
    write_atomically(target, page.encode())
    return target


def save_picture(folder: Path, file: Path) -> Path:
    """Write the page's figures as one picture, for documents.

    Args:
        folder: of a sweep.
        file: its ending says the format, such as .png or .svg.

    Raises:
        ValueError: the folder has no sweep, or no trial of it has measured what decides.
    """
    sweep, trials = Sweep.read(folder), read_trials(folder)
    leader = best(trials, sweep.metric)
    if leader is None:
        raise ValueError(f"no trial of {folder} has measured {sweep.metric.name}; there is nothing to draw")
    found = importance(sweep, trials, sweep.metric)
    figure = figures.everything(sweep, trials, parallel(sweep, trials), found, _config(sweep, leader))
    figure.savefig(file, dpi=110)
    return file


def _content(folder: Path, sweep: Sweep, trials: Sequence[Trial]) -> dict[str, Any]:
    """Context of the page's template."""
    leader = best(trials, sweep.metric)
    found = importance(sweep, trials, sweep.metric)
    sheet = f"{style()}\n{(_HERE / 'sweep.css').read_text(encoding='utf-8')}"
    script = (_HERE / "brush.js").read_text(encoding="utf-8")
    return {
        "sweep": sweep,
        "trials": trials,
        "leader": leader,
        "style": sheet,
        "script": script,
        "policy": f"default-src 'none'; img-src data:; style-src {_allowed(sheet)}; script-src {_allowed(script)}",
        "asked": tables.asked(sweep, trials, FINISHED in sweep.options),
        "findings": tables.findings(sweep, trials),
        "parallel": parallel(sweep, trials) if trials else None,
        "importance": figures.importance_bars(found) if found and found.shares else None,
        "about_importance": tables.about_importance(found, sweep, trials),
        "curve": figures.best_curve(trials, leader, _config(sweep, leader), sweep.metric) if leader else None,
        "pareto": _pareto(sweep, trials),
        "about_groups": tables.about_groups(sweep, trials),
        "groups": _groups(sweep, trials),
        "table": tables.trial_table(sweep, trials),
        "legs": tables.leg_table(sweep, trials, leader) if leader and leader.legs else None,
        "legs_file": LEGS_FILE,
        "best_settings": _best_settings(sweep, leader) if leader else [],
        "command": f"accelerate launch trainer/main.py --config {shlex.quote(str(folder / BEST_FILE))}",
        "command_written": (folder / BEST_FILE).exists(),
        "facts": [
            ("started", sweep.started),
            *facts(sweep.commit, sweep.machine, sweep.versions),
            ("MLflow", f"run {sweep.parent_run or 'none'} at {sweep.tracking_uri or 'none'}"),
        ],
    }


def _config(sweep: Sweep, trial: Trial) -> Config:
    """Of a trial's training."""
    return overridden(config_of(sweep.base), trial.values)


def _pareto(sweep: Sweep, trials: Sequence[Trial]) -> dict[str, Any] | None:
    """Pareto table and plots; None with one metric, or where no trial has all."""
    count = len(comparable(trials, sweep.metrics))
    if len(sweep.metrics) < 2 or not count:
        return None
    kept = front(trials, sweep.metrics)
    return {"table": tables.pareto_table(sweep, kept, count), "plots": figures.pareto_plots(sweep, trials)}


def _groups(sweep: Sweep, trials: Sequence[Trial]) -> list[Any]:
    """A table for each setting in question, and one over seeds."""
    found = {f"By {path}": (path, by_setting(sweep, trials, path)) for path in QUESTIONS}
    found["The same settings over seeds"] = ("settings", over_seeds(sweep, trials))
    return [
        tables.group_table(caption, corner, groups, sweep.metrics)
        for caption, (corner, groups) in found.items()
        if groups
    ]


def _best_settings(sweep: Sweep, leader: Trial) -> list[tuple[str, str, str]]:
    """Name, value and the base training's value of each searched setting."""
    return [(path, written(value), written(sweep.base.get(path))) for path, value in leader.values.items()]


def _allowed(text: str) -> str:
    """Source expression of the content security policy that allows exactly this style or script text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
