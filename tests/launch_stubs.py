"""Programs on PATH that stand in for a cluster's own and write down how they were called."""

import os
from collections.abc import Mapping
from pathlib import Path

NOTE = 'printf "%s\\n" "$(basename "$0") $*" >> "$CALLS"\n'


def write_stubs(folder: Path, stubs: Mapping[str, str]) -> None:
    """Make a bash program of each text, under its name."""
    folder.mkdir(exist_ok=True)
    for name, text in stubs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}")
        (folder / name).chmod(0o755)


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """This process's, with the stubs in front, and without what a cluster has set already."""
    cluster = ("SLURM_", "RAY_", "PET_", "TORCHELASTIC_", "MASTER_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(cluster)}
    return kept | {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(folder / "calls")} | variables


def calls(folder: Path) -> list[str]:
    """How the stubs were called, in order."""
    file = folder / "calls"
    return file.read_text().splitlines() if file.exists() else []
