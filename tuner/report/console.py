"""Terminal output of a sweep: a live table on a terminal, a line per event elsewhere."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tuner.records import (
    BEST_FILE,
    LEGS_FILE,
    REPORT_FILE,
    TRIALS_FILE,
    Sweep,
    Trial,
    best,
    common_error,
    short_name,
)
from tuner.report.analysis import front

_PLAIN_WIDTH = 118
_ROWS = 30
_STYLES = {"running": "cyan", "finished": "green", "stopped": "dim", "failed": "red"}
_ORDER = ("running", "finished", "stopped", "failed")


class Screen:
    """Display of one sweep."""

    def __init__(self, sweep: Sweep, console: Console | None = None) -> None:
        self._sweep = sweep
        console = console or Console()
        self.console = console if console.is_terminal else Console(file=console.file, width=_PLAIN_WIDTH)
        self._live: Live | None = None

    def open(self) -> None:
        """Start the live table, on a terminal."""
        if self.console.is_terminal:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()

    def say(self, text: str) -> None:
        """Print a line unchanged."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, trials: Sequence[Trial]) -> None:
        """Redraw the table, on a terminal."""
        if self._live:
            self._live.update(table(self._sweep, trials, most=_ROWS), refresh=True)

    def event(self, before: Trial | None, now: Trial, leader: Trial | None) -> None:
        """Print an event of a trial, where there is no table."""
        if self._live:
            return
        if before is None:
            self.say(f"trial {now.number}: {settings(now.values)}")
        elif len(now.reports) != len(before.reports) or now.status != before.status:
            self.say(f"trial {now.number}: {self._news(now)}{' (best)' if leader and leader.id == now.id else ''}")

    def close(self, trials: Sequence[Trial]) -> None:
        """Draw the table for the last time."""
        if self._live:
            self._live.stop()
            self._live = None
        self.console.print(table(self._sweep, trials))
        if len(self._sweep.metrics) > 1 and front(trials, self._sweep.metrics):
            self.console.print(pareto_table(self._sweep, trials))

    def _news(self, trial: Trial) -> str:
        if trial.status == "failed":
            return f"failed: {trial.error}"
        if not trial.reports:
            return trial.status
        if trial.status == "finished":
            return f"finished, {trial.seconds:.0f} s"
        last = trial.reports[-1]
        values = ", ".join(f"{name} {number(value)}" for name, value in last.metrics.items())
        status = "" if trial.status == "running" else f"{trial.status} "
        return f"{status}after {last.stage}, {last.images_seen:,} photos, {trial.seconds:.0f} s: {values}"


def table(sweep: Sweep, trials: Sequence[Trial], most: int | None = None) -> Table:
    """Table of the trials: running ones first, then the others from the best to the worst.

    Args:
        sweep: theirs.
        trials: all of them.
        most: leave out the rest.
    """
    leader = best(trials, sweep.metric)
    counts = [f"{sum(trial.status == status for trial in trials)} {status}" for status in _ORDER]
    drawn = Table(title=f"{sweep.name}: {', '.join(counts)}", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("trial", "settings", "stage", *(measure.name for measure in sweep.metrics), "s", "status"):
        drawn.add_column(name, justify="left" if name in ("settings", "stage", "status") else "right")
    ordered = sorted(trials, key=lambda trial: _rank(sweep, trial))
    for trial in ordered[:most]:
        last = trial.reports[-1] if trial.reports else None
        numbers = [number(trial.value(measure.name)) for measure in sweep.metrics]
        status = Text(trial.error or trial.status, style=_STYLES[trial.status])
        drawn.add_row(
            str(trial.number),
            settings(trial.values),
            last.stage if last else "",
            *numbers,
            f"{trial.seconds:.0f}",
            status,
            style="bold" if leader and trial.id == leader.id else "",
        )
    return drawn


def pareto_table(sweep: Sweep, trials: Sequence[Trial]) -> Table:
    """Table of the Pareto-optimal trials, best on the first metric first."""
    names = [measure.name for measure in sweep.metrics]
    drawn = Table(title="Pareto front", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("trial", "settings", *names):
        drawn.add_column(name, justify="left" if name == "settings" else "right")
    for trial in front(trials, sweep.metrics):
        numbers = [number(trial.value(name)) for name in names]
        drawn.add_row(str(trial.number), settings(trial.values), *numbers)
    return drawn


def settings(values: Mapping[str, Any]) -> str:
    """Searched values in one line, by the last parts of their names."""
    return " ".join(f"{short_name(path)}={_value(value)}" for path, value in values.items())


def number(value: float | None) -> str:
    """A number with four significant digits; a dash for what was not measured."""
    return "-" if value is None else f"{value:.4g}"


def _rank(sweep: Sweep, trial: Trial) -> tuple[int, float, int]:
    value = trial.value(sweep.metric.name)
    sign = -1.0 if sweep.metric.direction == "max" else 1.0
    return _ORDER.index(trial.status), float("inf") if value is None else sign * value, trial.number


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def conclusion(sweep: Sweep, trials: Sequence[Trial], folder: Path) -> str:
    """Summary of the sweep, and the next commands."""
    leader = best(trials, sweep.metric)
    if leader is None:
        why = common_error(trials) or "no trial has failed"
        return f"no trial measured {sweep.metric.name}: {why}\nall of it is in {folder / TRIALS_FILE}"
    value = number(leader.value(sweep.metric.name))
    lines = [
        f"best: trial {leader.number}, {sweep.metric.label}: {value}; {settings(leader.values)}",
        f"report: {folder / REPORT_FILE}",
        f"train it in full: accelerate launch trainer/main.py --config {folder / BEST_FILE}",
    ]
    if leader.legs:
        lines.append(f"its settings changed on the way: that config has the last ones, {folder / LEGS_FILE} all")
    return "\n".join(lines)
