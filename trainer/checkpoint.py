"""Training progress and atomic checkpoints: a kill or a full disk never costs the previous one.

A checkpoint is a folder `<photos seen>-<stage>` with one file. It is written under a temporary name, flushed to
disk, and renamed; only whole ones ever carry the final name.
"""

import logging
import os
import pickle
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class Progress:
    """State of the loop besides the networks', saved and restored as a whole."""

    stage: int = 0
    """Index of the present stage."""
    stage_images: int = 0
    """Photos seen in this stage."""
    images_seen: int = 0
    """Photos seen in the whole training: the position in the stream that every random draw depends on."""
    skipped_steps: int = 0
    """Steps that were left out because a loss or gradient was not finite."""
    broken_in_row: dict[str, int] = field(default_factory=dict)
    """The latest of those in each phase, without a good step of that phase between."""
    skipped_photos: int = 0
    """Unreadable photos that all readers have replaced."""
    curve: list[dict[str, str | int | float]] = field(default_factory=list)
    """One record per mean of each validation: stage, images_seen, policy, metric, clicks, value."""


FOLDER = "checkpoints"
"""In a run's folder."""
STATE_FILE = "state.pt"
_NAME = re.compile(r"(\d{12,})-(\d{3,})")
_UNFINISHED = ".unfinished-"
_log = logging.getLogger("chromaclick")


class Checkpoints:
    """Checkpoints of one run, newest last."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep

    def save(self, state: dict[str, Any], images_seen: int, stage: int) -> Path:
        """Write a checkpoint and drop the oldest beyond `keep`.

        Raises:
            OSError: it could not be written (a full disk, say); the earlier checkpoints stand.
        """
        target = self.folder / f"{images_seen:012d}-{stage:03d}"
        unfinished = self.folder / f"{_UNFINISHED}{target.name}"
        if target.exists():  # a resumed run that reached the same place: the same state
            return target
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._drop_unfinished()  # of a kill; before writing, as the disk may be full of it
            unfinished.mkdir()
            with (unfinished / STATE_FILE).open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            _flush_folder(unfinished)
            unfinished.rename(target)
            _flush_folder(self.folder)
        except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
            shutil.rmtree(unfinished, ignore_errors=True)
            raise OSError(
                f"checkpoint {target} could not be written ({_cause(error)}); earlier ones stand"
            ) from error
        self._drop_old()
        return target

    def list(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        found = [(match, path) for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name))]
        return [path for match, path in sorted(found, key=lambda pair: (int(pair[0][1]), int(pair[0][2])))]

    def load(self) -> dict[str, Any] | None:
        """State of the newest checkpoint on the CPU, or None where there is none.

        Raises:
            ValueError: it cannot be read; the message says which folder to remove to use the one before.
        """
        whole = self.list()
        return read_state(whole[-1]) if whole else None

    def _drop_old(self) -> None:
        """Remove a checkpoint by renaming it first, so that half of one is never taken for a whole one.

        What cannot be removed, because a file server's other reader has it open, say, costs no training: it is
        tried again before the next checkpoint.
        """
        for path in self.list()[: -self._keep]:
            try:
                path.rename(path.with_name(f"{_UNFINISHED}{path.name}"))
            except OSError as error:
                _log.warning("the old checkpoint %s cannot be removed: %s", path, error)
        self._drop_unfinished()

    def _drop_unfinished(self) -> None:
        for path in self.folder.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(path, ignore_errors=True)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """State of a checkpoint, on the CPU.

    Raises:
        ValueError: it cannot be read; the message says which folder to remove to use the one before.
    """
    try:
        return torch.load(checkpoint / STATE_FILE, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"checkpoint {checkpoint} cannot be read ({reason:.200}); remove it to continue from the one before"
        ) from error


def networks_of(run: str) -> dict[str, Any]:
    """Weights and statistics of the networks in a run's newest checkpoint, by name.

    Raises:
        ValueError: the run has no checkpoint, or it cannot be read.
    """
    state = Checkpoints(Path(run) / FOLDER, keep=1).load()
    if state is None:
        raise ValueError(f"recipe.begin_with is {run}, where no run has left a checkpoint; name a folder in runs/")
    return {name: engine["network"] for name, engine in state["engines"].items()}


def _cause(error: BaseException) -> str:
    """The operating system's error message where there is one; torch buries it in text about its archive."""
    while not isinstance(error, OSError) and error.__context__ is not None:
        error = error.__context__
    return str(error).partition("\n")[0]


def _flush_folder(folder: Path) -> None:
    """Sync a folder to the disk, which makes a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
