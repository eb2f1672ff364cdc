"""The networks of a benchmark, by the names that results have."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evaluator.baselines import Kernel
from evaluator.policies import NAMES, Policy, make
from evaluator.protocol.results import BASELINE
from evaluator.registry.contract import Contract
from evaluator.registry.mlflow_registry import default_tracking_uri, load_colorizer, load_guide
from evaluator.registry.networks import LoadedColorizer, LoadedGuide, LoadedNetwork, load_baseline

ALL = "all"
"""Stands for every policy that needs no guide."""

_ESTIMATOR = ("recipe.choice.estimator", "choice.estimator")
"""Where a contract's config names it, now and before recipes had settings of their own."""


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Loaded, on the device on which they are measured."""

    colorizer: LoadedColorizer
    guides: dict[str, LoadedGuide]
    """By policy: guide-blind, guide-oracle; a second of a kind is guide-blind-2."""
    ruler: LoadedColorizer | None = None
    """What is measured beside them as "no network"."""


def load_networks(
    colorizer: str, guides: Sequence[str], work: Path, device: torch.device, *, ruler: bool = True
) -> Networks:
    """Load from a registry or from files; the ruler is the kernel.

    Raises:
        ValueError: nothing there, a pickle, a contract that does not fit (the message names the field), or a guide
            that is given twice.
        ConnectionError: the registry does not answer.
    """
    registry = default_tracking_uri(work)
    loaded = [load_guide(guide, registry, str(device)) for guide in guides]
    if len({guide.fingerprint for guide in loaded}) < len(loaded):
        raise ValueError(f"a guide is given twice: {', '.join(guides)}")
    network = load_colorizer(colorizer, registry, str(device))
    for guide in loaded:
        guide.check_reads(network)
    return Networks(
        colorizer=network, guides=_named(loaded), ruler=load_baseline(Kernel(), device) if ruler else None
    )


def make_policies(
    names: Sequence[str], networks: Networks, autocast: torch.dtype | None = None
) -> dict[str, Policy]:
    """The baseline first, then the named policies, then every guide that was given.

    Args:
        names: names in `evaluator.policies.NAMES`; "all" stands for all of them, none for those that do not try
            clicks with the colorizer, which costs several of its calls per click.
        networks: the guides.
        autocast: precision of the guides.

    Raises:
        ValueError: an unknown name, or the name of a guide that was not given.
    """
    guides = networks.guides
    names = tuple(NAMES) if tuple(names) == (ALL,) else names
    if unknown := [name for name in names if name not in (*NAMES, *guides)]:
        raise ValueError(
            f"unknown policies {', '.join(unknown)}; choose from {', '.join(NAMES)}, and name guides by --guide"
        )
    made = {
        name: make(name, colorizer=networks.colorizer)
        for name in names or _without_trials(networks)
        if name not in guides
    }
    learned = {
        name: make(f"guide-{guide.contract.variant}", guide=guide, autocast=autocast)
        for name, guide in guides.items()
    }
    return {BASELINE: make(BASELINE), **made, **learned}


def _without_trials(networks: Networks) -> list[str]:
    return [name for name in NAMES if not make(name, colorizer=networks.colorizer).needs_colorizer]


def described(network: LoadedNetwork) -> dict[str, Any]:
    """What results say about a network."""
    contract: Contract = network.contract
    version = network.source.rpartition("/")[2] if network.source.startswith("models:/") else None
    return {
        "source": network.source,
        "name": contract.name,
        "version": version,
        "sha256": network.fingerprint,
        "hint_size": contract.hint_size,
        "commit": contract.commit,
        "estimator": next((contract.config[name] for name in _ESTIMATOR if name in contract.config), None),
    }


def _named(guides: Sequence[LoadedGuide]) -> dict[str, LoadedGuide]:
    found: dict[str, LoadedGuide] = {}
    for guide in guides:
        name = f"guide-{guide.contract.variant}"
        count = sum(taken == name or taken.startswith(f"{name}-") for taken in found)
        found[f"{name}-{count + 1}" if count else name] = guide
    return found
