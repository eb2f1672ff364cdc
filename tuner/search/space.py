"""Search spaces, from Python or a YAML file: domains of settings, and the conditions under which they matter.

One definition serves everything: `suggest` is Optuna's define-by-run function (TPE and random search), `grid`
lists points, and `tuner.search.pbt` derives the mutations of population-based training from the same domains.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from trainer.config import Config, flatten
from trainer.config.overrides import check_value, nearest, overridden, read_mapping

Kind = Literal["log_uniform", "uniform", "integer", "choice"]
Number = int | float
LARGEST_GRID = 10_000
"""Points of a grid, at most: more are a mistake rather than a wish."""
EXTRA_SHARE = 0.2
"""Share of a range's draws that its extra values get. They continue the range downwards, so that a sampler which
learns from neighbors learns about them too."""


@runtime_checkable
class Draw(Protocol):
    """Interface of `optuna.Trial` that a space needs."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number in [low, high]."""
        ...

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """An integer in [low, high]."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""
        ...


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Domain of one setting."""

    path: str
    """The setting's name in the trainer's config, such as recipe.loss.entropy."""
    kind: Kind
    low: Number | None = None
    """Smallest value; None for a choice."""
    high: Number | None = None
    """Largest value, included; None for a choice."""
    values: tuple[Any, ...] = ()
    """Of a choice."""
    extra: tuple[Number, ...] = ()
    """Exact values below the range that are tried too, such as 0, which no logarithm reaches."""
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Searched only where these settings have one of these values; elsewhere it keeps the base config's value."""
    points: int = 3
    """Values that a grid takes from the range, its ends included."""

    def __post_init__(self) -> None:
        if self.kind == "choice":
            if not self.values:
                raise ValueError(f"{self.path}: a choice needs values, such as [1, 2]")
            return
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(
                f"{self.path}: the range is {self.low} to {self.high}; give a smaller and a larger number"
            )
        if self.kind == "log_uniform" and self.low <= 0:
            raise ValueError(
                f"{self.path}: log_uniform starts at {self.low}; it must be above 0 (0 itself goes to extra)"
            )
        if self.kind == "integer" and not (float(self.low).is_integer() and float(self.high).is_integer()):
            raise ValueError(f"{self.path}: the range is {self.low} to {self.high}; give integers")
        if self.kind != "integer":  # where 0 is a value, Ray takes it for an integer and rounds what comes of it
            object.__setattr__(self, "extra", tuple(map(float, self.extra)))
        if any(value >= self.low for value in self.extra):
            raise ValueError(
                f"{self.path}: extra is {list(self.extra)}; it takes values below the range's {self.low}"
            )
        if self.points < 2:
            raise ValueError(
                f"{self.path}: points is {self.points}; a grid takes both ends of a range, so at least 2"
            )

    @property
    def limits(self) -> tuple[Number, Number]:
        """Smallest and largest value of the range."""
        assert self.low is not None, f"{self.path} is a choice"
        assert self.high is not None
        return self.low, self.high

    def suggest(self, draw: Draw) -> Any:
        """One value, drawn by an Optuna trial."""
        if self.kind == "choice":
            # by index: Optuna takes no lists as categories
            return self.values[draw.suggest_categorical(self.path, range(len(self.values)))]
        low, high = self.limits
        if self.kind == "integer":
            value = draw.suggest_int(self.path, int(low) - len(self.extra), int(high))
            return value if value >= low else int(self._descending[int(low) - value - 1])
        log = self.kind == "log_uniform"
        beyond = EXTRA_SHARE / (1 - EXTRA_SHARE) if self.extra else 0.0
        bottom = low * (low / high) ** beyond if log else low - (high - low) * beyond
        value = draw.suggest_float(self.path, bottom, high, log=log)
        if value >= low:
            return value
        depth = math.log(low / value) / math.log(low / bottom) if log else (low - value) / (low - bottom)
        return self._descending[min(int(depth * len(self.extra)), len(self.extra) - 1)]

    @property
    def _descending(self) -> list[Number]:
        """Extra values, beginning with the nearest to the range."""
        return sorted(self.extra, reverse=True)

    def grid(self) -> tuple[Any, ...]:
        """Grid values: all of a choice; of a range the extra ones and `points` evenly spaced ones."""
        if self.kind == "choice":
            return self.values
        low, high = self.limits
        shares = [index / (self.points - 1) for index in range(self.points)]
        if self.kind == "log_uniform":
            return (*self.extra, low, *(low * (high / low) ** share for share in shares[1:-1]), high)
        spaced = [low + (high - low) * share for share in shares]
        if self.kind == "integer":
            return tuple(dict.fromkeys((*map(int, self.extra), *map(round, spaced))))
        return (*self.extra, *spaced)

    def corners(self) -> tuple[Any, ...]:
        """Values that a check must try: all single ones, and both ends of a range."""
        if self.kind == "choice":
            return self.values
        ends = tuple(map(int, self.limits)) if self.kind == "integer" else self.limits
        return (*self.extra, *ends)

    def occurring(self) -> tuple[Any, ...]:
        """Values that a trial can have exactly: of a range those of its grid and the extra ones."""
        if self.kind == "integer":
            low, high = map(int, self.limits)
            return (*map(int, self.extra), *range(low, high + 1))
        return self.grid()

    def clamp(self, value: Any) -> Any:
        """Nearest value inside the domain; extra values and choices stay as they are."""
        if self.kind == "choice" or value in self.extra:
            return value
        low, high = self.limits
        return min(max(value, type(value)(low)), type(value)(high))

    def as_json(self) -> dict[str, Any]:
        """JSON form, for `sweep.json`."""
        when = {path: list(values) for path, values in self.when.items()}
        return {
            "path": self.path,
            "kind": self.kind,
            "low": self.low,
            "high": self.high,
            "values": list(self.values),
            "extra": list(self.extra),
            "when": when,
            "points": self.points,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Domain":
        """Domain from the output of `as_json`."""
        when = {path: tuple(values) for path, values in content["when"].items()}
        lists = {name: tuple(content[name]) for name in ("values", "extra")}
        return cls(**{**content, **lists, "when": when})


@dataclass(frozen=True)
class Space:
    """Domains in the order in which they are drawn, over a base config."""

    domains: tuple[Domain, ...]
    base: Config
    """Its values hold for whatever is not searched."""

    def __post_init__(self) -> None:
        """Refuse spaces of which no trial could be made.

        Raises:
            ValueError: an unknown setting, with the nearest name; a value of the wrong type, or one that the
                trainer refuses; a condition on a setting that is drawn later.
        """
        paths = [domain.path for domain in self.domains]
        if twice := sorted({path for path in paths if paths.count(path) > 1}):
            raise ValueError(f"{', '.join(twice)}: given twice; name each setting once")
        if not paths:
            raise ValueError("the space is empty; name at least one setting")
        for index, domain in enumerate(self.domains):
            self._check(domain, paths[index + 1 :])

    def suggest(self, draw: Draw) -> dict[str, Any]:
        """Values by path of the domains that have an effect: Optuna's define-by-run function."""
        values: dict[str, Any] = {}
        for domain in self.domains:
            if self._is_wanted(domain, values):
                values[domain.path] = domain.suggest(draw)
        return values

    def grid(self) -> list[dict[str, Any]]:
        """Every combination of the domains' grid values; conditional ones only where they have an effect.

        Raises:
            ValueError: there are more than `LARGEST_GRID`.
        """
        points = list(itertools.islice(self._points({}, 0), LARGEST_GRID + 1))
        if len(points) > LARGEST_GRID:
            raise ValueError(
                f"the grid has more than {LARGEST_GRID:,} points; search fewer settings, or lower `points`"
            )
        return points

    def active(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values that have an effect in combination."""
        kept: dict[str, Any] = {}
        for domain in self.domains:
            if domain.path in values and self._is_wanted(domain, kept):
                kept[domain.path] = values[domain.path]
        return kept

    def complete(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values with the base config's for every domain that has none."""
        base = flatten(self.base)
        return {domain.path: values.get(domain.path, base[domain.path]) for domain in self.domains}

    def domain(self, path: str) -> Domain:
        """Domain of this setting.

        Raises:
            ValueError: it is not searched.
        """
        found = {domain.path: domain for domain in self.domains}
        if path not in found:
            raise ValueError(f"{path} is not searched{nearest(path, found)}")
        return found[path]

    def _points(self, values: dict[str, Any], index: int) -> Iterator[dict[str, Any]]:
        if index == len(self.domains):
            yield values
            return
        domain = self.domains[index]
        if not self._is_wanted(domain, values):
            yield from self._points(values, index + 1)
            return
        for value in domain.grid():
            yield from self._points({**values, domain.path: value}, index + 1)

    def _is_wanted(self, domain: Domain, values: Mapping[str, Any]) -> bool:
        base = flatten(self.base)
        return all(values.get(path, base[path]) in wanted for path, wanted in domain.when.items())

    def _check(self, domain: Domain, later: Sequence[str]) -> None:
        for path, values in domain.when.items():
            if path in later:
                raise ValueError(f"{domain.path}: its condition {path} must stand before it")
            for value in values:
                check_value(path, value, self.base)
            self._check_condition(domain.path, path, values)
        context = {path: values[0] for path, values in domain.when.items()}
        for value in domain.corners():
            check_value(domain.path, value, self.base)
            try:
                overridden(self.base, {**context, domain.path: value})
            except ValueError as error:
                raise ValueError(f"{domain.path} cannot be {value}: {error}") from error

    def _check_condition(self, path: str, condition: str, wanted: Sequence[Any]) -> None:
        """Refuse a condition that never holds, so that the setting would silently not be searched."""
        searched = next((one for one in self.domains if one.path == condition), None)
        kept = flatten(self.base)[condition]
        possible = [kept] if searched is None else [*searched.occurring(), *[kept] * bool(searched.when)]
        if any(value in possible for value in wanted):
            return
        if searched is None:
            hint = f"{condition} is not searched and is {kept!r}; search it too, or give it another value by --set"
        elif searched.kind in ("uniform", "log_uniform"):
            hint = f"a range never has exactly this value; make {condition} a choice, such as [{wanted[0]!r}, ...]"
        else:
            near = min(possible, key=partial(_distance, wanted[0]))
            hint = f"{condition} is searched over {', '.join(map(str, possible))}; did you mean {near}?"
        raise ValueError(f"{path}: its condition {condition} {' or '.join(map(str, wanted))} never holds: {hint}")


def _distance(one: Any, other: Any) -> float:
    """Distance of two values of a setting: numbers by their difference, others by their spelling."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        return float(abs(one - other))
    return 1 - SequenceMatcher(None, str(one), str(other)).ratio()


_OPTIONS = ("extra", "when", "points")


def read_space(path: Path) -> tuple[Domain, ...]:
    """Domains in a YAML file.

    Raises:
        ValueError: it cannot be read, or is no space.
    """
    return parse_space(read_mapping(path))


def parse_space(content: Mapping[str, Any]) -> tuple[Domain, ...]:
    """Domains from a mapping such as a YAML file's; see `tuner/README.md`.

    A list is a choice. Otherwise a mapping with one of the kinds and its values, and, where wanted, `extra`,
    `when` and `points`: `recipe.loss.entropy: {log_uniform: [0.0001, 0.1], extra: [0]}`.

    Raises:
        ValueError: an entry that is neither.
    """
    return tuple(_parse_domain(str(path), entry) for path, entry in content.items())


def _parse_domain(path: str, entry: Any) -> Domain:
    kind, values, options = _parts(path, {"choice": entry} if isinstance(entry, list) else entry)
    if kind == "choice":
        return Domain(path=path, kind=kind, values=tuple(values), **options)
    low, high = (_number(path, value) for value in values)
    return Domain(path=path, kind=kind, low=low, high=high, **options)


def _parts(path: str, entry: Any) -> tuple[Kind, list[Any], dict[str, Any]]:
    """Kind, values and options of one entry."""
    kinds: tuple[Kind, ...] = get_args(Kind)
    example = f"write {path}: [a, b] or {path}: {{log_uniform: [0.001, 0.1]}}"
    if not isinstance(entry, Mapping):
        raise ValueError(f"{path} is {entry!r}; {example}")
    known = (*kinds, *_OPTIONS)
    if unknown := [str(name) for name in entry if name not in known]:
        raise ValueError(f"{path}: there is no {unknown[0]!r}{nearest(unknown[0], known)}")
    given: list[Kind] = [kind for kind in kinds if kind in entry]
    if len(given) != 1:
        raise ValueError(f"{path} has {' and '.join(given) or 'no kind'}; {example}")
    values = entry[given[0]]
    if not isinstance(values, list) or (given[0] != "choice" and len(values) != 2):
        raise ValueError(f"{path}: {given[0]} is {values!r}; {example}")
    extra, when = entry.get("extra", []), entry.get("when", {})
    if not isinstance(extra, list):
        raise ValueError(f"{path}: extra is {extra!r}; write a list, such as [0]")
    if not isinstance(when, Mapping):
        raise ValueError(f"{path}: when is {when!r}; write {{setting: value}}")
    options: dict[str, Any] = {
        "extra": tuple(_number(path, value) for value in extra),
        "when": {
            name: tuple(allowed) if isinstance(allowed, list) else (allowed,) for name, allowed in when.items()
        },
    }
    if "points" in entry:
        options["points"] = int(_number(path, entry["points"]))
    return given[0], values, options


def _number(path: str, value: Any) -> Number:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{path}: {value!r} is no number")
    return value
