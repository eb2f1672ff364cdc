"""Peak memory of the benchmark for few and for many photos: it must not grow with their number.

    python -m tests.benchmarks evaluate_memory [--photos 5000] [--size 256] [--json FILE]

Each row is a whole `python -m evaluator benchmark` in a process of its own, from photos to report; the figure is
the largest resident set that the operating system saw. 5,000 photos of 256 px take a quarter of an hour on a core.
"""

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from tests.benchmarks.evaluator.made_up_networks import crops, save_made_up
from tests.benchmarks.harness import Goal, report

GOAL_GIB = 4.0
GROWTH_GOAL = 1.1
"""Largest peak of many photos over that of few that still counts as flat."""
_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure the benchmark's peak memory."""

    photos: int = 5000
    """The larger number of photos; the smaller one is a twentieth of it."""
    size: int = 256
    """Side in pixels."""
    clicks: str = "0,1,5"
    """Budgets."""
    policies: str = "random"
    """By name."""
    metrics: str = "ab_psnr,ab_ssim,rgb_psnr,delta_e,click_distance"
    """By name."""
    threads: int = 0
    """CPU threads; 0: all cores."""
    json: Path | None = None
    """Also write the report to this file."""


def peak(arguments: Arguments, count: int, photos: Path, network: Path, out: Path) -> dict[str, object]:
    """Run the benchmark on the first `count` photos: photos/s and the peak of its resident set.

    Raises:
        RuntimeError: it failed; the message ends with what it printed.
    """
    options = ("size", "clicks", "policies", "metrics", "threads")
    words = [word for name in options for word in (f"--{name}", str(getattr(arguments, name)))]
    places = ["--colorizer", str(network), "--photos", str(photos), "--limit", str(count), "--out", str(out)]
    command = [sys.executable, "-m", "evaluator", "benchmark", *places, *words, "--mlflow", "off"]
    log = out.with_suffix(".log")
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if process.returncode is None:
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"the benchmark ended with code {process.returncode}: {log.read_text()[-2000:]}")
    gib = usage.ru_maxrss * 1024 / _GIB
    return {"photos": count, "peak, GiB": gib, "seconds": seconds, "photos/s": count / seconds}


def main(arguments: Arguments) -> int:
    """Measure both, print; exit code 1 when the benchmark fails."""
    few, many = max(1, arguments.photos // 20), arguments.photos
    with tempfile.TemporaryDirectory(prefix="memory-") as place:
        folder = Path(place)
        (folder / "photos").mkdir()
        photos = crops(folder / "photos", many, arguments.size, suffix="jpg")
        network = save_made_up(folder)
        try:
            rows = [peak(arguments, count, photos, network, folder / f"out{count}") for count in (few, many)]
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    small, large = (float(str(row["peak, GiB"])) for row in rows)
    goals = [
        Goal(f"GiB at the peak for {many} photos", GOAL_GIB, large, large < GOAL_GIB),
        Goal(f"peak of {many} photos over that of {few}", GROWTH_GOAL, large / small, large / small < GROWTH_GOAL),
    ]
    size = f"{arguments.size} x {arguments.size} px"
    report(f"photos of {size}, clicks {arguments.clicks}, {arguments.metrics}", rows, goals, arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
