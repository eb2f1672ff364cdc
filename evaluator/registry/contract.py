"""Contract of an exported network (inputs, outputs, origin), and padding to its sizes.

A contract is one JSON file, `contract.json`, beside the exported graph. It is all that the evaluator and the
service know about a network, so its content is checked field by field when it is read.
"""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

FEATURE_CELL = 4
"""Pixels along each side that a split colorizer's features stand for."""
SCHEMA = 1
"""Version of the JSON layout; raised when a field changes its meaning."""
FILE_NAME = "contract.json"
Kind = Literal["colorizer", "guide"]
Variant = Literal["blind", "oracle"]


@dataclass(frozen=True)
class Port:
    """An input or output tensor of a network."""

    name: str
    channels: int | None
    """C of a (B,C,H,W) tensor; None for (B,H,W)."""
    low: float | None
    """Smallest value; None: unbounded."""
    high: float | None
    """Largest value; None: unbounded."""
    dtype: str = "float32"
    cell: int = 1
    """Pixels along each side that a value stands for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(-1, C, -1, -1) or (-1, -1, -1); -1 is free."""
        return (-1, -1, -1) if self.channels is None else (-1, self.channels, -1, -1)


_LIGHTNESS = Port("lightness", 1, 0.0, 1.0)
_CLICKS = Port("clicks", 3, -1.0, 1.0)
_PREDICTED = Port("predicted_ab", 2, -1.0, 1.0)
_TRUTH = Port("truth_ab", 2, -1.0, 1.0)


def features_port(channels: int) -> Port:
    """Port of the features that a split colorizer outputs and its guides read."""
    return Port("features", channels, None, None, cell=FEATURE_CELL)


def standard_ports(
    kind: Kind, variant: Variant | None, features: int = 0
) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Inputs and outputs of the standard calls, in calling order.

    Args:
        kind: `colorizer(lightness, clicks) -> ab`, or
            `guide(lightness, predicted_ab, clicks[, truth_ab]) -> logits`.
        variant: whether a guide sees `truth_ab` ("oracle") or not ("blind"); None for a colorizer.
        features: channels of the features that a guide reads; 0: none.
    """
    if kind == "colorizer":
        return (_LIGHTNESS, _CLICKS), (Port("ab", 2, -1.0, 1.0),)
    seen = (_LIGHTNESS, _PREDICTED, _CLICKS)
    truth = (_TRUTH,) if variant == "oracle" else ()
    read = (features_port(features),) if features else ()
    return (*seen, *truth, *read), (Port("logits", None, None, None),)


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Inputs, outputs and origin of a network.

    Raises:
        ValueError: a field has a value that no network of this house can have; the message names it.
    """

    kind: Kind
    name: str
    """Name in the registry, such as `colornet`."""
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    multiple: int
    """Height and width must be multiples of this, in pixels."""
    min_size: int
    """Smallest height and width, in pixels; a multiple of `multiple`."""
    hint_size: int | tuple[int, int]
    """Side of a hint patch in training, in pixels; or smallest and largest where it was drawn."""
    temperature: float | None = None
    """T of a guide's heat map softmax(logits / T); None for a colorizer."""
    variant: Variant | None = None
    """Whether a guide sees the truth; None for a colorizer."""
    follows_clicks: bool = True
    """Whether a colorizer uses clicks at all; one that does not is measured and used at 0 clicks."""
    features: int = 0
    """Channels of the features that a split colorizer gives, or that a guide reads; 0: neither."""
    weights: str = ""
    """SHA-256 over the network's weights; empty in contracts of before there were features."""
    reads: str = ""
    """`weights` of the one colorizer whose features a guide reads; empty for other networks."""
    config: dict[str, Any] = field(default_factory=dict)
    """The whole training config, as JSON values."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Validation results, finite."""
    commit: str = "unknown"
    """Git commit of the code that trained it, `-dirty` when files differed."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of Python and the packages that exported it."""

    def __post_init__(self) -> None:
        _check_kind(self)
        _check_sizes(self)
        for name in ("config", "metrics"):  # tuples become lists: equal before and after a round trip
            object.__setattr__(self, name, _as_json(name, getattr(self, name)))

    def to_json(self) -> str:
        """The contract as indented JSON with its schema version."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Contract":
        """Parse a contract.

        Raises:
            ValueError: not JSON, another schema, a field that is missing, unknown or of another type, or a value
                that does not fit the others.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"the contract is not JSON ({error}); export the network again") from error
        _check_fields(content)
        del content["schema"]
        for name in ("inputs", "outputs"):
            content[name] = tuple(_read_port(name, port) for port in content[name])
        if isinstance(content["hint_size"], list):
            content["hint_size"] = tuple(content["hint_size"])
        content["metrics"] = {name: float(value) for name, value in content["metrics"].items()}
        content["temperature"] = _as_float(content["temperature"])
        return cls(**content)

    @classmethod
    def read(cls, path: Path) -> "Contract":
        """Read a contract file; `from_json`'s errors name it.

        Raises:
            ValueError: the file is missing or bad.
        """
        if not path.is_file():
            raise ValueError(
                f"there is no contract at {path}; an exported network needs its {FILE_NAME} beside it"
            )
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _refuse(name: str, value: object, expected: str) -> None:
    raise ValueError(f"contract field {name!r} is {value!r}; it must be {expected}")


def _check_kind(contract: Contract) -> None:
    variants = (None,) if contract.kind == "colorizer" else get_args(Variant)
    if contract.variant not in variants:
        _refuse("variant", contract.variant, f"one of {variants} for a {contract.kind}")
    inputs, outputs = standard_ports(contract.kind, contract.variant, contract.features)
    if bool(contract.reads) != (contract.kind == "guide" and contract.features > 0):
        _refuse("reads", contract.reads, "the weights of the colorizer whose features a guide reads, else empty")
    for name, found, expected in (("inputs", contract.inputs, inputs), ("outputs", contract.outputs, outputs)):
        if found != expected:
            _refuse(name, found, f"{expected} for a {contract.variant or ''} {contract.kind}")
    temperature = contract.temperature
    if contract.kind == "colorizer" and temperature is not None:
        _refuse("temperature", temperature, "None for a colorizer")
    if contract.kind == "guide" and (temperature is None or not 0 < temperature < math.inf):
        _refuse("temperature", temperature, "a positive number for a guide")


def _check_sizes(contract: Contract) -> None:
    if not contract.name:
        _refuse("name", contract.name, "the network's name in the registry")
    if contract.multiple < 1:
        _refuse("multiple", contract.multiple, "at least 1 pixel")
    if contract.min_size < 1 or contract.min_size % contract.multiple:
        _refuse("min_size", contract.min_size, f"a positive multiple of {contract.multiple} pixels")
    hint = contract.hint_size
    low, high = hint if isinstance(hint, tuple) else (hint, hint)
    if not 1 <= low <= high:
        _refuse("hint_size", hint, "a size in pixels, or the smallest and the largest")


def _as_json(name: str, value: object) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"contract field {name!r} does not fit into JSON ({error}); give finite plain values"
        ) from error


_NUMBER = (int, float)
_TYPES: dict[str, tuple[type, ...]] = {
    "kind": (str,),
    "name": (str,),
    "inputs": (list,),
    "outputs": (list,),
    "multiple": (int,),
    "min_size": (int,),
    "hint_size": (int, list),
    "temperature": (*_NUMBER, type(None)),
    "variant": (str, type(None)),
    "follows_clicks": (bool,),
    "features": (int,),
    "weights": (str,),
    "reads": (str,),
    "config": (dict,),
    "metrics": (dict,),
    "commit": (str,),
    "versions": (dict,),
}


_ADDED: dict[str, Any] = {"follows_clicks": True, "features": 0, "weights": "", "reads": ""}
"""Fields that contracts of before them lack, with what they meant."""


def _check_fields(content: Any) -> None:
    """Refuse JSON whose fields are not exactly a contract's, with their types."""
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else type(content).__name__
        _refuse("schema", found, f"{SCHEMA}, the version that this code reads; update it or export again")
    for name, value in _ADDED.items():
        content.setdefault(name, value)
    _check_names("contract", content, {"schema", *_TYPES})
    for name, types in _TYPES.items():
        if not _is_a(content[name], types):
            _refuse(name, content[name], " or ".join(type_.__name__ for type_ in types))
    for name, choices in (("kind", get_args(Kind)), ("variant", (None, *get_args(Variant)))):
        if content[name] not in choices:
            _refuse(name, content[name], f"one of {choices}")
    if isinstance(content["hint_size"], list) and not _all_are(content["hint_size"], int, length=2):
        _refuse("hint_size", content["hint_size"], "one or two whole numbers")
    for name, type_ in (("metrics", _NUMBER), ("versions", (str,))):
        for key, value in content[name].items():
            if not _is_a(value, type_):
                _refuse(f"{name}.{key}", value, " or ".join(one.__name__ for one in type_))


def _check_names(what: str, content: dict[str, Any], expected: set[str]) -> None:
    if missing := expected - set(content):
        raise ValueError(f"the {what} lacks {', '.join(sorted(missing))}; export the network again")
    if unknown := set(content) - expected:
        raise ValueError(f"the {what} has unknown fields {', '.join(sorted(unknown))}; update this code")


def _read_port(name: str, content: Any) -> Port:
    if not isinstance(content, dict):
        _refuse(name, content, "a list of objects")
    content.setdefault("cell", 1)
    _check_names(f"contract's {name}", content, {item.name for item in fields(Port)})
    types = {"name": (str,), "channels": (int, type(None)), "dtype": (str,), "cell": (int,)}
    for key, value in content.items():
        if not _is_a(value, types.get(key, (*_NUMBER, type(None)))):
            _refuse(f"{name}.{key}", value, "of the type that an export writes")
    content["low"], content["high"] = _as_float(content["low"]), _as_float(content["high"])
    return Port(**content)


def _as_float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _is_a(value: object, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def _all_are(values: list[Any], type_: type, length: int) -> bool:
    return len(values) == length and all(_is_a(value, (type_,)) for value in values)


def pad_to_multiple(image: Float[Tensor, "b c h w"], multiple: int, min_size: int = 1) -> Float[Tensor, "b c H W"]:
    """Extend an image at its bottom and right by mirroring, until its sides are multiples.

    The mirror does not repeat the border pixel, and mirrors again as often as it takes, so a pad may be wider
    than the image (a side of one pixel is repeated). Row and column of every pixel stay what they were.

    Args:
        image: any images or maps; returned as it is when its sides fit already.
        multiple: sides of the result are multiples of this, in pixels.
        min_size: and at least this, in pixels.

    Raises:
        ValueError: the image has no pixels, or `multiple` is below 1.
    """
    height, width = image.shape[-2:]
    if multiple < 1 or height < 1 or width < 1:
        raise ValueError(f"cannot pad {height} x {width} pixels to a multiple of {multiple}; give at least 1")
    rows, columns = (
        max(math.ceil(side / multiple), math.ceil(min_size / multiple)) * multiple for side in (height, width)
    )
    if rows > height:
        image = image.index_select(-2, _mirrored(height, rows, image.device))
    if columns > width:
        image = image.index_select(-1, _mirrored(width, columns, image.device))
    return image


def _mirrored(size: int, target: int, device: torch.device) -> Tensor:
    """Indices 0 1 2 3 2 1 0 1 ... into a side of `size` pixels."""
    period = max(1, 2 * (size - 1))
    position = torch.arange(target, device=device) % period
    return torch.minimum(position, period - position)


def crop(image: Float[Tensor, "*any h w"], height: int, width: int) -> Float[Tensor, "*any H W"]:
    """Undo `pad_to_multiple`: the top left `height` x `width` pixels."""
    return image[..., :height, :width]
