"""Terminal output of a training: a progress bar on a terminal, an occasional line elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

_SECONDS_BETWEEN_LINES = 15.0
_PLAIN_WIDTH = 118

Draw = Callable[[int, str], None]
"""Draws the photos done and a text beside the bar."""


class Screen:
    """Console of the main process; silent on all others."""

    def __init__(self, *, enabled: bool) -> None:
        console = Console(quiet=not enabled)
        self.console = console if console.is_terminal else Console(quiet=not enabled, width=_PLAIN_WIDTH)

    def say(self, *objects: object) -> None:
        """Print text or a rich table."""
        plain = all(isinstance(item, str) for item in objects)
        self.console.print(*objects, highlight=False, soft_wrap=plain, markup=False)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.console.print(Text.assemble(("note: ", "yellow"), text), highlight=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, position: str, images: int, done: int) -> Iterator["StageDisplay"]:
        """Context that shows one stage's progress."""
        if self.console.is_terminal and not self.console.quiet:
            with Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
                TimeRemainingColumn(compact=True),
                TextColumn("left, {task.fields[losses]}"),
                console=self.console,
            ) as bar:
                task = bar.add_task(f"{position} {name}", total=images, completed=done, losses="")
                yield StageDisplay(images, done, lambda n, text: bar.update(task, completed=n, losses=text))
            return
        display = StageDisplay(images, done, None)
        yield display
        self.say(f"{position} {name}: {display.line()}, {display.seconds:.0f} s")

    def line(self, name: str, display: "StageDisplay") -> None:
        """Print a progress line on a plain output, at most once in a while."""
        if display.is_due():
            self.say(f"  {name}: {display.line()}, {display.seconds_left:.0f} s left")
            sys.stdout.flush()


class StageDisplay:
    """Smoothed losses, speed and remaining time of one stage."""

    def __init__(self, images: int, done: int, draw: Draw | None) -> None:
        self.images = images
        self._done = self._first = done
        self._draw = draw
        self._started = self._last_line = time.perf_counter()
        self._losses: dict[str, float] = {}
        self._watched = ""

    def update(self, images: int, losses: Mapping[str, float], watched: str = "") -> None:
        """Update with `images` photos done in this stage, the last step's losses and further text."""
        self._done, self._watched = images, watched
        for name, value in losses.items():
            self._losses[name] = 0.95 * self._losses.get(name, value) + 0.05 * value
        if self._draw:
            self._draw(images, f"{self.images_per_second:.0f} images/s {self._text()}")

    @property
    def seconds(self) -> float:
        """Seconds since the stage began or was resumed."""
        return time.perf_counter() - self._started

    @property
    def images_per_second(self) -> float:
        """Mean speed of this stage in photos per second, over all processes."""
        return (self._done - self._first) / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float:
        """Estimated seconds to the end of the stage at the mean speed."""
        return (self.images - self._done) / max(self.images_per_second, 1e-9)

    def line(self) -> str:
        """The display as one line."""
        done = f"{self._done:,}/{self.images:,} photos"
        return f"{done}, {self.images_per_second:.0f} images/s, {self._text()}"

    def is_due(self) -> bool:
        """Whether a line should be printed now; only on an output without a progress bar."""
        if self._draw or time.perf_counter() - self._last_line < _SECONDS_BETWEEN_LINES:
            return False
        self._last_line = time.perf_counter()
        return True

    def _text(self) -> str:
        losses = "  ".join(f"{name} {value:.4f}" for name, value in self._losses.items())
        return ", ".join(filter(None, (losses, self._watched)))
