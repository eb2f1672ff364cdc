"""What every benchmark shares: interleaved timing, quantiles, goals, the table, the JSON and tables in documents.

A benchmark checks what it compares (`Refused`), builds `rows` and `goals`, and ends with one call of `report`. The
JSON has the keys `machine`, `versions`, `commit`, `rows` and `goals`.
"""

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from evaluator.system.environment import commit, machine, versions


class Refused(Exception):
    """What is compared disagrees or fails, so that nothing is timed or reported; the message says how."""


@dataclass(frozen=True)
class Goal:
    """A goal beside what was measured. `met` is None where this machine cannot measure it."""

    name: str
    """What is compared, with its unit."""
    goal: float
    """At least this much, or at most, as the name says."""
    measured: float | None
    """What this run found; None: this machine cannot measure it (no GPU, say)."""
    met: bool | None
    """Whether `measured` keeps to `goal`; None when nothing was measured."""


def at_least(name: str, goal: float, measured: float | None) -> Goal:
    """A goal that is met when `measured` is at least `goal`.

    Raises:
        ValueError: `measured` is NaN, so the benchmark itself is broken.
    """
    _refuse_nan(name, measured)
    return Goal(name, goal, measured, None if measured is None else measured >= goal)


def at_most(name: str, goal: float, measured: float | None) -> Goal:
    """A goal that is met when `measured` is at most `goal`; the name should say so.

    Raises:
        ValueError: `measured` is NaN, so the benchmark itself is broken.
    """
    _refuse_nan(name, measured)
    return Goal(name, goal, measured, None if measured is None else measured <= goal)


def _refuse_nan(name: str, measured: float | None) -> None:
    if measured is not None and math.isnan(measured):
        raise ValueError(f"{name}: measured nan; fix the benchmark before reading its goals")


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """The 20 %, 50 % and 80 % quantiles of repeated measurements, linearly interpolated.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no measurements; run at least one repeat")
    low, middle, high = np.quantile(np.asarray(values, dtype=np.float64), (0.2, 0.5, 0.8))
    return {"p20": float(low), "p50": float(middle), "p80": float(high)}


def interleave(paths: Mapping[str, Callable[[], float]], repeats: int, warmup: int = 1) -> dict[str, list[float]]:
    """Measure every path `repeats` times in the order A B A B, so that a machine's drift meets all of them.

    Args:
        paths: For each name a function that runs once and returns its measurement (seconds, images/s...).
        repeats: Rounds that count.
        warmup: Rounds run first and thrown away.
    """
    measured: dict[str, list[float]] = {name: [] for name in paths}
    for round_index in range(-warmup, repeats):
        for name, run in paths.items():
            value = run()
            if round_index >= 0:
                measured[name].append(value)
    return measured


def seconds(run: Callable[[], object], device: torch.device, fillings: int = 1) -> float:
    """How long `run` takes once.

    On a GPU it is measured between two events, after its second-level cache was filled with something else. The
    GPU starts only then, so launches that take less time than that filling are hidden, and longer ones count.
    One of the `fillings` takes some 0.07 ms on an H200; with many of them, only the GPU's own time is left.
    """
    if device.type != "cuda":
        started = time.perf_counter()
        run()
        return time.perf_counter() - started
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.device(device):
        for _ in range(fillings):
            _cache_filler(device).zero_()
        start.record()
        run()
        end.record()
        end.synchronize()
    return start.elapsed_time(end) / 1000


@cache
def _cache_filler(device: torch.device) -> torch.Tensor:
    """More than any GPU's second-level cache: 0.25 GiB."""
    return torch.empty(2**28, dtype=torch.uint8, device=device)


def copier(moved: int, device: torch.device) -> Callable[[], object]:
    """A function that copies memory so that `moved` bytes move, half of them read and half of them written."""
    source = torch.zeros(moved // 2, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def peak_memory(run: Callable[[], object], device: torch.device) -> int:
    """The most bytes of tensors that `run` holds at once beyond those that exist before, its result included.

    On a GPU from the allocator's statistics, on a CPU from the profiler's record of every allocation.
    """
    if device.type != "cuda":
        return _peak_of_allocations(run)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_of_allocations(run: Callable[[], object]) -> int:
    # acc_events: without it the profiler warns that it forgets earlier cycles.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        result = run()
    del result
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    held: dict[int, int] = {}
    peak = now = 0
    for event in sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"]):
        address, size = event["args"]["Addr"], event["args"]["Bytes"]
        if size > 0:
            held[address] = size
            now += size
        else:  # 0 for what was there before
            now -= held.pop(address, 0)
        peak = max(peak, now)
    return peak


def report(
    title: str,
    rows: Sequence[Mapping[str, object]],
    goals: Sequence[Goal],
    json_file: Path | None = None,
    shown: Sequence[Mapping[str, object]] | None = None,
) -> dict[str, object]:
    """Print rows and goals with machine, versions and commit; write them to `json_file` when given.

    Args:
        title: of the table.
        rows: what was measured.
        goals: what was wanted.
        json_file: where to write, if anywhere.
        shown: the rows as they are printed, where they are too wide for that.

    Returns:
        What was written: `{"machine", "versions", "commit", "rows", "goals"}`.
    """
    content: dict[str, object] = {
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "rows": [dict(row) for row in rows],
        "goals": [asdict(goal) for goal in goals],
    }
    _print_report(title, content, rows if shown is None else shown, goals)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(content, indent=2) + "\n")
    return content


def _print_report(
    title: str, content: Mapping[str, object], rows: Sequence[Mapping[str, object]], goals: Sequence[Goal]
) -> None:
    # A pipe or a file has no width that the table should fit into.
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(_table(title, rows))
    if goals:
        console.print(_table("goals", [asdict(goal) for goal in goals]))
    for key in ("machine", "versions", "commit"):
        console.print(f"{key}: {content[key]}", highlight=False)


def _table(title: str, rows: Sequence[Mapping[str, object]]) -> Table:
    """A table whose columns are the rows' keys, in the order of their first appearance."""
    table = Table(title=title)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    return table


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def put(text: str, name: str, body: str) -> str:
    """`text` with `body` between its lines `<!-- begin name -->` and `<!-- end name -->`.

    Raises:
        ValueError: these are not there, once each.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the document has no place for {name!r}; put {begin} and {end} where it belongs")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n\n{body}\n\n{end}{rest.partition(end)[2]}"
