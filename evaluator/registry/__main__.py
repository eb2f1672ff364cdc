"""`python -m evaluator.registry list`: the registered networks with their metrics, on a terminal."""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence

from evaluator.registry.mlflow_registry import default_tracking_uri, versions

_METRIC = re.compile(r"metric\.(?P<name>.+)_(?P<clicks>\d+)")
"""The tag of a validation metric: MLflow takes no @ in names."""


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


def main(arguments: Sequence[str] | None = None, tracking_uri: str | None = None) -> int:
    """Print the registered networks; the exit code is 2 where there is no registry or it does not answer."""
    parser = argparse.ArgumentParser(prog="python -m evaluator.registry", description="Registered networks.")
    parser.add_argument("command", choices=["list"], help="list: name, version, aliases, commit, metrics")
    parser.add_argument("--work", default="runs", help="work folder with mlflow.db (default: %(default)s)")
    work = parser.parse_args(arguments).work
    try:
        found = versions(tracking_uri or default_tracking_uri(work))
    except (ValueError, ConnectionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not found:
        print(f"nothing is registered in {work} yet; accelerate launch trainer/main.py registers three networks")
    for version in found:
        print(described(version.name, str(version.version), version.aliases, version.tags))
    return 0


if __name__ == "__main__":
    sys.exit(main())
