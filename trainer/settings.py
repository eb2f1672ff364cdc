"""The settings by their dotted names: which there are, which values each takes, and values read from a file."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from trainer.config import Config


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a message about a name that does not exist."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


@cache
def annotations() -> dict[str, Any]:
    """Dotted names of every setting, and the types of their values."""
    return dict(_leaves(Config, ""))


def check_value(path: str, value: Any) -> None:
    """Refuse an unknown setting, or a value that it cannot have.

    Raises:
        ValueError: with the nearest name, or with what the setting takes.
    """
    if path not in annotations():
        raise ValueError(f"there is no setting {path!r}{nearest(path, annotations())}")
    wanted = annotations()[path]
    if not fits(value, wanted):
        allowed = get_args(wanted) if get_origin(wanted) is Literal else ()
        hint = f"one of {', '.join(map(str, allowed))}" if allowed else _in_words(wanted)
        raise ValueError(f"{path} cannot be {value!r}; it is {hint}{nearest(str(value), map(str, allowed))}")


def fits(value: Any, wanted: Any) -> bool:
    """Whether a value, as JSON or YAML would give it, has this type: an int is a float, a list is a tuple."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin is Literal:
        return value in inner and not isinstance(value, bool)
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in inner)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        types = [inner[0]] * len(value) if inner[1:] == (...,) else list(inner)
        return len(types) == len(value) and all(map(fits, value, types))
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if wanted is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, wanted)


def as_setting(value: Any) -> Any:
    """A value from JSON or YAML as the config has it: lists are tuples there."""
    return tuple(map(as_setting, value)) if isinstance(value, list | tuple) else value


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted names as `trainer.config.override` takes them.

    Raises:
        ValueError: see `check_value`; all that is wrong, a line each.
    """
    problems = []
    for path, value in values.items():
        try:
            check_value(path, value)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n  ".join(problems[:10]))
    return {
        path: float(value) if annotations()[path] is float else as_setting(value) for path, value in values.items()
    }


def _in_words(wanted: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin is tuple:
        kind = names.get(inner[0], str(inner[0]))
        return f"a list, each {kind}" if inner[1:] == (...,) else f"a list of {len(inner)}, each {kind}"
    return names.get(wanted, str(wanted))


def _leaves(owner: type, prefix: str) -> Iterable[tuple[str, Any]]:
    for name, wanted in get_type_hints(owner).items():
        if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
            yield from _leaves(wanted, f"{prefix}{name}.")
        else:
            yield prefix + name, wanted
