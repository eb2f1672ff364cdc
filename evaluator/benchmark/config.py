"""The benchmark's command line, and what it measures: options with their preset, defaults and checks."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from evaluator.benchmark import presets
from evaluator.benchmark.presets import PRESETS, PaperTable, Preset
from evaluator.metrics import METRICS, fid, unavailable
from evaluator.photos.prefetch import Cut
from evaluator.protocol.results import Protocol
from evaluator.protocol.simulated_user import SimulatedUser

Words = tuple[str, ...]
Repeated = Annotated[tuple[Words, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure a colorizer under click policies, photo by photo.

    Lists take spaces or commas: `--clicks 0,1,5` or `--clicks 0 1 5`. Runs under `accelerate launch -m evaluator
    benchmark ...` too; the processes share the photos.
    """

    colorizer: str
    """What colors: models:/NAME@ALIAS, models:/NAME/VERSION, a model folder, a .pt2 file with its contract; or
    kernel or levin, which need no network."""
    photos: Path
    """A folder or a zip of photos, or shards (a folder with manifest.json, or that file)."""
    limit: int | None = None
    """Take only the first so many of them: by name, or in the manifest's order."""
    out: Path
    """Folder for the results: results.parquet, results.json, report.html."""
    guide: Repeated = ()
    """What proposes clicks, as --colorizer; several, or the flag again. Measured as guide-blind, guide-oracle."""
    preset: presets.Name | None = None
    """A paper's experiment: its protocol, and its figures beside ours. Other flags still win."""
    run: Path | None = None
    """Folder of a training, for thesis-table-4.2: its validation after each cycle."""
    policies: Words = ()
    """What places the clicks, beside random and every --guide; default: all that do not try clicks; or: all."""
    clicks: Words = ()
    """Numbers of clicks at which is measured; default: 0,1,2,5,10,20,30,50,100."""
    metrics: Words = ()
    """What is measured; default: all that can be measured here."""
    nri: Words = ()
    """Clicks to reach a level, such as rgb_psnr=25 (the default, with ab_psnr=30)."""
    fid: Words = ()
    """Also the FID of each policy at these numbers of clicks; every one costs one more pass over the photos."""
    hint_size: int | None = None
    """Side of a click's patch in pixels; default 1."""
    size: int | None = None
    """Side of the largest centered square after resizing, in pixels; default 256."""
    seed: int = 0
    """Of the policies' and the simulated user's noise, and of the bootstrap."""
    robot: SimulatedUser = field(default_factory=SimulatedUser)
    """The simulated user; exact unless told otherwise."""
    grey: bool = False
    """Measure grey photos too. They are left out, named and counted otherwise: their true colors are unknown."""
    least_side: int = 16
    """Leave out photos with a shorter side, in pixels; those between it and --size are enlarged and counted."""
    batch_size: int = 0
    """Photos between two saves, and on a GPU at a time; 0: 32 on a GPU, on a CPU at least 8 and 4 per thread.
    Changes speed and memory, not results."""
    workers: int = 2
    """Threads that decode ahead."""
    threads: int = 0
    """CPU threads for the networks; 0: the cores divided by the processes on this machine."""
    device: str = "auto"
    """cpu, cuda, cuda:1...; auto: this process's GPU where there is one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the networks. bf16 moves PSNR by some 0.01 dB, which is a reported digit: not for numbers to publish."""
    ruler: bool = True
    """Also measure, as "no network", what random clicks give without one (kernel): a colorizer below that has not
    learned to use clicks."""
    gallery: bool = True
    """Show the worst and best photos in the report."""
    resume: bool = False
    """Continue what is in --out; photos that are done are not measured again."""
    mlflow: Literal["auto", "on", "off"] = "auto"
    """Log figures and files; auto: where the colorizer came from a registry or MLFLOW_TRACKING_URI is set."""
    work: Path = Path("runs")
    """Work folder whose mlflow.db is the registry where MLFLOW_TRACKING_URI is not set."""


CLICKS = (0, 1, 2, 5, 10, 20, 30, 50, 100)
LEVELS = ("ab_psnr=30", "rgb_psnr=25")
SIZE, HINT_SIZE = 256, 1


@dataclass(frozen=True)
class Level:
    """A value of a metric that counts as good enough, for the NRI."""

    metric: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides the numbers but networks and photos."""

    protocol: Protocol
    cut: Cut
    policies: tuple[str, ...]
    """Asked for by name; guides are added to these. Empty: the default ones."""
    metrics: tuple[str, ...]
    not_measured: Mapping[str, str]
    """Metrics that a preset or the default would measure, and why they cannot be measured here."""
    levels: tuple[Level, ...]
    fid: tuple[int, ...]
    """Numbers of clicks at which the FID is measured."""
    precision: str
    preset: str | None
    changed: tuple[str, ...]
    """Settings in which the options differ from the preset's."""
    papers: tuple[PaperTable, ...]

    def in_batches_of(self, photos: int) -> "Plan":
        """The same plan with another number of photos at a time."""
        return replace(self, protocol=replace(self.protocol, batch_size=photos))

    def stated(self) -> dict[str, Any]:
        """The protocol as `results.json` states it; runs are comparable where it is equal."""
        return {
            **asdict(self.protocol),
            "size": self.cut.size,
            "grey": self.cut.grey,
            "least_side": self.cut.least_side,
            "precision": self.precision,
        }


def make_plan(options: Options, batch_size: int) -> Plan:
    """Fill in the preset and the defaults, and check.

    Raises:
        ValueError: an unknown metric, one that was asked for by name and cannot be measured here, a budget above
            what fits into the photo, or a number that is none.
    """
    preset = PRESETS[options.preset] if options.preset else None
    asked = _asked(options)
    chosen = {**_defaults(preset), **asked}
    protocol = Protocol(
        clicks=tuple(chosen["clicks"]),
        hint_size=chosen["hint_size"],
        robot=options.robot,
        seed=options.seed,
        batch_size=batch_size,
    )
    cut = Cut(size=chosen["size"], least_side=options.least_side, grey=options.grey)
    _check_room(protocol, cut)
    metrics, missing = _measurable(chosen["metrics"], cut, named="metrics" in asked)
    at = _budgets("fid", options.fid, protocol.clicks)
    _check_early(options, preset)
    for name, least in (("workers", 1), ("threads", 0), ("batch_size", 0)):
        if (value := getattr(options, name)) < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    levels = tuple(level for level in map(_level, chosen["nri"]) if level.metric in metrics or "nri" in asked)
    if strangers := [level.metric for level in levels if level.metric not in metrics]:
        raise ValueError(f"nri names {', '.join(strangers)}, which is not measured; add it to --metrics")
    return Plan(
        protocol=protocol,
        cut=cut,
        policies=tuple(chosen["policies"]),
        metrics=metrics,
        not_measured=missing,
        levels=levels,
        fid=at,
        precision=options.precision,
        preset=options.preset,
        changed=_changed(preset, asked),
        papers=preset.papers if preset else (),
    )


def _check_early(options: Options, preset: Preset | None) -> None:
    """What would only be missed after hours of measuring."""
    if preset and preset.needs_run and options.run is None:
        raise ValueError(f"{options.preset} needs --run, the folder of the training whose cycles it lists")
    if options.fid and (reason := fid.unavailable()):
        raise ValueError(f"fid cannot be measured: {reason}")


def split(words: Iterable[str]) -> list[str]:
    """Words separated by spaces or commas."""
    return [part for word in words for part in word.split(",") if part]


def _asked(options: Options) -> dict[str, Any]:
    """What the command line itself says."""
    found: dict[str, Any] = {
        "policies": tuple(split(options.policies)),
        "clicks": tuple(_whole("clicks", word) for word in split(options.clicks)),
        "metrics": tuple(split(options.metrics)),
        "nri": tuple(split(options.nri)),
        "hint_size": options.hint_size,
        "size": options.size,
    }
    return {name: value for name, value in found.items() if value not in ((), None)}


def _defaults(preset: Preset | None) -> dict[str, Any]:
    if preset is None:
        standard = {"clicks": CLICKS, "hint_size": HINT_SIZE, "size": SIZE, "nri": LEVELS}
        return {**standard, "policies": (), "metrics": tuple(METRICS)}
    return {name: getattr(preset, name) for name in ("clicks", "hint_size", "size", "nri", "policies", "metrics")}


def _changed(preset: Preset | None, asked: Mapping[str, Any]) -> tuple[str, ...]:
    standard = _defaults(preset)
    return tuple(name for name, value in asked.items() if preset and value != standard[name])


def _measurable(names: Sequence[str], cut: Cut, *, named: bool) -> tuple[tuple[str, ...], dict[str, str]]:
    """Metrics that can be measured here in the registry's order, and why the others cannot."""
    if unknown := [name for name in names if name not in METRICS]:
        raise ValueError(f"unknown metrics {', '.join(unknown)}; choose from {', '.join(METRICS)}")
    reasons = {name: _hindrance(name, cut) for name in METRICS if name in names}
    missing = {name: reason for name, reason in reasons.items() if reason}
    if named and missing:
        name, reason = next(iter(missing.items()))
        raise ValueError(f"{name} cannot be measured: {reason}")
    measurable = tuple(name for name in reasons if name not in missing)
    if not measurable:
        raise ValueError(f"none of {', '.join(names)} can be measured: {'; '.join(missing.values())}")
    return measurable, missing


def _hindrance(name: str, cut: Cut) -> str | None:
    smallest = METRICS[name].smallest
    if cut.size < smallest:
        return f"photos of {cut.size} x {cut.size} pixels; it needs at least {smallest} (--size)"
    return unavailable(name)


def _check_room(protocol: Protocol, cut: Cut) -> None:
    """Every policy must find unclicked pixels: each click covers a patch."""
    needed, room = protocol.clicks[-1] * protocol.hint_size**2, cut.size**2
    if needed > room:
        raise ValueError(
            f"{protocol.clicks[-1]} clicks of {protocol.hint_size} x {protocol.hint_size} pixels do not fit into "
            f"{cut.size} x {cut.size} = {room} pixels; ask for fewer --clicks, a smaller --hint-size or a larger "
            "--size"
        )


def _budgets(name: str, words: Sequence[str], budgets: Sequence[int]) -> tuple[int, ...]:
    found = tuple(_whole(name, word) for word in split(words))
    if strangers := [count for count in found if count not in budgets]:
        raise ValueError(f"{name} is {strangers[0]}, which is not among --clicks {','.join(map(str, budgets))}")
    return found


def _level(word: str) -> Level:
    metric, _, value = word.partition("=")
    try:
        level = Level(metric, float(value))
    except ValueError as error:
        raise ValueError(f"nri is {word!r}; write METRIC=LEVEL, such as rgb_psnr=25") from error
    if not math.isfinite(level.value):
        raise ValueError(f"nri is {word!r}; the level must be a finite number, such as rgb_psnr=25")
    return level


def _whole(name: str, word: str) -> int:
    if not word.isdecimal():
        raise ValueError(f"{name} has {word!r}; give whole numbers, such as 0,1,5,10")
    return int(word)
