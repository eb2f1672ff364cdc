"""The colorizer and the guide that the service works with: found, loaded and checked."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from evaluator import weights
from evaluator.registry import mlflow_registry
from evaluator.registry.networks import LoadedGuide, reads_features
from evaluator.registry.session import SplitColorizer
from evaluator.service.inference.converted import Loaded
from evaluator.service.inference.runtimes import DEFAULT, MOST_BATCH, Choice, choose

_log = logging.getLogger("chromaclick")


def names_to_load(colorizer: str, guide: str, tracking_uri: str | None) -> tuple[str, str]:
    """What a start loads: names that were given stay; for others the champions, or else the networks that ship.

    Champions come as a pair: while one of the two is missing, what was not named is the shipped one, and a line of
    the log says so. It stays so until the next start or switch: `shipped` is no alias that is looked up again.

    Args:
        colorizer: empty where none was named.
        guide: the same.
        tracking_uri: see `evaluator.registry.load`.

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


@runtime_checkable
class SplitNetwork(SplitColorizer, Protocol):
    """A split colorizer that tells which colours it holds for likely, such as `LoadedSplitColorizer`."""

    @property
    def bins(self) -> Float[Tensor, "bins 2"]:
        """The colours that `palette` speaks of, ab / 128."""
        ...

    def palette(self, features: Float[Tensor, "n c"]) -> Float[Tensor, "n bins"]:
        """Logits of the colours of some cells, from their features."""
        ...


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
    """Side of a click's stamp, the largest of its training."""
    temperature: float = 1.0
    """Of a guide's heat map."""
    most_batch: int | None = None
    """Photos that are computed at the same time; None: as many as the batcher allows."""
    split: SplitNetwork | None = None
    """The network in its parts, where it is a split colorizer."""
    reads_features: bool = False
    """Whether it is a guide that is called with the features of a split colorizer's answer."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """All that is known of it, as JSON values."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Networks:
    """A pair that works together; it never changes, so that a request can keep it while another pair is loaded."""

    colorizer: Runner
    guide: Runner

    def __post_init__(self) -> None:
        """Refuse a guide that reads the features of another colorizer.

        Raises:
            ValueError: it does; the message names both.
        """
        if self.guide.reads_features and self.colorizer.split is None:
            raise ValueError(
                f"the guide {self.guide.source} reads a split colorizer's features, and "
                f"{self.colorizer.source} is none; give the colorizer that was published with it"
            )
        reads = self.guide.about.get("reads")
        if reads and reads != self.colorizer.about.get("weights"):
            raise ValueError(
                f"the guide {self.guide.source} reads the features of one colorizer (weights {reads[:12]}), which "
                f"{self.colorizer.source} is not; promote or name the colorizer and the guide of one training, or "
                f"serve what ships: --colorizer {weights.SHIPPED} --guide {weights.SHIPPED}"
            )

    def describe(self) -> dict[str, Any]:
        """Both, as JSON values."""
        return {
            name: dict(runner.about) for name, runner in (("colorizer", self.colorizer), ("guide", self.guide))
        }


def load_runner(
    kind: str,
    uri: str,
    tracking_uri: str | None,
    sizes: Sequence[tuple[int, int]],
    runtimes: Sequence[str] = DEFAULT,
    cache: Path | None = None,
    most_batch: int = MOST_BATCH,
) -> Runner:
    """A network out of the registry in the runtime that is quickest at these sizes. Takes seconds.

    Args:
        kind: "colorizer" or "guide".
        uri: see `evaluator.registry.load`.
        tracking_uri: see there.
        sizes: heights and widths to warm it at; the first one decides.
        runtimes: names of `runtimes.RUNTIMES` to try.
        cache: folder for converted files, which a later start then need not convert.
        most_batch: photos that it will be given at once.

    Raises:
        ValueError: nothing there, the wrong kind, or a guide that wants the truth.
        ConnectionError: the registry does not answer.
    """
    load = mlflow_registry.load_colorizer if kind == "colorizer" else mlflow_registry.load_guide
    network = load(uri, tracking_uri)
    if isinstance(network, LoadedGuide) and network.contract.variant != "blind":
        raise ValueError(
            f"{uri} is an oracle guide, which needs the true colours; give a blind one, editnet-blind"
        )
    choice = choose(network, sizes, runtimes, cache, most_batch)
    _log.info("%s %s runs by %s", kind, network.source, choice.words)
    return Runner(
        run=_call_of(choice.network),
        wanted=uri,
        source=network.source,
        hint_size=_largest(network.contract.hint_size),
        temperature=network.contract.temperature or 1.0,
        most_batch=choice.most_batch,
        split=choice.network if isinstance(choice.network, SplitNetwork) else None,
        reads_features=reads_features(choice.network),
        about=_about(network, choice),
    )


def runner_of(network: Callable[..., Tensor], kind: str, *, hint_size: int, temperature: float) -> Runner:
    """A network that is at hand: any callable, for tests and benchmarks.

    Args:
        network: the house's call, without the truth; a `SplitNetwork` is used in its parts, and a guide with
            `reads_features` is called with features=.
        kind: "colorizer" or "guide".
        hint_size: side of a click's stamp.
        temperature: of a guide's heat map.
    """
    source = getattr(network, "source", f"{kind} {_BY_FORMULA}")
    split = network if isinstance(network, SplitNetwork) else None
    return Runner(
        run=_call_of(network),
        split=split,
        reads_features=reads_features(network),
        wanted=source,
        source=source,
        hint_size=hint_size,
        temperature=temperature,
        about={
            "name": kind,
            "version": None,
            "source": source,
            "hint_size": hint_size,
            "split": split is not None,
            "runtime": "torch",
            "milliseconds": None,
        },
    )


def _call_of(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A network's call with all inputs by position, as the batcher passes them."""
    if not reads_features(network):
        return network
    return lambda *inputs: network(*inputs[:-1], features=inputs[-1])


def _about(network: Loaded, choice: Choice) -> dict[str, Any]:
    contract, source = network.contract, network.source
    hint_size = contract.hint_size
    return {
        "name": contract.name,
        "version": source.rpartition("/")[2] if source.startswith("models:/") else None,
        "source": source,
        "hint_size": list(hint_size) if isinstance(hint_size, tuple) else hint_size,
        "multiple": contract.multiple,
        "commit": contract.commit,
        "split": isinstance(choice.network, SplitNetwork),
        "weights": contract.weights,
        "reads": contract.reads,
        "sha256": network.fingerprint,
        "metrics": contract.metrics,
        "runtime": choice.runtime,
        "milliseconds": choice.milliseconds[choice.runtime],
        "runtimes": choice.milliseconds,
        "skipped": choice.skipped,
        "several_photos": choice.way,
        "gains": {way: round(gain, 2) for way, gain in choice.gains.items()},
    }


def _largest(hint_size: int | tuple[int, int]) -> int:
    return hint_size if isinstance(hint_size, int) else hint_size[1]


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
