"""`python -m tuner [COMMAND]`: search the trainer's settings, report on a sweep, promote its best.

Exit codes as in `evaluator/__main__.py`.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from evaluator.photos.manifest import ShardError

if TYPE_CHECKING:
    from tuner.config import Options
    from tuner.resources import Machine

PROGRAM = "python -m tuner"
COMMANDS = ("report", "promote")
BAD_INPUT, FAILED, STOPPED = 2, 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is its own, 2 for bad input, 1 when a server, the disk or every trial fails."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words and words[0] in COMMANDS:
            return {"report": _report, "promote": _promote}[words[0]](words[1:])
        return _sweep(words)
    except (ValueError, ShardError) as error:
        return _failed(error, BAD_INPUT)
    except OSError as error:
        return _failed(error, FAILED)
    except KeyboardInterrupt as error:
        return _failed(str(error) or "stopped; --resume goes on", STOPPED)


def _sweep(words: list[str]) -> int:
    import tyro

    from tuner.config import Options

    if words and not words[0].startswith("-"):
        raise ValueError(
            f"there is no command {words[0]!r}; have {', '.join(COMMANDS)}, or options alone: --preset smoke"
        )
    options = tyro.cli(Options, prog=PROGRAM, args=words)
    _check_installed()
    from tuner.plan import Plan
    from tuner.records import best
    from tuner.report.console import conclusion

    plan = (Plan.resumed if options.resume else Plan.new)(options, _machines)
    from tuner.sweep import run  # Ray only now: a wrong setting is refused in a moment

    trials = run(plan)
    print(conclusion(plan.sweep, trials, plan.folder))
    if best(trials, plan.sweep.metric) is None:
        return FAILED
    return _promote([str(plan.folder)]) if plan.options.promote else 0


def _machines(options: "Options") -> "Sequence[Machine]":
    """Machines on which trials will run; Ray is asked only in a cluster."""
    if options.address:
        return import_module("tuner.sweep").machines(options)
    return import_module("tuner.resources").here()


def _report(words: list[str]) -> int:
    import tyro

    def report(folder: tyro.conf.Positional[Path], picture: Path | None = None) -> Path:
        """Rewrite the report page of a sweep.

        Args:
            folder: of the sweep, such as runs/sweeps/NAME.
            picture: also write the page's figures as one picture, such as sweep.png, for documents.
        """
        _check_installed()
        written = import_module("tuner.report.page")
        if picture:
            written.save_picture(folder, picture)
        return written.write_report(folder)

    print(tyro.cli(report, prog=f"{PROGRAM} report", args=words))
    return 0


def _promote(words: list[str]) -> int:
    return import_module("tuner.promote").main(words)


def _check_installed() -> None:
    """Refuse to begin without the libraries of the extra `tune`."""
    missing = [name for name in ("ray", "optuna") if find_spec(name) is None]
    if missing:
        raise ValueError(f"{' and '.join(missing)} not installed; pip install 'chromaclick[tune]'")


def _failed(problem: object, code: int) -> int:
    print(f"error: {problem}" if code != STOPPED else problem, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
