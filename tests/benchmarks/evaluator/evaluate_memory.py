"""Peak memory of `python -m evaluator benchmark` for few and for many photos: it must not grow with their number.

Run by `evaluate --memory 5000`. Each row is a whole command in a process of its own, from photos to report; the
figure is the largest resident set that the operating system saw. 5,000 photos of 256 px take a quarter of an hour
on a core.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tests.benchmarks.evaluator.networks import crops, save_made_up
from tests.benchmarks.harness import Refused, at_most, report

GOAL_GIB = 4.0
GROWTH_GOAL = 1.1
"""Largest peak of many photos over that of few that still counts as flat."""
METRICS = "ab_psnr,rgb_psnr,click_distance"


def report_memory(photos: int, options: Mapping[str, str | int], json_file: Path | None) -> None:
    """Measure the first twentieth of the photos and all of them.

    Args:
        photos: crops of a photograph, of a made-up network's size.
        options: of the command: size, clicks, policies, threads.
        json_file: where to write the report, if anywhere.

    Raises:
        Refused: the command fails.
    """
    few = max(1, photos // 20)
    with tempfile.TemporaryDirectory(prefix="memory-") as place:
        folder = Path(place)
        (folder / "photos").mkdir()
        crops(folder / "photos", photos, int(options["size"]), suffix="jpg")
        network = save_made_up(folder)
        words = ["--colorizer", str(network), "--photos", str(folder / "photos"), "--metrics", METRICS]
        words += [word for name, value in options.items() for word in (f"--{name}", str(value))]
        rows, peaks = [], []
        for count in (few, photos):
            gib, seconds = peak([*words, "--limit", str(count)], folder / f"out{count}")
            rows.append({"photos": count, "peak, GiB": gib, "seconds": seconds, "photos/s": count / seconds})
            peaks.append(gib)
    goals = [
        at_most(f"GiB at the peak for {photos} photos, at most", GOAL_GIB, peaks[1]),
        at_most(f"peak of {photos} photos over that of {few}, at most", GROWTH_GOAL, peaks[1] / peaks[0]),
    ]
    size = f"{options['size']} x {options['size']} px"
    report(f"photos of {size}, clicks {options['clicks']}, {METRICS}", rows, goals, json_file)


def peak(options: list[str], out: Path) -> tuple[float, float]:
    """Run the command: the peak of its resident set in GiB, and its seconds.

    Raises:
        Refused: it failed; the message ends with what it printed.
    """
    command = [sys.executable, "-m", "evaluator", "benchmark", "--out", str(out), *options, "--mlflow", "off"]
    log = out.with_suffix(".log")
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise Refused(f"the benchmark ended with code {process.returncode}: {log.read_text()[-2000:]}")
    return usage.ru_maxrss / 2**20, time.perf_counter() - began
