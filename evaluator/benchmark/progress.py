"""What a person sees while it measures: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

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
