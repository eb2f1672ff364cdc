"""Nothing that is logged gets lost, whatever the server does."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from trainer.monitoring.metric_queue import LIMITS, Entry, Outbox, Rejected


class Server:
    """Takes entries while it is up."""

    def __init__(self) -> None:
        self.up = True
        self.got: list[Entry] = []
        self.sizes: list[int] = []
        self.refuses = ""

    def __call__(self, batch: Sequence[Entry]) -> None:
        if not self.up:
            raise OSError("connection refused")
        if batch[0].key == self.refuses:
            raise Rejected("a bad name")
        self.got += batch
        self.sizes.append(len(batch))


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def warnings() -> list[str]:
    return []


def metrics(count: int, first: int = 0) -> list[Entry]:
    return [Entry("metric", "loss", float(step), step, 0) for step in range(first, first + count)]


def make(server: Server, folder: Path, warnings: list[str], interval: float = 3600.0, **options: int) -> Outbox:
    """An outbox that sends when it is told to, for tests without waiting."""
    return Outbox(server, folder / "unsent.jsonl", warnings.append, interval=interval, **options)


def test_everything_arrives_in_order_and_in_batches(server, tmp_path, warnings):
    outbox = make(server, tmp_path, warnings)
    entries = [*metrics(2500), Entry("tag", "a", "b"), *metrics(3, 2500)]
    outbox.put(entries)
    assert outbox.flush()
    assert server.got == entries
    assert max(server.sizes) == LIMITS["metric"]
    assert outbox.close() == 0
    assert not warnings
    assert not list(tmp_path.iterdir())


def test_a_full_batch_is_sent_without_being_told(tmp_path, warnings):
    arrived = threading.Event()
    outbox = Outbox(
        lambda batch: arrived.set(), tmp_path / "unsent.jsonl", warnings.append, interval=3600.0, batch=5
    )
    outbox.put(metrics(4))
    assert not arrived.is_set()
    outbox.put(metrics(1, 4))
    assert arrived.wait(10)
    outbox.close()


def test_a_few_entries_are_sent_after_the_interval(tmp_path, warnings):
    arrived = threading.Event()
    outbox = Outbox(lambda batch: arrived.set(), tmp_path / "unsent.jsonl", warnings.append, interval=0.01)
    outbox.put(metrics(1))
    assert arrived.wait(10)
    outbox.close()


def test_a_server_that_comes_back_gets_everything_in_order(server, tmp_path, warnings):
    outbox = make(server, tmp_path, warnings)
    outbox.put(metrics(10))
    assert outbox.flush()
    server.up = False
    outbox.put(metrics(10, 10))
    assert not outbox.flush()
    outbox.put(metrics(10, 20))
    assert not outbox.flush()
    server.up = True
    assert outbox.flush()
    assert server.got == metrics(30)
    assert len(warnings) == 1
    assert outbox.close() == 0


def test_waiting_grows_while_the_server_is_down_and_shrinks_when_it_is_back(server, tmp_path, warnings):
    outbox = make(server, tmp_path, warnings, interval=2.0)
    server.up = False
    outbox.put(metrics(1))
    pauses = []
    for _ in range(8):
        outbox.flush()
        pauses.append(outbox._pause())
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (4.0, 60.0)
    server.up = True
    assert outbox.flush()
    assert outbox._pause() == 2.0
    outbox.close()


def test_what_is_unsent_at_the_end_is_in_a_file_and_sent_first_by_the_next(server, tmp_path, warnings):
    server.up = False
    outbox = make(server, tmp_path, warnings)
    outbox.put([*metrics(5), Entry("tag", "status", "old")])
    assert outbox.close() == 6
    assert str(outbox.unsent) in warnings[-1]
    lines = [json.loads(line) for line in outbox.unsent.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4, 0]

    server.up = True
    following = make(server, tmp_path, warnings)
    following.put([Entry("tag", "status", "new")])
    assert following.flush()
    assert server.got == [*metrics(5), Entry("tag", "status", "old"), Entry("tag", "status", "new")]
    assert following.close() == 0
    assert not list(tmp_path.iterdir())


def test_a_server_that_stays_down_costs_no_entries_over_two_sessions(server, tmp_path, warnings):
    server.up = False
    for first in (0, 5):
        outbox = make(server, tmp_path, warnings)
        outbox.put(metrics(5, first))
        outbox.flush()
        outbox.close()
    server.up = True
    last = make(server, tmp_path, warnings)
    assert last.flush()
    assert server.got == metrics(10)
    last.close()


def test_a_long_outage_moves_entries_from_memory_to_the_file(server, tmp_path, warnings):
    server.up = False
    outbox = make(server, tmp_path, warnings, capacity=20)
    for first in range(0, 100, 25):
        outbox.put(metrics(25, first))
        assert not outbox.flush()
        assert len(outbox._waiting) <= 20
    assert len(outbox.unsent.read_text().splitlines()) == 100
    server.up = True
    assert outbox.flush()
    assert server.got == metrics(100)
    assert outbox.close() == 0
    assert not list(tmp_path.iterdir())


def test_refused_entries_are_put_aside_and_the_rest_goes_on(server, tmp_path, warnings):
    server.refuses = "bad"
    outbox = make(server, tmp_path, warnings)
    outbox.put([*metrics(3), Entry("tag", "bad", "x"), *metrics(3, 3)])
    assert outbox.flush()
    assert server.got == metrics(6)
    assert json.loads(outbox.rejected.read_text())["key"] == "bad"
    assert "a bad name" in warnings[0]
    assert outbox.close() == 0


def test_a_line_that_was_cut_off_is_named(server, tmp_path, warnings):
    (tmp_path / "unsent.jsonl").write_text(json.dumps(metrics(1)[0]._asdict()) + '\n{"kind": "met')
    outbox = make(server, tmp_path, warnings)
    assert outbox.flush()
    assert server.got == metrics(1)
    assert "line 2" in warnings[0]
    outbox.close()


def test_a_request_that_hangs_does_not_hold_the_end_up(tmp_path, warnings):
    release = threading.Event()

    def hang(batch: Sequence[Entry]) -> None:
        release.wait(60)

    outbox = Outbox(hang, tmp_path / "unsent.jsonl", warnings.append)
    outbox.put(metrics(7))
    assert outbox.close(timeout=0.05) == 7
    release.set()
    outbox._thread.join(10)
    assert not outbox._thread.is_alive()


def test_a_full_disk_is_said_and_not_raised(server, tmp_path, warnings):
    server.up = False
    (tmp_path / "file").write_text("")
    outbox = Outbox(server, tmp_path / "file" / "unsent.jsonl", warnings.append, interval=3600.0)
    outbox.put(metrics(2))
    assert outbox.close() == 0
    assert "2 entries could neither be sent nor written" in warnings[-1]
