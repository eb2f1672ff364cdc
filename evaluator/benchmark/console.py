"""What a person sees: a progress bar while it measures, tables when it is done."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from evaluator.metrics import METRICS
from evaluator.protocol.results import BASELINE, RULER, RULER_WORDS, Record, Results

_SECONDS_BETWEEN_LINES = 15.0


class Counter:
    """Counts the photos and clicks of this process."""

    def __init__(self, photos: int, clicks: int, show: Callable[["Counter"], object]) -> None:
        self.photos, self.clicks = photos, clicks
        self.photos_done = self.clicks_done = 0
        self._show = show
        self._started = time.perf_counter()

    @property
    def words(self) -> str:
        """Photos done and speed."""
        seconds = max(time.perf_counter() - self._started, 1e-9)
        speed = self.clicks_done / max(self.clicks, 1) * self.photos / seconds
        return f"{self.photos_done:,}/{self.photos:,} photos, {speed:.2f}/s"

    def click(self, count: int) -> None:
        """Note clicks that were placed."""
        self.clicks_done += count
        self._show(self)

    def photo(self, count: int) -> None:
        """Note photos that are measured and stored."""
        self.photos_done += count
        self._show(self)


@contextmanager
def progress(console: Console, photos: int, clicks: int, ranks: int) -> Iterator[Counter]:
    """Show the progress of this process, whose share is like that of the others."""
    share = f" (process 1 of {ranks})" if ranks > 1 else ""
    if console.quiet or not console.is_terminal:
        counter = Counter(photos, clicks, _Lines(console, share))
        yield counter
        console.print(f"{counter.words}{share}", highlight=False, soft_wrap=True)
        return
    columns = (TextColumn("measuring"), BarColumn(), TextColumn("{task.fields[words]}"), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("", total=clicks, words="")
        yield Counter(
            photos, clicks, lambda now: bar.update(task, completed=now.clicks_done, words=now.words + share)
        )


class _Lines:
    """Prints a line, if the last one is a while ago."""

    def __init__(self, console: Console, share: str) -> None:
        self._console, self._share = console, share
        self._last = time.perf_counter()

    def __call__(self, now: Counter) -> None:
        if time.perf_counter() - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = time.perf_counter()
            self._console.print(f"  {now.words}{self._share}", highlight=False, soft_wrap=True)


_STYLES = {"better": "bold green", "worse": "bold red", "no different": "", "": ""}
_SHOWN = ("ab_psnr", "ab_ssim", "rgb_psnr", "lpips")
_NAMES_SHOWN = 3


def show(console: Console, results: Results, left_out: Mapping[str, str], not_measured: Mapping[str, str]) -> None:
    """Print the means of the main metrics, which photos are left out, and which metrics were not measured."""
    metrics = [name for name in _SHOWN if name in results.metrics] or results.metrics[:3]
    for metric in metrics:
        console.print(_means([one for one in results.records if one.metric == metric], results.protocol.clicks))
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
    """Print as it is: paths are neither wrapped nor colored."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _means(records: Sequence[Record], budgets: Sequence[int]) -> Table:
    """One row per policy, one column per number of clicks."""
    metric = METRICS[records[0].metric]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column(metric.title)
    for count in budgets:
        table.add_column(str(count), justify="right")
    for policy, mine in groupby(records, key=lambda one: one.policy):
        cells = [Text(f"{one.value:.{metric.decimals}f}", style=_STYLES[one.verdict]) for one in mine]
        table.add_row(policy, *cells)
    return table


def _by_reason(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    """Names by the kind of the reason, which stands before its colon."""
    found: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        found.setdefault(reason.partition(":")[0], []).append(name)
    return found
