"""Settings from a JSON or YAML file: a run folder's config.json, a sweep's best.json, or a few lines by hand."""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import Config, override
from trainer.null_tracker import flat
from trainer.presets import PRESETS
from trainer.settings import checked, nearest

if TYPE_CHECKING:
    import yaml
else:  # YAML is imported on first use
    yaml = Any


def read_config(path: Path, preset: str = "") -> Config:
    """The config that a file describes, with the values of a preset where it is silent.

    Names are dotted (`"loss.entropy": 0.02`), or nested groups, or both.

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
        return override(PRESETS[preset](), checked(values))
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
        raise ValueError(f"{path} must map settings to values, such as loss.entropy: 0.02")
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
