"""SIGTERM and Ctrl-C as a request that the loop answers between two steps."""

import signal
from types import FrameType
from typing import Any


class StopRequest:
    """While entered, SIGTERM (as Slurm sends) or Ctrl-C sets `signal_name`; a second Ctrl-C interrupts."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal_name is not None:
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name
