"""Settings by their dotted names, from a command line, JSON or YAML."""

import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from trainer.config import Config, flat, override
from trainer.config.presets import PRESETS, paper
from trainer.recipes import RecipeConfig


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a message about a name that does not exist."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def annotations(config: Config) -> dict[str, Any]:
    """Dotted names of every setting of a config with this recipe, and the types of their values."""
    return _annotations(type(config.recipe))


@cache
def _annotations(recipe: type[RecipeConfig]) -> dict[str, Any]:
    common = {name: wanted for name, wanted in _leaves(Config, "") if not name.startswith("recipe.")}
    return common | dict(_leaves(recipe, "recipe."))


def check_value(path: str, value: Any, config: Config) -> None:
    """Refuse an unknown setting, or a value that it cannot have.

    Args:
        path: dotted name.
        value: as JSON or YAML would give it.
        config: whose recipe's settings there are.

    Raises:
        ValueError: with the nearest name, or with what the setting takes.
    """
    known = annotations(config)
    if path not in known:
        raise ValueError(f"there is no setting {path!r}{nearest(path, known)}")
    wanted = known[path]
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


def overridden(config: Config, values: Mapping[str, Any]) -> Config:
    """A config with values by dotted names, as JSON or YAML gives them.

    Raises:
        ValueError: see `checked`, and `trainer.config.override`.
    """
    return override(config, checked(values, config))


def config_of(values: Mapping[str, Any]) -> Config:
    """A whole config from all of its values by dotted names; its preset, where it is one, decides the recipe.

    Raises:
        ValueError: see `checked`.
    """
    return overridden(PRESETS.get(str(values.get("preset")), paper)(), values)


def checked(values: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Values by dotted names as `trainer.config.override` takes them, for a config with this one's recipe.

    Raises:
        ValueError: see `check_value`; all that is wrong, a line each.
    """
    problems = []
    for path, value in values.items():
        try:
            check_value(path, value, config)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n  ".join(problems[:10]))
    known = annotations(config)
    return {path: float(value) if known[path] is float else as_setting(value) for path, value in values.items()}


def _in_words(wanted: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    origin, inner = get_origin(wanted), get_args(wanted)
    if origin is tuple:
        kind = names.get(inner[0], str(inner[0]))
        return f"a list, each {kind}" if inner[1:] == (...,) else f"a list of {len(inner)}, each {kind}"
    return names.get(wanted, str(wanted))


def _leaves(owner: type, prefix: str) -> Iterable[tuple[str, Any]]:
    hints = get_type_hints(owner)
    for name in (item.name for item in dataclasses.fields(owner)):
        wanted = hints[name]
        if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
            yield from _leaves(wanted, f"{prefix}{name}.")
        else:
            yield prefix + name, wanted


if TYPE_CHECKING:
    import yaml
else:  # YAML is imported on first use
    yaml = Any


def read_config(path: Path, preset: str = "") -> Config:
    """The config that a file describes, with the values of a preset where it is silent.

    Names are dotted (`"recipe.loss.entropy": 0.02`), or nested groups, or both.

    Args:
        path: a `.json`, `.yaml` or `.yml` file.
        preset: a name in `PRESETS`; empty: the file's own `preset`.

    Raises:
        ValueError: the file cannot be read, an unknown setting or preset, or a value that a setting cannot have.
    """
    values = flat(read_mapping(path))
    preset = preset or str(values.pop("preset", ""))
    values.pop("preset", None)
    try:
        if preset not in PRESETS:
            known = f"{nearest(str(preset), PRESETS)}; choose one of {', '.join(PRESETS)}"
            raise ValueError(f"its preset is {preset!r}{known}" if preset else "it names no preset" + known)
        return overridden(PRESETS[preset](), values)
    except ValueError as error:
        raise ValueError(f"{path}:\n  {error}") from error


def read_mapping(path: Path) -> dict[str, Any]:
    """What a JSON or YAML file maps; YAML as in its version 1.2: `off` and `1_000` are texts, `1e-4` a number.

    Raises:
        ValueError: it cannot be read, or is no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else _read_yaml(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} must map settings to values, such as recipe.loss.entropy: 0.02")
    return {str(name): value for name, value in content.items()}


def _read_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.load(text, _loader())
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


@cache
def _loader() -> "type[yaml.SafeLoader]":
    """PyYAML's safe loader with the plain numbers and truth values of YAML 1.2 (section 10.3.2), and no dates.

    Version 1.1, PyYAML's own, reads `1_000` as 1000, `010` as 8, `1:30` as 90, and `2020-01-01` as a date.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads `no` as a text and `1e-4` as a number."""

    replaced = {f"tag:yaml.org,2002:{name}" for name in ("bool", "float", "int", "timestamp")}
    Loader.yaml_implicit_resolvers = {
        first: [pair for pair in pairs if pair[0] not in replaced]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    number = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:bool", re.compile(r"(true|True|TRUE|false|False|FALSE)$"), "tTfF"
    )
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"({number.pattern})$"), "-+.0123456789")
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"([-+]?(0|[1-9][0-9]*))$"), "-+0123456789")
    return Loader
