"""What a training's validation found after each ping-pong cycle, read from the training's folder."""

import json
import re
from pathlib import Path
from typing import Any

_CONFIG, _RESULTS = "config.json", "results.json"
_KEY = re.compile(r"validation/(?P<policy>[^/]+)/(?P<metric>[^/@]+)@(?P<clicks>\d+)")


def cycles_of(run: Path, clicks: int) -> list[dict[str, Any]]:
    """Means after each cycle, by policy.

    A training validates after each of its stages; a cycle is two of them, ping and pong, and the last ones are
    those of the cycles.

    Args:
        run: folder of a finished training.
        clicks: the number of clicks, which the training must have validated at.

    Returns:
        One row per cycle and policy: cycle (from 1), policy, clicks, images_seen, and each metric.

    Raises:
        ValueError: no finished training there, one without cycles, or one that did not validate at that number.
    """
    config, curve = _read(run / _CONFIG), _read(run / _RESULTS).get("curve", [])
    cycles = int(config.get("rounds.cycles", 0))
    if not 0 < 2 * cycles <= len(curve):
        raise ValueError(f"{run} has {cycles} cycles and {len(curve)} validations; give a training with cycles")
    rows = []
    for cycle, entry in enumerate(curve[len(curve) - 2 * cycles + 1 :: 2], start=1):
        found: dict[str, dict[str, float]] = {}
        for key, value in entry.items():
            match = _KEY.fullmatch(key)
            if match and int(match["clicks"]) == clicks:
                found.setdefault(match["policy"], {})[match["metric"]] = value
        if not found:
            raise ValueError(
                f"{run} was not validated at {clicks} clicks; train with --validation.clicks ... {clicks}"
            )
        seen = int(entry["images_seen"])
        rows += [
            {"cycle": cycle, "policy": p, "clicks": clicks, "images_seen": seen, **m} for p, m in found.items()
        ]
    return rows


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"{file} is missing; --run takes the folder of a finished training, such as runs/NAME")
    return json.loads(file.read_text())
