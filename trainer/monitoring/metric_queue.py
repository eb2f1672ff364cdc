"""Ordered queue of metrics and files for a tracking server, kept until delivered. Independent of MLflow.

One thread of its own sends in batches, so that a slow server does not slow the training, and a server that is
down does not end it: entries wait and are tried again, ever less often. What is still unsent at the end goes into
a file of JSON lines, which the next outbox on that file sends first.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice, takewhile
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

Kind = Literal["metric", "param", "tag", "artifact"]
LIMITS: dict[Kind, int] = {"metric": 1000, "param": 100, "tag": 100, "artifact": 1}
"""Most entries per delivery (MLflow's limits for one request)."""
UNSENT = "unsent-{}.jsonl"
"""File of what a tracking server did not get of an MLflow run, by its id."""
CAPACITY = 200_000
"""Entries kept in memory while the server is down; beyond that they go to the file."""


T = TypeVar("T")


class Entry(NamedTuple):
    """One queued item."""

    kind: Kind
    key: str
    """Name; of an artifact the local file."""
    value: float | str
    """Value; of an artifact the folder to put it in."""
    step: int = 0
    time: int = 0
    """When it was measured, in milliseconds since 1970."""


class Rejected(Exception):
    """Raised by `send` for entries that the server will never accept; they are set aside, not retried."""


class Outbox:
    """Queue of entries with a background sender.

    Args:
        send: delivers entries of one kind, or raises: `Rejected` to have them put aside, anything else to have
            them tried again. Delivering twice must do no harm: an answer can get lost. Called from one thread.
        unsent: file for what could not be delivered; read first when it exists.
        warn: told once when the server does not answer, and of everything that ends in a file.
        interval: seconds between deliveries.
        longest_wait: seconds between tries, at most, while the server is down.
        batch: a delivery starts early when this many entries wait.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Entry]], None],
        unsent: Path,
        warn: Callable[[str], None],
        *,
        interval: float = 2.0,
        longest_wait: float = 60.0,
        batch: int = 1000,
        capacity: int = CAPACITY,
    ) -> None:
        self.unsent = unsent
        self.rejected = unsent.with_name(f"rejected-{unsent.name}")
        self._send, self._warn = send, warn
        self._interval, self._longest_wait = interval, longest_wait
        self._batch, self._capacity = batch, capacity
        self._waiting: deque[Entry] = deque()
        self._changed = threading.Condition()
        self._hurry = self._closing = self._warned = False
        self._failures = 0  # in a row
        self._failed_tries = 0  # ever
        self._in_file = unsent.exists()  # the file has entries that are not waiting
        self._file_is_read = False  # all its entries are waiting or delivered
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
        self._thread.start()

    def put(self, entries: Iterable[Entry]) -> None:
        """Queue entries; returns at once."""
        with self._changed:
            self._waiting.extend(entries)
            if len(self._waiting) >= self._batch and not self._failures:
                self._changed.notify_all()

    def flush(self, timeout: float = 30.0) -> bool:
        """Deliver now; returns whether all was delivered, False after a failed attempt or `timeout` seconds."""
        with self._changed:
            tries, self._hurry = self._failed_tries, True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_empty() or self._failed_tries != tries, timeout)
            return self._is_empty()

    def close(self, timeout: float = 30.0) -> int:
        """Deliver what is queued, then write the rest to the file `unsent`.

        Returns:
            How many entries are in that file.
        """
        self.flush(timeout)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout=1.0)  # stuck in a request: left behind, its entries are written and sent again
        try:
            with self._changed:
                self._spill()
            left = len(_read(self.unsent, self._warn)) if self._in_file else 0
        except OSError as error:
            self._warn(
                f"{len(self._waiting)} entries could neither be sent nor written to {self.unsent} ({error})"
            )
            return 0
        if left:
            self._warn(
                f"{left} entries could not be sent and are in {self.unsent}; the same command with --resume sends "
                "them, also of a finished run"
            )
        return left

    def _is_empty(self) -> bool:
        return not self._waiting and not self._in_file

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._hurry or self._closing or self._is_due(), self._pause())
                self._hurry = False
                if self._closing:
                    return
            self._deliver()

    def _is_due(self) -> bool:
        return len(self._waiting) >= self._batch and not self._failures

    def _pause(self) -> float:
        return min(self._longest_wait, self._interval * 2.0 ** min(self._failures, 20))

    def _deliver(self) -> None:
        """Send until the queue is empty or an attempt fails."""
        try:
            while batch := self._head():
                try:
                    self._send(batch)
                except Rejected as error:
                    self._put_aside(batch, error)
                self._delivered(len(batch))
        except Exception as error:  # whatever goes wrong with tracking must not end a training
            self._failed(error)

    def _head(self) -> list[Entry]:
        """The next entries of one kind, those in the file first; the file is removed once all are delivered."""
        with self._changed:
            if self._in_file:
                self._waiting.extendleft(reversed(_read(self.unsent, self._warn)))
                self._in_file, self._file_is_read = False, True
            if not self._waiting:
                if self._file_is_read:
                    self.unsent.unlink()
                    self._file_is_read = False
                self._changed.notify_all()
                return []
            kind = self._waiting[0].kind
            return list(islice(takewhile(lambda entry: entry.kind == kind, self._waiting), LIMITS[kind]))

    def _delivered(self, count: int) -> None:
        with self._changed:
            self._failures = 0
            for _ in range(min(count, len(self._waiting))):  # none are left when `close` gave up on this delivery
                self._waiting.popleft()

    def _failed(self, error: Exception) -> None:
        with self._changed:
            self._failures += 1
            self._failed_tries += 1
            if len(self._waiting) > self._capacity:
                with suppress(OSError):  # the disk is full too: keep them in memory
                    self._spill()
            self._changed.notify_all()
        if not self._warned:
            self._warned = True
            self._warn(f"tracking does not answer; the training goes on and what it logs is kept ({brief(error)})")

    def _spill(self) -> None:
        """Move the queue to the file: appended, or in place of the entries that were read from it."""
        if self._waiting:
            _write(self.unsent, self._waiting, append=not self._file_is_read)
            self._waiting.clear()
            self._in_file, self._file_is_read = True, False

    def _put_aside(self, batch: Sequence[Entry], error: Rejected) -> None:
        _write(self.rejected, batch, append=True)
        self._warn(f"tracking refused {len(batch)} entries, now in {self.rejected} ({brief(error)})")


def within(seconds: float, call: Callable[[], T]) -> T:
    """Result or exception of `call`, or a TimeoutError after `seconds`, when its thread is abandoned."""
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except Exception as error:  # raised again in the caller's thread
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError as error:
        raise TimeoutError(f"no answer within {seconds:g} s") from error


def brief(error: BaseException) -> str:
    """First line of an error message, shortened, for a warning."""
    return str(error).partition("\n")[0][:200]


def now() -> int:
    """Milliseconds since the Unix epoch."""
    return int(time.time() * 1000)


def _write(file: Path, entries: Iterable[Entry], *, append: bool) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file if append else file.with_suffix(".draft")
    with draft.open("a" if append else "w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(entry._asdict()) + "\n" for entry in entries)
    draft.replace(file)


def _read(file: Path, warn: Callable[[str], None]) -> list[Entry]:
    """Entries of a file; a truncated line (after a kill or on a full disk) is reported and skipped."""
    entries = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entries.append(Entry(**json.loads(line)))
        except (ValueError, TypeError):
            warn(f"{file}, line {number} is not readable and was left out: {line:.100}")
    return entries
