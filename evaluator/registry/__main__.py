"""`python -m evaluator.registry list`: the registered networks with their metrics, on a terminal."""

import argparse
import sys
from collections.abc import Sequence

from evaluator.registry.mlflow_registry import default_tracking_uri, versions
from evaluator.registry.tags import described


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
