"""What a finished benchmark prints."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evaluator.metrics import METRICS
from evaluator.results import BASELINE, RULER, RULER_WORDS, Results, Summary

_STYLES = {"better": "bold green", "worse": "bold red", "no different": "", "": ""}
_SHOWN = ("ab_psnr", "ab_ssim", "rgb_psnr", "lpips")
_NAMES_SHOWN = 3


def show(console: Console, results: Results, left_out: Mapping[str, str], not_measured: Mapping[str, str]) -> None:
    """Print the means of the main metrics, which photos are left out, and which metrics were not measured."""
    summaries = results.table()
    metrics = [name for name in _SHOWN if name in results.metrics] or results.metrics[:3]
    for metric in metrics:
        console.print(_means([s for s in summaries if s.metric == metric], results.protocol.clicks))
    if len(results.policies) > 1 and BASELINE in results.policies:
        console.print(f"Bold: better or worse than {BASELINE} beyond the 95 % interval.", style="dim")
    if RULER in results.policies:
        console.print(RULER_WORDS, style="dim")
    say(console, f"{len(results.photos)} photos measured, {len(left_out)} left out")
    for reason, names in _by_reason(left_out).items():
        more = "; ..." if len(names) > _NAMES_SHOWN else ""
        say(console, f"  {reason}: {len(names)}: {'; '.join(names[:_NAMES_SHOWN])}{more}")
    for name, reason in not_measured.items():
        say(console, f"not measured: {name}: {reason}")


def say(console: Console, text: str) -> None:
    """Print as it is: paths are neither wrapped nor coloured."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _means(summaries: Sequence[Summary], budgets: Sequence[int]) -> Table:
    """One row per policy, one column per number of clicks."""
    metric = METRICS[summaries[0].metric]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column(metric.title)
    for count in budgets:
        table.add_column(str(count), justify="right")
    for policy, mine in groupby(summaries, key=lambda s: s.policy):
        cells = [Text(f"{s.mean:.{metric.decimals}f}", style=_STYLES[s.verdict]) for s in mine]
        table.add_row(policy, *cells)
    return table


def _by_reason(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    """Names by the kind of the reason, which stands before its colon."""
    found: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        found.setdefault(reason.partition(":")[0], []).append(name)
    return found
