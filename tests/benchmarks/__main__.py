"""The benchmarks: `python -m tests.benchmarks NAME [options] [--json FILE]`.

Each is a module with `main(args) -> exit code`: 0 when it has reported, 1 when it refused to, 2 for bad input.
Only the one that is asked for is imported: a bare machine with a GPU has what `choose_click` and `color` need.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from tests.benchmarks.harness import Refused

BENCHMARKS = {
    "choose_click": (
        "kernels",
        "choosing and placing a click: the eager chain, the compiled chain and the kernels",
    ),
    "color": ("kernels", "photos mirrored and turned to Lab: eager, compiled and by a Triton kernel"),
    "estimators": ("kernels", "gradient estimators of the click: bias, spread and cost"),
    "loader": ("trainer", "photos per second and core of the data path beside the usual ways; HTTP, S3, caches"),
    "shards": ("trainer", "making shards of COCO's size; starts and resumes over 10,000 shards; memory"),
    "train_step": ("trainer", "a training step of each phase beside a plain reference; --ablate: part by part"),
    "scaling": ("trainer", "photos per second of several processes; --model: 8 to 256 GPUs on paper"),
    "tried_clicks": ("trainer", "policies that try clicks, on the U-Net and on the split network"),
    "evaluate": ("evaluator", "photos per second of the evaluation beside the plain loop; --memory: its peak"),
    "service": (
        "evaluator",
        "milliseconds from click to preview, alone and among many; --soak: memory over hours",
    ),
    "color_suggestions": ("evaluator", "how often the true color is among the suggested ones, by method"),
    "upsampling": ("evaluator", "colors enlarged to the photo's size: error and bleeding, by method"),
    "sweep": ("tuner", "trials per hour of a sweep beside the same trials one after another"),
}
"""For each name its folder, and what it measures."""


def usage() -> str:
    """All benchmarks, a line each."""
    lines = (f"  {name:18} {summary}" for name, (_, summary) in BENCHMARKS.items())
    return "\n".join(["usage: python -m tests.benchmarks NAME [options] [--json FILE]", "", *lines])


def main(args: Sequence[str] | None = None) -> int:
    """Run the benchmark that the first argument names; returns the exit code."""
    name, *options = (sys.argv[1:] if args is None else args) or ["--help"]
    if name in ("--help", "-h"):
        print(usage())
        return 0
    if name not in BENCHMARKS:
        print(f"error: there is no benchmark {name!r}; take one of {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    try:
        return import_module(f"tests.benchmarks.{BENCHMARKS[name][0]}.{name}").main(options)
    except Refused as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
