"""Train a ColorNet and its EditNets: `accelerate launch trainer/main.py [PRESET] [options]`.

Parse, build, train, report, close.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from evaluator.system.interrupts import StopRequest
from trainer.config import Config, override
from trainer.config.overrides import nearest, read_config
from trainer.config.presets import PRESETS
from trainer.session import WRONG_INPUT, AlreadyFinished, Session

PROGRAM = "accelerate launch trainer/main.py"
BAD_INPUT = 2


@dataclass(frozen=True)
class Arguments:
    """Train a ColorNet and its EditNets; the first word may name a preset: tiny if none, small, serving, paper."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    file: Annotated[str, tyro.conf.arg(name="config", metavar="FILE")] = ""
    """Settings from a JSON or YAML file, such as a run folder's config.json; other options win over it."""
    resume: bool = False
    """Continue the newest unfinished run with these settings."""
    profile: bool = False
    """Write a trace of 10 steps of each kind of stage into the run's folder (run.profile)."""
    resume_or_start: bool = False
    """Continue the run of this --run.name if there is one, else start it: the same command for every start."""

    def __post_init__(self) -> None:
        if self.resume and self.resume_or_start:
            raise ValueError("--resume wants a run to continue, --resume-or-start does not; give one of them")


def parse(words: Sequence[str]) -> Arguments:
    """The command line as typed settings.

    Raises:
        ValueError: an unknown preset, a file that is no config, or settings that contradict each other.
        SystemExit: with code 2, after a message, for an option that does not parse; 0 after --help.
    """
    preset, options = ("", list(words)) if not words or words[0].startswith("-") else (words[0], list(words[1:]))
    if preset and preset not in PRESETS:
        hint = nearest(preset, PRESETS) or f"; choose one of {', '.join(PRESETS)}"
        raise ValueError(f"there is no preset {preset!r}{hint}")
    file = config_file(options)
    config = read_config(Path(file), preset) if file else PRESETS[preset or "tiny"]()
    default = Arguments(config=config, file=file)
    arguments = tyro.cli(Arguments, default=default, args=options, prog=f"{PROGRAM} {config.preset}")
    if arguments.config.preset != config.preset:
        raise ValueError(
            f"--preset is only a label; write the preset first: {PROGRAM} {arguments.config.preset} ..."
        )
    if arguments.profile:
        return replace(arguments, config=override(arguments.config, {"run.profile": True}))
    return arguments


def config_file(options: Sequence[str]) -> str:
    """Value of `--config`, which the defaults of all other options depend on; empty where it is not given."""
    parser = argparse.ArgumentParser(prog=PROGRAM, add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default="", metavar="FILE")
    return parser.parse_known_args(options)[0].config


def main(words: Sequence[str]) -> int:
    """Run the whole job; returns the exit code."""
    with StopRequest() as stop:
        try:
            arguments = parse(words)
            session = Session.open(arguments.config, resume=arguments.resume, or_start=arguments.resume_or_start)
        except AlreadyFinished:
            return 0
        except WRONG_INPUT as error:
            print(f"error: {error}", file=sys.stderr)
            return BAD_INPUT
        with session:
            return session.train(stop)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
