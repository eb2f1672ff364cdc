"""How often the true color is among the suggested ones, for several ways to suggest colors.

    python -m tests.benchmarks color_suggestions --photos val2017.zip [--work RUNS] [--count N] [--json FILE]

The service's own code on photos whose colors are known: each photo is clicked where the blind guide says, in the
true color of the patch. After 0, 3 and 10 clicks, at the places that the service would suggest next, each way
proposes colors. A hit is a proposal within Delta E 2000 of 10 of the true color of a click there (the mean of ab
over its patch, at the lightness of the pixel). Rates are means over a photo's places, then over photos, with the
bootstrap's 95 % interval over photos.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor
from torch.nn.functional import interpolate

from evaluator.metrics.color import delta_e_2000
from evaluator.photos.dataset import open_photos
from evaluator.photos.decode import decode_rgb
from evaluator.protocol.bootstrap import mean_intervals
from evaluator.registry.mlflow_registry import CHAMPION, default_tracking_uri
from evaluator.service.inference.engine import Engine
from evaluator.service.inference.networks import Networks
from evaluator.service.inference.suggest import places
from evaluator.service.inference.suggest_colors import ALIKE
from evaluator.system.threads import use_threads
from kernels.clicks import hint_colors, no_clicks, place_patches
from kernels.color import rgb_to_lab, to_uint8
from tests.benchmarks.evaluator.suggestion_methods import METHODS, Method, Question, available
from tests.benchmarks.harness import report


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure the hit rate of suggested colors."""

    photos: Path
    """A folder, zip or shards, with colors."""
    work: Path = Path("runs")
    """Work folder with the registry, where MLFLOW_TRACKING_URI is not set."""
    colorizer: str = f"models:/colornet@{CHAMPION}"
    """What `evaluator.registry.mlflow_registry.load` takes: a registered name, a folder, shipped; a split one has
    more methods."""
    guide: str = f"models:/editnet-blind@{CHAMPION}"
    """A blind one; of a split colorizer the one that was published with it."""
    count: int = 64
    """Photos: the first of the set."""
    size: int = 256
    """Long side in pixels, the service's working size."""
    clicks: tuple[int, ...] = (0, 3, 10)
    """After how many clicks to suggest."""
    places: int = 3
    """Suggested places of each."""
    colors: int = 5
    """Suggested colors of each place."""
    methods: tuple[str, ...] = ()
    """Ways to suggest; default: all that the colorizer allows."""
    threads: int = 0
    """CPU threads; 0: all cores."""
    json: Path | None = None
    """Write the report there."""

    def __post_init__(self):
        if unknown := set(self.methods) - set(METHODS):
            raise ValueError(f"--methods has {sorted(unknown)}; there are {', '.join(METHODS)}")
        for name in ("count", "size", "places", "colors"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be at least 1")
        if not self.clicks or min(self.clicks) < 0:
            raise ValueError(f"--clicks is {self.clicks}; give numbers of at least 0")


@dataclass(frozen=True, eq=False)
class _Photo:
    lightness: Tensor
    truth_ab: Tensor


class _Remembering:
    """A colorizer that is asked the same question once per photo: several methods change a photo the same way."""

    def __init__(self, colorizer: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._colorizer = colorizer
        self.known: dict[bytes, Tensor] = {}

    def __call__(self, lightness: Tensor, clicks: Tensor) -> Tensor:
        key = lightness.numpy().tobytes() + clicks.numpy().tobytes()
        if key not in self.known:
            self.known[key] = self._colorizer(lightness, clicks)
        return self.known[key]


def read_photo(data: bytes, size: int) -> _Photo:
    """A photo at the working size, in Lab."""
    rgb = decode_rgb(data)[None]
    shrink = min(1.0, size / max(rgb.shape[-2:]))
    target = [max(1, round(side * shrink)) for side in rgb.shape[-2:]]
    if shrink < 1:
        rgb = to_uint8(interpolate(rgb / 255, size=target, mode="bilinear", antialias=True))
    return _Photo(*rgb_to_lab(rgb))


async def hits_of_photo(engine: Engine, photo: _Photo, arguments: Arguments, methods: Sequence[str]) -> np.ndarray:
    """Hit rates (methods, numbers of clicks) over the suggested places of one photo."""
    truth = hint_colors(photo.truth_ab, engine.hint_size)
    clicks = no_clicks(photo.truth_ab)
    rates = np.zeros((len(methods), len(arguments.clicks)))
    for placed in range(max(arguments.clicks) + 1):
        now = await engine.look(photo.lightness, clicks)
        wanted = arguments.places if placed in arguments.clicks else 1
        found = await places(engine, photo.lightness, clicks, wanted, now.ab, features=now.features)
        if placed in arguments.clicks:
            column = arguments.clicks.index(placed)
            questions = [
                Question(photo.lightness, clicks, now.ab, place.row, place.col, engine, now.features)
                for place in found
            ]
            rates[:, column] = [await _rate(METHODS[name], questions, truth, arguments.colors) for name in methods]
        flat = torch.tensor([found[0].row * clicks.shape[-1] + found[0].col])
        color = truth[:, :, found[0].row, found[0].col]
        clicks = place_patches(clicks, flat, color, engine.hint_size)
    return rates


async def _rate(method: Method, questions: Sequence[Question], truth: Tensor, colors: int) -> float:
    """The share of places at which one of a method's colors is like the true one."""
    hits = 0
    for asked in questions:
        proposed = torch.tensor(await method(asked, colors))
        hits += is_hit(asked.lightness, proposed, truth[0, :, asked.row, asked.col])
    return hits / len(questions)


def is_hit(lightness: float, proposed: Tensor, true: Tensor) -> bool:
    """Whether one of the proposed ab (n, 2) looks like the true ab (2,) at a lightness (CIE L* / 100)."""
    light = torch.full((1, 1, 1, len(proposed)), lightness)
    right = true.view(1, 2, 1, 1).expand(-1, -1, -1, len(proposed))
    return bool((delta_e_2000(light, proposed.T.reshape(1, 2, 1, -1), light, right) <= ALIKE).any())


async def measure(arguments: Arguments) -> tuple[np.ndarray, Sequence[str]]:
    """Hit rates (photos, methods, numbers of clicks), and the methods.

    Raises:
        ValueError: a method that the colorizer does not allow.
    """
    loading = Engine(
        arguments.colorizer,
        arguments.guide,
        tracking_uri=default_tracking_uri(arguments.work),
        working_size=arguments.size,
        runtimes=("onnxruntime",),
        refresh_seconds=0.0,
    )
    await loading.start()
    colorizer, guide = loading.networks.colorizer, loading.networks.guide
    await loading.close()
    remembering = _Remembering(colorizer.run)
    networks = Networks(colorizer=replace(colorizer, run=remembering), guide=guide)
    engine = Engine.from_pair(networks)
    methods = arguments.methods or available(engine)
    if unknown := set(methods) - set(available(engine)):
        raise ValueError(f"{colorizer.source} allows no {sorted(unknown)}; it has {', '.join(available(engine))}")
    photos = open_photos(arguments.photos, arguments.count)
    rates, started = [], time.perf_counter()
    for index in range(len(photos.names)):
        photo = read_photo(photos.read(index), arguments.size)
        rates.append(await hits_of_photo(engine, photo, arguments, methods))
        remembering.known.clear()
        if (index + 1) % 8 == 0:
            print(f"{index + 1} photos, {time.perf_counter() - started:.0f} s", file=sys.stderr)
    await engine.close()
    return np.array(rates), methods


def rows_of(rates: np.ndarray, methods: Sequence[str], clicks: Sequence[int]) -> list[dict[str, object]]:
    """A row per method, the best first: percent of hits after each number of clicks, and of all."""
    rows = []
    for number, method in enumerate(methods):
        columns = np.column_stack([rates[:, number], rates[:, number].mean(1)]) * 100
        low, high = mean_intervals(columns, seed=0)
        row: dict[str, object] = {"method": method}
        for column, name in enumerate([*(f"{placed} clicks" for placed in clicks), "all"]):
            row[f"{name}, %"] = round(float(columns[:, column].mean()), 1)
            row[f"{name}, 95 %"] = f"{low[column]:.1f} to {high[column]:.1f}"
        rows.append(row)
    return sorted(rows, key=lambda row: -float(str(row["all, %"])))


def main(args: Sequence[str]) -> int:
    """Measure and print."""
    arguments = tyro.cli(Arguments, prog="python -m tests.benchmarks color_suggestions", args=args)
    use_threads(arguments.threads)
    rates, methods = asyncio.run(measure(arguments))
    title = f"true color within Delta E 2000 of {ALIKE:g} of one of {arguments.colors}, {len(rates)} photos"
    report(title, rows_of(rates, methods, arguments.clicks), [], arguments.json)
    return 0
