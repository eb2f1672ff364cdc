"""`python -m evaluator COMMAND`: color a photo, benchmark, compare, promote, serve."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from evaluator.photos.manifest import ShardError

COMMANDS = {
    "colorize": "color a photo from clicks, and say where to click next",
    "benchmark": "measure a colorizer under click policies, photo by photo",
    "compare": "differences of finished benchmarks, with intervals",
    "promote": "move @champion to a better network, or refuse",
    "serve": "the page and the API that colour photos from clicks",
}
_SERVING = {"colorize": "evaluator.colorize", "serve": "evaluator.service.serve"}
"""Modules of commands that need the packages of chromaclick[serve]."""
_STOPPED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is its own, 2 for bad input, 1 when a server or the disk fails."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] not in COMMANDS:
        asked = not words or words[0] in ("-h", "--help")
        print(_usage() if asked else f"error: unknown command {words[0]!r}\n{_usage()}", file=sys.stderr)
        return 0 if words and asked else 2
    try:
        return _command(words[0])(words[1:])
    except (ValueError, ShardError) as error:
        return _failed(error, 2)
    except OSError as error:
        return _failed(error, 1)
    except KeyboardInterrupt:
        print("stopped; what was measured is kept: the same command with --resume continues", file=sys.stderr)
        return _STOPPED


def _command(name: str) -> Callable[[list[str]], int]:
    """Function of a command, imported on demand: each brings libraries that take seconds."""
    if name == "benchmark":
        return import_module("evaluator.benchmark.command").main
    if name in _SERVING:
        return _of_service(_SERVING[name])
    import tyro

    function = import_module(f"evaluator.benchmark.{name}").main
    return lambda words: tyro.cli(function, prog=f"python -m evaluator {name}", args=words)


def _of_service(module: str) -> Callable[[list[str]], int]:
    try:
        return import_module(module).main
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is not installed; pip install 'chromaclick[serve]'") from error


def _usage() -> str:
    lines = "\n".join(f"  {name:10} {about}" for name, about in COMMANDS.items())
    return f"usage: python -m evaluator COMMAND [--help]\n{lines}"


def _failed(error: Exception, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    code = main()
    if threads := sys.modules.get("evaluator.system.threads"):  # a service's networks may still be on their way
        threads.end_without_unawaited(code)
    sys.exit(code)
