"""Photos per second of the benchmark beside the plain loop that one writes first.

    python -m tests.benchmarks evaluate [--colorizer FILE] [--guide FILE] [--photos ZIP] [--json FILE]
    python -m tests.benchmarks evaluate --memory 5000 --size 256 --clicks 0,1 --policies random [--json FILE]

The plain loop takes one photo at a time, colors it after every click, and measures every coloring with
scikit-image. The benchmark batches, colors and measures at the asked budgets only, decodes ahead, and writes its
results. Both must find the same numbers before anything is timed. The second form is in
`tests.benchmarks.evaluator.evaluate_memory`.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from skimage.color import deltaE_ciede2000, lab2rgb, rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from evaluator.benchmark.config import split
from evaluator.benchmark.measure import Task, measure, pieces
from evaluator.benchmark.store import merge
from evaluator.photos.dataset import open_photos
from evaluator.photos.decode import decode_square
from evaluator.photos.prefetch import Cut
from evaluator.policies import Policy, make
from evaluator.protocol.finished import ROWS_FILE, read_table
from evaluator.protocol.results import Protocol, Results
from evaluator.protocol.rollout import Photos, rollout
from evaluator.registry.mlflow_registry import load_colorizer, load_guide
from evaluator.registry.networks import Colorizer, run_network
from evaluator.system.threads import use_threads
from tests.benchmarks.evaluator.evaluate_memory import report_memory
from tests.benchmarks.evaluator.networks import MadeUp, crops
from tests.benchmarks.harness import Refused, at_least, interleave, quantiles, report, seconds

GOAL = 4.0
TOGETHER = "all together"
TOLERANCES = {"ab_psnr": 2e-3, "ab_ssim": 2e-4, "rgb_psnr": 2e-2, "rgb_ssim": 2e-4, "delta_e": 2e-2}
"""Largest difference of both ways' means over photos; scikit-image's Lab and rounding differ in the last place."""
Values = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Compare photos/s of the benchmark with the plain loop."""

    colorizer: str = ""
    """A .pt2 file, folder or models:/ URI; default: a made-up network of three convolutions."""
    guide: str = ""
    """Also measure this guide."""
    photos: Path | None = None
    """A folder, zip or shards; default: crops of scikit-image's astronaut."""
    count: int = 16
    """Photos at most."""
    size: int = 128
    """Side in pixels."""
    clicks: tuple[str, ...] = ("0,1,2,5,10,20,30,50,100",)
    """Budgets."""
    policies: tuple[str, ...] = ("random", "grid", "region-centre")
    """By name."""
    batch_size: int = 8
    """Of the benchmark."""
    repeats: int = 3
    """Timed runs of each way, in turn."""
    threads: int = 0
    """CPU threads; 0: all cores."""
    memory: int = 0
    """Instead of the speed: the whole command's peak memory for so many photos, and for a twentieth of them."""
    json: Path | None = None
    """Also write the report to this file."""


@torch.no_grad()
def plain(task: Task, colorizer: Colorizer, names: Sequence[str]) -> Values:
    """The loop that one writes first: photo by photo, every click colored and measured.

    Returns:
        `values[policy][metric]`, (photos, budgets).
    """
    every = range(task.protocol.clicks[-1] + 1)
    found: dict[str, dict[str, list[list[float]]]] = {}
    for index in range(len(task.photos.names)):
        rgb = decode_square(task.photos.read(index), task.cut.size)[None]
        photo = Photos.from_rgb(rgb, seed=task.protocol.seed, first_index=index)
        for policy_name, policy in task.policies.items():
            steps = rollout(colorizer, policy, photo, budgets=every, hint_size=task.protocol.hint_size)
            measured = [_measured(rgb, photo, step.predicted_ab, names) for step in steps]
            for metric in names:
                row = [measured[clicks][metric] for clicks in task.protocol.clicks]
                found.setdefault(policy_name, {}).setdefault(metric, []).append(row)
    return {policy: {name: np.array(rows) for name, rows in values.items()} for policy, values in found.items()}


def ours(task: Task) -> Values:
    """The benchmark, with its files, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        mine = replace(task, out=Path(folder))
        measure(mine, pieces(len(task.photos.names), (), task.protocol.batch_size))
        merge(mine.out, task.metrics)
        results = Results(protocol=task.protocol, frame=read_table(mine.out / ROWS_FILE))
        return {p: {metric: results.values(p, metric) for metric in results.metrics} for p in results.policies}


def _measured(rgb: Tensor, photo: Photos, predicted_ab: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Every metric of one coloring, by scikit-image."""
    original = rgb[0].permute(1, 2, 0).numpy()
    truth, predicted = (ab[0].permute(1, 2, 0).double().numpy() for ab in (photo.truth_ab, predicted_ab))
    lab = np.concatenate([100.0 * photo.lightness[0, 0, :, :, None].double().numpy(), 128.0 * predicted], axis=-1)
    colored = np.round(255.0 * lab2rgb(lab)).astype(np.uint8)
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": -1}
    ways: dict[str, Callable[[], object]] = {
        "ab_psnr": lambda: peak_signal_noise_ratio(truth, predicted, data_range=2),
        "ab_ssim": lambda: structural_similarity(truth, predicted, data_range=2, **window),
        "rgb_psnr": lambda: peak_signal_noise_ratio(original, colored, data_range=255),
        "rgb_ssim": lambda: structural_similarity(original, colored, data_range=255, **window),
        "delta_e": lambda: deltaE_ciede2000(rgb2lab(original), rgb2lab(colored)).mean(),
    }
    return {name: float(np.asarray(ways[name]())) for name in names}


def check_equal(one: Values, other: Values) -> None:
    """Refuse to time ways that find different means.

    Raises:
        Refused: it names the policy and the metric.
    """
    for policy, values in one.items():
        for metric, rows in values.items():
            error = float(np.abs(rows.mean(0) - other[policy][metric].mean(0)).max())
            if not error <= TOLERANCES[metric]:
                limit = TOLERANCES[metric]
                raise Refused(f"{metric} of {policy} differs by {error:.3g}, more than {limit}: not timed")


def main(args: Sequence[str]) -> int:
    """Check, time, print; or measure the memory."""
    arguments = tyro.cli(Arguments, prog="python -m tests.benchmarks evaluate", args=args)
    if arguments.memory:
        clicks, policies = ",".join(arguments.clicks), ",".join(arguments.policies)
        options = {"size": arguments.size, "clicks": clicks, "policies": policies, "threads": arguments.threads}
        report_memory(arguments.memory, options, arguments.json)
        return 0
    threads = use_threads(arguments.threads)
    with tempfile.TemporaryDirectory(prefix="photos-") as folder:
        task = _task(arguments, Path(folder))
        check_equal(plain(task, partial(run_network, task.colorizer, autocast=None), task.metrics), ours(task))
        alone = {name: replace(task, policies={name: policy}) for name, policy in task.policies.items()}
        rows = [_row(name, _speeds(one, arguments.repeats)) for name, one in {**alone, TOGETHER: task}.items()]
    goal = at_least("photos/s of all policies together, times the plain loop's", GOAL, rows[-1]["times"])
    report(f"{_words(arguments, task)}, {threads} threads", rows, [goal], arguments.json)
    return 0


def _speeds(task: Task, repeats: int) -> dict[str, dict[str, float]]:
    """Photos/s of both ways: 20, 50 and 80 % quantiles."""
    ways = {"plain": lambda: plain(task, task.colorizer, task.metrics), "ours": lambda: ours(task)}
    count, cpu = len(task.photos.names), torch.device("cpu")
    taken = interleave({name: partial(seconds, run, cpu) for name, run in ways.items()}, repeats)
    return {name: quantiles([count / one for one in times]) for name, times in taken.items()}


def _row(label: str, speeds: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    shown = {
        column: speed[quantile]
        for name, speed in speeds.items()
        for column, quantile in ((f"{name}, photos/s", "p50"), (f"{name} 20 %", "p20"), (f"{name} 80 %", "p80"))
    }
    return {"policies": label, **shown, "times": speeds["ours"]["p50"] / speeds["plain"]["p50"]}


def _task(arguments: Arguments, folder: Path) -> Task:
    policies: dict[str, Policy] = {name: make(name) for name in split(arguments.policies)}
    if arguments.guide:
        guide = load_guide(arguments.guide)
        name = f"guide-{guide.contract.variant}"
        policies[name] = make(name, guide=guide)
    return Task(
        colorizer=load_colorizer(arguments.colorizer) if arguments.colorizer else MadeUp().eval(),
        policies=policies,
        photos=open_photos(arguments.photos or crops(folder, arguments.count, arguments.size), arguments.count),
        protocol=Protocol(
            clicks=tuple(int(word) for word in split(arguments.clicks)), batch_size=arguments.batch_size
        ),
        cut=Cut(size=arguments.size, grey=True),
        metrics=tuple(TOLERANCES),
        device=torch.device("cpu"),
        out=folder,
    )


def _words(arguments: Arguments, task: Task) -> str:
    budgets = ",".join(map(str, task.protocol.clicks))
    return (
        f"{len(task.photos.names)} photos of {arguments.size} x {arguments.size} px, clicks {budgets}, "
        f"{arguments.colorizer or 'a made-up colorizer'}"
    )
