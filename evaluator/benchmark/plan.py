"""What a benchmark measures: the options with their preset, defaults and checks."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from evaluator import fid
from evaluator.benchmark.options import Options
from evaluator.metrics import METRICS, unavailable
from evaluator.papers import PaperTable
from evaluator.photos.ahead import Cut
from evaluator.presets import PRESETS, Preset
from evaluator.results import Protocol

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
    """Every policy must find unclicked pixels: each click covers a stamp."""
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
