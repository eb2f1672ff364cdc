"""The colorizer and the guide that the service works with: found, loaded and checked."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from evaluator import weights
from evaluator.registry import mlflow_registry
from evaluator.registry.networks import LoadedGuide, reads_features
from evaluator.registry.session import SplitColorizer
from evaluator.service.inference.runtimes import LOADERS, Loaded, Unusable, call, converted, example

_log = logging.getLogger("chromaclick")


def names_to_load(colorizer: str, guide: str, tracking_uri: str | None) -> tuple[str, str]:
    """What a start loads: names that were given stay; for others the champions, or else the networks that ship.

    Champions come as a pair: while one of the two is missing, what was not named is the shipped one, and a line of
    the log says so. It stays so until the next start or switch: `shipped` is no alias that is looked up again.

    Args:
        colorizer: empty where none was named.
        guide: the same.
        tracking_uri: see `evaluator.registry.mlflow_registry.load`.

    Raises:
        ConnectionError: the registry does not answer.
    """
    if colorizer and guide:
        return colorizer, guide
    if weights.SHIPPED in (colorizer, guide):
        return colorizer or weights.SHIPPED, guide or weights.SHIPPED
    where = tracking_uri or mlflow_registry.default_tracking_uri()
    named = {weights.COLORIZER: colorizer, weights.GUIDE: guide}
    missing = [name for name, given in named.items() if not given and not _has_champion(name, where)]
    if missing and weights.available():
        _log.info(
            "no champion of %s is registered: the networks that ship are used until a start finds champions",
            " and ".join(missing),
        )
        return colorizer or weights.SHIPPED, guide or weights.SHIPPED
    champions = [given or f"models:/{name}@{mlflow_registry.CHAMPION}" for name, given in named.items()]
    return champions[0], champions[1]


def _has_champion(name: str, tracking_uri: str) -> bool:
    try:
        return mlflow_registry.champion(tracking_uri, name) is not None
    except ValueError:  # no database, or no network of this name
        return False


_BY_FORMULA = "by formula"


@dataclass(frozen=True, kw_only=True, eq=False)
class Runner:
    """A network as the service runs it."""

    run: Callable[..., Tensor]
    """The house's call, without the truth; of a guide that reads features, with these last."""
    wanted: str
    """What was asked for, with its alias."""
    source: str
    """What that stood for, with its version."""
    hint_size: int
    """Side of a click's patch, the largest of its training."""
    temperature: float = 1.0
    """Of a guide's heat map."""
    most_batch: int | None = None
    """Photos that are computed at the same time; None: as many as the batcher allows."""
    split: SplitColorizer | None = None
    """The network in its parts, where it is a split colorizer."""
    reads_features: bool = False
    """Whether it is a guide that is called with the features of a split colorizer's answer."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """All that is known of it, as JSON values."""
    exported: Loaded | None = None
    """The network that may still be converted; None for any other."""


class Mismatch(ValueError):
    """A guide reads the features of another colorizer than the one that it is given."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Networks:
    """A pair that works together; it never changes, so that a request can keep it while another pair is loaded."""

    colorizer: Runner
    guide: Runner

    def __post_init__(self) -> None:
        """Refuse a guide that reads the features of another colorizer.

        Raises:
            Mismatch: it does; the message names both.
        """
        if self.guide.reads_features and self.colorizer.split is None:
            raise Mismatch(
                f"the guide {self.guide.source} reads a split colorizer's features, and "
                f"{self.colorizer.source} is none; give the colorizer that was published with it"
            )
        reads = self.guide.about.get("reads")
        if reads and reads != self.colorizer.about.get("weights"):
            raise Mismatch(
                f"the guide {self.guide.source} reads the features of one colorizer (weights {reads[:12]}), which "
                f"{self.colorizer.source} is not; promote or name the colorizer and the guide of one training, or "
                f"serve what ships: --colorizer {weights.SHIPPED} --guide {weights.SHIPPED}"
            )

    def describe(self) -> dict[str, Any]:
        """Both, as JSON values."""
        return {
            name: dict(runner.about) for name, runner in (("colorizer", self.colorizer), ("guide", self.guide))
        }


def load_runner(kind: str, uri: str, tracking_uri: str | None, sizes: Sequence[tuple[int, int]]) -> Runner:
    """A network out of the registry, in torch and warmed. Takes seconds.

    Args:
        kind: "colorizer" or "guide".
        uri: see `evaluator.registry.mlflow_registry.load`.
        tracking_uri: see there.
        sizes: heights and widths to warm it at.

    Raises:
        ValueError: nothing there, the wrong kind, or a guide that wants the truth.
        ConnectionError: the registry does not answer.
    """
    network = LOADERS[kind](uri, tracking_uri)
    contract = network.contract
    if isinstance(network, LoadedGuide) and contract.variant != "blind":
        raise ValueError(
            f"{uri} is an oracle guide, which needs the true colours; give a blind one, editnet-blind"
        )
    for size in sizes:
        call(network, example(network, *size))
    about = {
        "name": contract.name,
        "version": network.source.rpartition("/")[2] if network.source.startswith("models:/") else None,
        "source": network.source,
        "hint_size": list(contract.hint_size) if isinstance(contract.hint_size, tuple) else contract.hint_size,
        "multiple": contract.multiple,
        "commit": contract.commit,
        "split": isinstance(network, SplitColorizer),
        "weights": contract.weights,
        "reads": contract.reads,
        "sha256": network.fingerprint,
        "metrics": contract.metrics,
        "runtime": "torch",
        "skipped": {},
    }
    return Runner(
        **_called(network),
        wanted=uri,
        source=network.source,
        hint_size=contract.hint_size if isinstance(contract.hint_size, int) else contract.hint_size[1],
        temperature=contract.temperature or 1.0,
        # On a CPU a batch takes as long as its photos one after the other, and the first would wait for the last.
        most_batch=1 if network.device.type == "cpu" else None,
        about=about,
        exported=network,
    )


async def in_onnxruntime(
    runner: Runner, kind: str, tracking_uri: str | None, sizes: Sequence[tuple[int, int]], cache: Path
) -> Runner:
    """The same network in ONNX Runtime, or in torch if that cannot run it; its `about` and the log say why.

    Arguments as of `load_runner` and `runtimes.converted`. Converts it where the cache does not have it.
    """
    network = runner.exported
    if network is None:
        return runner
    uri = runner.source if runner.source.startswith("models:/") else runner.wanted
    try:
        quick = await converted(network, kind, uri, tracking_uri, sizes, cache)
    except Unusable as error:
        _log.warning("%s %s runs in torch, not in onnxruntime: %s", kind, runner.source, error)
        return replace(runner, about={**runner.about, "skipped": {"onnxruntime": str(error)}}, exported=None)
    _log.info("%s %s runs in onnxruntime", kind, runner.source)
    return replace(runner, **_called(quick), about={**runner.about, "runtime": "onnxruntime"}, exported=None)


def runner_of(network: Callable[..., Tensor], kind: str, *, hint_size: int, temperature: float) -> Runner:
    """A network that is at hand: any callable, for tests and benchmarks.

    Args:
        network: the house's call, without the truth; a `SplitColorizer` is used in its parts, and a guide with
            `reads_features` is called with features=.
        kind: "colorizer" or "guide".
        hint_size: side of a click's patch.
        temperature: of a guide's heat map.
    """
    source = getattr(network, "source", f"{kind} {_BY_FORMULA}")
    return Runner(
        **_called(network),
        wanted=source,
        source=source,
        hint_size=hint_size,
        temperature=temperature,
        about={
            "name": kind,
            "version": None,
            "source": source,
            "hint_size": hint_size,
            "split": isinstance(network, SplitColorizer),
            "runtime": "torch",
            "skipped": {},
        },
    )


def _called(network: Callable[..., Tensor]) -> dict[str, Any]:
    """The fields of a runner that say how a network is called; the batcher passes all inputs by position."""
    reads = reads_features(network)
    return {
        "run": (lambda *inputs: network(*inputs[:-1], features=inputs[-1])) if reads else network,
        "split": network if isinstance(network, SplitColorizer) else None,
        "reads_features": reads,
    }


def current_source(uri: str, tracking_uri: str | None) -> str:
    """What a URI stands for now: an alias's version; anything else is itself.

    Raises:
        ValueError: no version has this alias.
        ConnectionError: the registry does not answer.
    """
    if not is_alias(uri):
        return uri
    name, _, alias = uri.removeprefix("models:/").strip("/").rpartition("@")
    where = tracking_uri or mlflow_registry.default_tracking_uri()
    if alias == mlflow_registry.CHAMPION:
        found = [mlflow_registry.champion(where, name)]
    else:
        found = [
            one.version for one in mlflow_registry.versions(where) if one.name == name and alias in one.aliases
        ]
    if not found or found[0] is None:
        raise ValueError(f"no version of {name} has the alias {alias} any more in {where}; give it to one")
    return f"models:/{name}/{found[0]}"


def is_alias(uri: str) -> bool:
    """Whether a URI may stand for something else later."""
    return uri.startswith("models:/") and "@" in uri
