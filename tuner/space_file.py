"""A space from a small YAML file."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from trainer.config.overrides import nearest, read_mapping
from tuner.space import Domain, Kind, Number

_OPTIONS = ("extra", "when", "points")


def read_space(path: Path) -> tuple[Domain, ...]:
    """The domains in a YAML file.

    Raises:
        ValueError: it cannot be read, or is no space.
    """
    return parse_space(read_mapping(path))


def parse_space(content: Mapping[str, Any]) -> tuple[Domain, ...]:
    """Domains from a mapping such as a YAML file's; see `tuner/README.md`.

    A list is a choice. Otherwise a mapping with one of the kinds and its values, and, where wanted, `extra`,
    `when` and `points`: `loss.entropy: {log_uniform: [0.0001, 0.1], extra: [0]}`.

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
    """The kind, its values, and the options of one entry."""
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
