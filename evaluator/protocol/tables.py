"""Results as tables for a terminal: means with clicks downwards, differences to random with their intervals."""

import io
import math
import re
from collections.abc import Sequence
from itertools import groupby

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from evaluator.metrics import EXACT_DB, METRICS
from evaluator.protocol.results import BASELINE, RULER, RULER_WORDS, Record, Results

_STYLES = {"better": "bold green", "worse": "bold red", "no different": "", "": ""}
_MARKS = {"better": "▲", "worse": "▼", "no different": "=", "": ""}


def report(results: Results) -> RenderableType:
    """Means, differences and verdicts under a title that states the protocol, to print with rich."""
    parts: list[RenderableType] = [Text(_protocol_in_words(results), style="bold")]
    parts += [means_table(results), Text(_fine_print(results), style="dim"), ""]
    if BASELINE in results.policies and len(results.policies) > 1:
        parts.append(Text(f"Minus {BASELINE} clicks on the same photos, ± half the 95 % interval", style="bold"))
        parts += [gains_table(results), *map(Text, verdicts(results))]
    return Group(*parts)


def plain_text(results: Results, width: int = 100) -> str:
    """The report as text without colors, for a file or a log."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(report(results))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()).strip("\n") + "\n"


def means_table(results: Results) -> Table:
    """Means over photos: one row per number of clicks; for each metric, the policies side by side.

    Green is better than the baseline beyond the 95 % interval, red is worse.
    """
    table = _new_table()
    for metric in results.metrics:
        for policy in results.policies:
            heading = METRICS[metric].label if policy == results.policies[0] else ""
            table.add_column(f"{heading}\n{re.sub('[- ]', chr(10), policy)}", justify="right")
    rows = sorted(results.records, key=lambda s: (s.clicks, results.metrics.index(s.metric)))
    for clicks, records in groupby(rows, key=lambda s: s.clicks):
        table.add_row(str(clicks), *(_mean(record) for record in records))
    return table


def gains_table(results: Results) -> Table:
    """Mean differences to the baseline on the same photos: see `gains`."""
    return gains(_others(results), results.metrics)


def gains(records: Sequence[Record], metrics: Sequence[str]) -> Table:
    """Mean differences with half their interval: one row per policy and number of clicks, metrics abreast."""
    table = _new_table()
    table.add_column("policy")
    for metric in metrics:
        table.add_column(METRICS[metric].label, justify="right")
    of_metric = [record for record in records if record.metric in metrics]
    for (policy, clicks), row in groupby(of_metric, key=lambda s: (s.policy, s.clicks)):
        table.add_row(str(clicks), policy, *(_gain(record) for record in row))
    return table


def verdicts(results: Results) -> list[str]:
    """One sentence per policy and metric: where it is better or worse beyond its interval, and by how much."""
    others = _others(results)
    others.sort(key=lambda s: (results.policies.index(s.policy), results.metrics.index(s.metric)))
    return [
        f"{policy} against {BASELINE}, {METRICS[metric].label}: {in_words(list(records))}."
        for (policy, metric), records in groupby(others, key=lambda s: (s.policy, s.metric))
    ]


def _others(results: Results) -> list[Record]:
    """What can differ from the baseline."""
    return [s for s in results.records if s.policy != BASELINE and s.clicks > 0]


def in_words(records: Sequence[Record]) -> str:
    """Budgets by verdict, and the last budget's gain with its interval, for one policy and metric."""
    parts = []
    for verdict in ("better", "worse", "no different"):
        budgets = [str(s.clicks) for s in records if s.verdict == verdict]
        if budgets:
            parts.append(f"{verdict} at {', '.join(budgets)}")
    last = records[-1]
    gain, low, high = _signed(last, last.gain, last.gain_low, last.gain_high)
    return "; ".join([*parts, f"{gain} [{low}, {high}] at {last.clicks}"])


def _new_table() -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column("clicks", justify="right")
    return table


def _protocol_in_words(results: Results) -> str:
    height, width = results.size
    count, hint_size = len(results.photos), results.protocol.hint_size
    photos = f"{count} photo{'s' if count != 1 else ''} of {width} x {height} px"
    robot, seed = results.protocol.robot.words, results.protocol.seed
    return f"After clicks: {photos}, hint size {hint_size}, {robot}, seed {seed}"


def _fine_print(results: Results) -> str:
    """What a reader needs to hold the numbers against others."""
    scales = ", ".join(METRICS[metric].title for metric in results.metrics)
    lines = [f"{scales}; means of per-photo values."]
    exact = sum(record.exact for record in results.records)
    if exact:
        lines.append(f"{exact} infinite values of photos without any error count as {EXACT_DB:.0f} dB.")
    if RULER in results.policies:
        lines.append(RULER_WORDS)
    return " ".join(lines)


def _mean(record: Record) -> Text:
    decimals = METRICS[record.metric].decimals
    return Text(f"{record.value:.{decimals}f}", style=_STYLES[record.verdict])


def _gain(record: Record) -> Text:
    half = None
    if record.gain_low is not None and record.gain_high is not None:
        half = (record.gain_high - record.gain_low) / 2
    gain, half = _signed(record, record.gain, half)
    return Text(f"{gain} ±{half[1:]} {_MARKS[record.verdict]}", style=_STYLES[record.verdict])


def _signed(record: Record, *values: float | None) -> list[str]:
    """Numbers with a sign and the metric's decimals; nan where there is none."""
    decimals = METRICS[record.metric].decimals
    return [f"{math.nan if value is None else value:+.{decimals}f}" for value in values]
