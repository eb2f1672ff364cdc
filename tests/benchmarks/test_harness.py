import json
import math
import statistics
import time
from pathlib import Path

import pytest
import torch

from tests.benchmarks import harness


def test_quantiles_agree_with_the_standard_library():
    values = [5.0, 1.0, 4.0, 2.0, 3.0, 9.0]
    inclusive = statistics.quantiles(values, n=5, method="inclusive")
    found = harness.quantiles(values)
    assert found["p20"] == pytest.approx(inclusive[0])
    assert found["p50"] == pytest.approx(statistics.median(values))
    assert found["p80"] == pytest.approx(inclusive[-1])


def test_quantiles_of_nothing_are_refused():
    with pytest.raises(ValueError, match="no measurements"):
        harness.quantiles([])


def test_paths_are_measured_in_turns_and_the_warmup_is_thrown_away():
    order: list[str] = []

    def path(name: str):
        return lambda: order.append(name) or float(len(order))

    found = harness.interleave({"ours": path("A"), "usual": path("B")}, repeats=2, warmup=1)
    assert "".join(order) == "ABABAB"
    assert found == {"ours": [3.0, 5.0], "usual": [4.0, 6.0]}


def test_a_run_is_timed_once():
    calls: list[int] = []
    started = time.perf_counter()
    taken = harness.seconds(lambda: calls.append(sum(range(10_000))), torch.device("cpu"))
    assert 0 < taken <= time.perf_counter() - started
    assert len(calls) == 1


def test_a_copy_reads_as_much_as_it_writes():
    copied = harness.copier(1000, torch.device("cpu"))()
    assert isinstance(copied, torch.Tensor)
    assert copied.nbytes == 500
    assert (copied == 0).all()


@pytest.mark.parametrize(("measured", "met"), [(5.0, True), (4.9, False), (None, None)])
def test_a_goal_is_met_missed_or_unmeasured(measured: float | None, met: bool | None):
    assert harness.at_least("speed", 5.0, measured).met is met


def test_a_nan_is_a_broken_benchmark():
    with pytest.raises(ValueError, match="nan"):
        harness.at_least("speed", 5.0, math.nan)


def test_the_report_is_written_with_all_its_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "new" / "bench.json"
    harness.report("speed", [{"path": "ours", "p50": 1.5}], [harness.at_least("x", 1.0, None)], file)
    written = json.loads(file.read_text())
    assert set(written) == {"machine", "versions", "commit", "rows", "goals"}
    assert written["goals"] == [{"name": "x", "goal": 1.0, "measured": None, "met": None}]
    assert written["machine"]["cores"] >= 1
    assert "torch" in written["versions"]
    assert "ours" in capsys.readouterr().out


def test_the_peak_is_what_is_held_at_once():
    kept = [torch.ones(1000)]

    def run() -> torch.Tensor:
        kept.clear()  # was there before, so its memory does not count
        first = torch.empty(2**16)
        second = torch.empty(2**17)
        del first
        return torch.cat([second, second[:10]])

    second, result = 4 * 2**17, 4 * (2**17 + 10)
    assert harness.peak_memory(run, torch.device("cpu")) == second + result


def test_at_most_is_met_by_less():
    assert harness.at_most("memory, at most", 0.25, 0.25).met
    assert harness.at_most("memory, at most", 0.25, 0.3).met is False
    assert harness.at_most("memory, at most", 0.25, None).met is None
    with pytest.raises(ValueError, match="nan"):
        harness.at_most("memory, at most", 0.25, math.nan)


def test_a_section_replaces_what_was_there():
    text = "before\n<!-- begin a -->\nold\n<!-- end a -->\nafter\n"
    once = harness.put(text, "a", "new")
    assert harness.put(once, "a", "newer") == "before\n<!-- begin a -->\n\nnewer\n\n<!-- end a -->\nafter\n"


@pytest.mark.parametrize("text", ["", "<!-- begin a -->", "<!-- end a --><!-- begin a -->"])
def test_a_document_without_the_place_is_refused(text: str):
    with pytest.raises(ValueError, match="has no place for 'a'; put <!-- begin a --> and <!-- end a -->"):
        harness.put(text, "a", "new")
