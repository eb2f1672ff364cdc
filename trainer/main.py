"""Train a ColorNet and its EditNets: `accelerate launch trainer/main.py [tiny | small | paper] [options]`.

Parse, build, train, report, close.
"""

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from trainer.config import Config
from trainer.interrupts import StopRequest
from trainer.presets import PRESETS
from trainer.session import WRONG_INPUT, Session

PROGRAM = "accelerate launch trainer/main.py"
BAD_INPUT = 2


@dataclass(frozen=True)
class Arguments:
    """Train a ColorNet and its EditNets; the first word may name a preset: tiny (default), small or paper."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    resume: bool = False
    """Continue the newest unfinished run with these settings."""


def parse(words: Sequence[str]) -> Arguments:
    """The command line as typed settings.

    Raises:
        ValueError: an unknown preset, or settings that contradict each other.
        SystemExit: with code 2, after a message, for an option that does not parse; 0 after --help.
    """
    preset, options = (
        ("tiny", list(words)) if not words or words[0].startswith("-") else (words[0], list(words[1:]))
    )
    if preset not in PRESETS:
        near = difflib.get_close_matches(preset, PRESETS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(PRESETS)}"
        raise ValueError(f"there is no preset {preset!r}; {hint}")
    default = Arguments(config=PRESETS[preset]())
    arguments = tyro.cli(Arguments, default=default, args=options, prog=f"{PROGRAM} {preset}")
    if arguments.config.preset != preset:
        raise ValueError(
            f"--preset is only a label; write the preset first: {PROGRAM} {arguments.config.preset} ..."
        )
    return arguments


def main(words: Sequence[str]) -> int:
    """Run the whole job; returns the exit code."""
    with StopRequest() as stop:
        try:
            arguments = parse(words)
            session = Session.open(arguments.config, resume=arguments.resume)
        except WRONG_INPUT as error:
            print(f"error: {error}", file=sys.stderr)
            return BAD_INPUT
        with session:
            return session.train(stop)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
