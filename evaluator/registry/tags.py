"""A registered network's tags in MLflow, written and read back here, and in words for a terminal."""

import re
from collections.abc import Mapping, Sequence

from evaluator.registry.contract import Contract

_METRIC = re.compile(r"metric\.(?P<name>.+)_(?P<clicks>\d+)")
"""The tag of a validation metric, by `tags_of`."""


def tags_of(contract: Contract) -> dict[str, str]:
    """The commit and each metric, under names that MLflow takes: it has no @ in them."""
    metrics = {
        re.sub(r"[^\w\-. /:]", "_", f"metric.{name}"): f"{value:.6g}" for name, value in contract.metrics.items()
    }
    return {"commit": contract.commit, **metrics}


def described(name: str, version: str, aliases: Sequence[str], tags: Mapping[str, str]) -> str:
    """A line of name, version, aliases and commit, and one for each metric with its values by clicks.

    Args:
        name: of the registered network.
        version: its number.
        aliases: of this version.
        tags: of this version; those that are no metrics come as they are.
    """
    curves: dict[str, dict[int, str]] = {}
    others = dict(sorted(tags.items()))
    for tag, value in tags.items():
        if found := _METRIC.fullmatch(tag):
            curves.setdefault(found["name"], {})[int(found["clicks"])] = value
            del others[tag]
    commit = others.pop("commit", "")
    first = f"{name}/{version}{''.join(f' @{alias}' for alias in aliases)}{f'  commit {commit}' if commit else ''}"
    width = max(map(len, curves), default=0)
    means = [
        f"    {metric:{width}}  " + "  ".join(f"{clicks}: {values[clicks]}" for clicks in sorted(values))
        for metric, values in sorted(curves.items())
    ]
    return "\n".join([first, *means, *(f"    {tag}: {value}" for tag, value in others.items())])
