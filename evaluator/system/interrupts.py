"""SIGTERM and Ctrl-C as a stop request that a loop checks between two steps."""

import ctypes
import signal
import sys
from types import FrameType
from typing import Any

_PR_SET_PDEATHSIG = 1


class StopRequest:
    """While entered, SIGTERM (as Slurm sends) or Ctrl-C sets `signal_name`; a second Ctrl-C interrupts.

    The end of the launcher counts as SIGTERM too: `accelerate launch` dies of a signal without passing it on.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        _ask_for_sigterm_when_the_parent_ends(True)
        return self

    def __exit__(self, *error: object) -> None:
        _ask_for_sigterm_when_the_parent_ends(False)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal_name is not None:
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name


def _ask_for_sigterm_when_the_parent_ends(wanted: bool) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM if wanted else 0)
