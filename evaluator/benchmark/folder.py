"""A benchmark's folder: what it measures, so that only the same measurement is continued in it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluator.atomic import write_atomically
from evaluator.benchmark.store import ROWS_FILE, coverage_of, parts_of

IDENTITY_FILE, SUMMARY_FILE = "benchmark.json", "results.json"

Identity = Mapping[str, Any]
"""Everything that decides the numbers, as JSON values by the name of the setting."""


def prepare(folder: Path, identity: Identity, *, resume: bool) -> set[int]:
    """Begin in an empty folder, or continue what was begun with the same settings.

    Args:
        folder: `--out`.
        identity: of the measurement that is asked for.
        resume: whether to continue; in a folder without a benchmark this begins one, so that a job that is queued
            again can always say it.

    Returns:
        Indices of the photos that are dealt with.

    Raises:
        ValueError: a benchmark is there and `resume` is not asked for, or it measures something else (the message
            names the settings).
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / IDENTITY_FILE
    if not file.exists():
        if (folder / ROWS_FILE).exists() or parts_of(folder):
            raise ValueError(f"{folder} holds results without {IDENTITY_FILE}; give another --out")
        write_atomically(file, (json.dumps(identity, indent=1) + "\n").encode())
        return set()
    if not resume:
        raise ValueError(f"{folder} holds a benchmark; add --resume to continue it, or give another --out")
    refuse_others(folder, json.loads(file.read_text()), identity)
    return coverage_of(folder).indices


def refuse_others(folder: Path, begun: Identity, asked: Identity) -> None:
    """Raise a ValueError that names the settings in which two measurements differ."""
    wanted = json.loads(json.dumps(asked))
    differences = [
        f"{name} was {_short(begun.get(name))} and is {_short(wanted.get(name))}"
        for name in dict.fromkeys([*begun, *wanted])
        if begun.get(name) != wanted.get(name)
    ]
    if differences:
        raise ValueError(
            f"{folder} was begun with other settings: {'; '.join(differences)}; repeat them, or give another --out"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
