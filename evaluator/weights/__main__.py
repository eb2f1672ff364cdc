"""`python -m evaluator.weights RUN --commands FILE`: pack a finished run's networks to ship with the package."""

import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from evaluator import weights
from evaluator.weights.pack import pack


def pack_run(run: tyro.conf.Positional[Path], /, *, commands: Path) -> None:
    """Pack the colorizer and the blind guide of a finished run into the package.

    Args:
        run: folder of the run, with networks/colornet and networks/editnet-blind.
        commands: text file with the commands that trained them, for the README.
    """
    if not commands.is_file():
        raise ValueError(f"there is no file {commands}; write the commands that trained the networks into it")
    sizes = pack(run, commands.read_text(encoding="utf-8"))
    for path, size in sizes.items():
        print(f"{size:>12,}  {path}")
    print(f"{sum(sizes.values()):>12,}  bytes in {weights.FOLDER}")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 2 for bad input."""
    try:
        tyro.cli(pack_run, prog="python -m evaluator.weights", args=args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
