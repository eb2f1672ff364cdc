"""`python -m evaluator promote`: the alias @champion moves to a network that is measurably better, or stays.

Evidence is two finished benchmarks under one protocol, on the same photos, that differ in one registered network.
The challenger has to be better on the chosen metric beyond the paired bootstrap 95 % interval, and not worse
beyond its interval on any other metric of quality that has a better side. What is compared is each photo's mean
over the measured numbers of clicks, or its value at one of them (`--clicks`).

A guide on a colorizer's features works with that one only: after a new colorizer, promote its guide by `--first`.

Exit code 0: promoted. 3: refused, the alias stays where it is. 2: the question itself is wrong.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluator.benchmark.compare import Evidence, in_words, weigh
from evaluator.protocol.finished import Finished
from evaluator.protocol.results import BASELINE
from evaluator.registry import mlflow_registry
from evaluator.system.environment import commit

REFUSED = 3
"""Exit code."""
COLORIZER = "colorizer"


class Refused(Exception):
    """The alias stays where it is; the message says why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Entrant:
    """A registered network and the benchmark that measured it."""

    run: Finished
    role: str
    """What it was there: "colorizer", or a guide's policy."""
    name: str
    version: str

    @classmethod
    def read(cls, folder: Path, role: str) -> "Entrant":
        """Find the network in a benchmark's folder.

        Raises:
            ValueError: no finished benchmark, one without such a network, or a network that is not registered.
        """
        if str(folder).startswith(("models:", "runs:")):
            raise ValueError(
                f"{folder} names a network; benchmark it (python -m evaluator benchmark --colorizer {folder} ... "
                "--out DIR) and give DIR"
            )
        run = Finished.read(folder)
        found = _networks(run).get(role)
        if found is None:
            raise ValueError(f"{folder} measured no {role}; it has {', '.join(_networks(run))}")
        if not found.get("version"):
            raise ValueError(
                f"{folder} measured {found.get('source')}, which is no registered version; benchmark "
                "models:/NAME/VERSION"
            )
        return cls(run=run, role=role, name=found["name"], version=str(found["version"]))

    def check_registered(self, uri: str) -> None:
        """Raise a ValueError when the registry's version is not the network that was measured."""
        measured = _networks(self.run)[self.role].get("sha256")
        stored = mlflow_registry.load(f"models:/{self.name}/{self.version}", uri).fingerprint
        if measured != stored:
            raise ValueError(
                f"version {self.version} of {self.name} in {uri} is not the network that {self.run.folder} "
                f"measured (SHA-256 {stored} and {measured}); use the registry that the benchmark used"
            )


def main(
    *,
    challenger: Path,
    champion: Path | None = None,
    metric: str = "ab_psnr",
    network: str = COLORIZER,
    policy: str | None = None,
    clicks: int | None = None,
    first: bool = False,
    work: Path = Path("runs"),
) -> int:
    """Make the challenger the champion if benchmarks show that it is better; refuse otherwise (exit code 3).

    Args:
        challenger: benchmark folder of the challenger, measured as models:/NAME/VERSION.
        champion: benchmark folder of the present champion, under the same protocol and on the same photos.
        metric: the challenger must be better on it beyond the interval, and not worse on any other.
        network: what is promoted: colorizer, or a guide by its policy (guide-blind, guide-oracle).
        policy: whose clicks are compared; default: random for a colorizer, its own for a guide.
        clicks: compare after this many clicks; default: each photo's mean over all that were measured.
        first: there is no champion yet, or a guide that cannot read the champion colorizer's features: take the
            challenger without a comparison.
        work: work folder with mlflow.db, where MLFLOW_TRACKING_URI is not set.
    """
    uri = mlflow_registry.default_tracking_uri(work)
    entrant = Entrant.read(challenger, network)
    try:
        if first:
            why = _first(entrant, uri)
        elif champion is None:
            raise ValueError(
                "give --champion, the present champion's benchmark folder, or --first if there is none"
            )
        else:
            holder = Entrant.read(champion, network)
            _check_comparable(holder, entrant, policy or _own_policy(network))
            _check_title(holder, entrant, uri)
            why = _better(weigh(champion, challenger, metric, policy or _own_policy(network), clicks), holder)
    except Refused as reason:
        print(f"refused: {reason}; nothing changed", file=sys.stderr)
        return REFUSED
    why |= _measured_on(entrant.run)
    mlflow_registry.promote(uri, entrant.name, entrant.version, why)
    title = f"models:/{entrant.name}@{mlflow_registry.CHAMPION}"
    print(f"{title} is version {entrant.version} now: {mlflow_registry.in_words(why)}")
    return 0


def _own_policy(network: str) -> str:
    return BASELINE if network == COLORIZER else network


def _first(entrant: Entrant, uri: str) -> dict[str, str]:
    """Why there is a first champion, of this colorizer's guides where they read its features."""
    present = mlflow_registry.champion(uri, entrant.name)
    over = "none, it is the first"
    if present is not None:
        if not _is_left_behind(present, entrant, uri):
            raise Refused(f"{entrant.name} has a champion, version {present}; compare with it by --champion")
        over = f"version {present}, which reads the features of another colorizer than the champion"
    entrant.check_registered(uri)
    return {"over": over}


def _is_left_behind(present: str, entrant: Entrant, uri: str) -> bool:
    """Whether the present guide cannot work with the champion colorizer, whose features the entrant can read.

    No benchmark can compare the two under one colorizer.
    """
    if entrant.role == COLORIZER:
        return False
    guides = [
        mlflow_registry.load(f"models:/{entrant.name}/{version}", uri) for version in (present, entrant.version)
    ]
    old, new = (guide.contract.reads for guide in guides)
    name = _networks(entrant.run)[COLORIZER]["name"]
    if not old or mlflow_registry.champion(uri, name) is None:
        return False
    colorizer = mlflow_registry.load(f"models:/{name}@{mlflow_registry.CHAMPION}", uri).contract.weights
    return old != colorizer and new in ("", colorizer)


def _check_comparable(holder: Entrant, entrant: Entrant, policy: str) -> None:
    """Only the network that is promoted may differ between the benchmarks."""
    if holder.name != entrant.name:
        raise ValueError(f"{holder.run.folder} measured {holder.name}, {entrant.run.folder} {entrant.name}")
    old, new = _networks(holder.run), _networks(entrant.run)
    for role in sorted({COLORIZER, policy} - {entrant.role}):
        before, after = (_identity(one.get(role)) for one in (old, new))
        if before != after:
            raise ValueError(
                f"the benchmarks differ in their {role} too ({before} and {after}), so they say nothing about the "
                f"{entrant.role} alone; measure both with one"
            )


def _check_title(holder: Entrant, entrant: Entrant, uri: str) -> None:
    """The benchmarks are of the present champion and of another version, as they are registered."""
    present = mlflow_registry.champion(uri, entrant.name)
    if present is None:
        raise Refused(f"{entrant.name} has no champion; --first takes version {entrant.version} without comparing")
    if present == entrant.version:
        raise Refused(f"version {present} of {entrant.name} is the champion already")
    if present != holder.version:
        raise Refused(
            f"{holder.run.folder} measured version {holder.version}, but the champion is version {present}"
        )
    for one in (holder, entrant):
        one.check_registered(uri)


def _better(evidence: Evidence, holder: Entrant) -> dict[str, str]:
    """Why the challenger beats the present champion."""
    if evidence.objection:
        raise Refused(evidence.objection)
    at = "mean over all numbers of clicks" if evidence.clicks is None else f"after {evidence.clicks} clicks"
    return {
        "over": f"version {holder.version}",
        "metric": evidence.chosen.metric,
        "gain": in_words(evidence.chosen),
        "clicks": f"{evidence.policy}, {at}",
        "not_worse_on": ", ".join(one.metric for one in evidence.others) or "nothing else was measured",
    }


def _measured_on(run: Finished) -> dict[str, str]:
    photos = run.about["photos"]
    return {
        "photos": f"{len(run.names)} of {photos.get('source', '?')}",
        "photos_sha256": str(photos.get("sha256", "?")),
        "protocol": run.digest(),
        "measured_by": str(run.about.get("commit", "?")),
        "promoted_by": commit(),
    }


def _networks(run: Finished) -> dict[str, dict[str, Any]]:
    """What a benchmark measured: the colorizer, and each guide under its policy's name."""
    return {COLORIZER: run.about["colorizer"], **(run.about.get("guides") or {})}


def _identity(network: dict[str, Any] | None) -> str:
    return "none" if network is None else str(network.get("sha256") or network.get("source"))
