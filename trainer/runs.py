"""The work folder: one folder per run, with its config, checkpoints, pictures and results."""

import json
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from evaluator.atomic import write_atomically
from trainer.checkpoints import Checkpoints
from trainer.config import Config, flatten
from trainer.locks import Busy, Lock, who_has

CONFIG_FILE, RESULTS_FILE, LOCK_FILE = "config.json", "results.json", "lock"
_OR_START = "--resume-or-start --run.name"
_RUNNING = "is being trained already ({}); wait for it or stop it, or give another --run.name"
# Settings that may change between a run and its continuation: they say where and how, not what. Of another
# micro-batch, which changes batch norm's groups as other numbers of processes do, the training gives notice.
_FREE_TO_CHANGE = (
    *("run.", "data.workers", "data.cache"),
    *("engine.threads", "engine.timeout", "engine.bucket_mb", "engine.micro_batch"),
)


@dataclass(frozen=True)
class RunFolder:
    """One run's files."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name, also in MLflow."""
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        """Folder of its checkpoints."""
        return self.path / "checkpoints"

    @property
    def lock(self) -> Path:
        """Held by the process that trains it."""
        return self.path / LOCK_FILE

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / RESULTS_FILE).exists()

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is something to go on from."""
        return bool(Checkpoints(self.checkpoints, keep=1).list())

    @property
    def micro_batch(self) -> object:
        """The setting that it was started with."""
        return json.loads((self.path / CONFIG_FILE).read_text()).get("engine.micro_batch")

    def differences(self, config: Config) -> list[str]:
        """Settings in which `config` differs from the one this run was started with."""
        started = json.loads((self.path / CONFIG_FILE).read_text())
        wanted = as_json(config)
        names = sorted({*started, *wanted})
        return [
            f"{name} is {started.get(name)!r} there and {wanted.get(name)!r} here"
            for name in names
            if started.get(name) != wanted.get(name) and not name.startswith(_FREE_TO_CHANGE)
        ]


@dataclass(frozen=True, kw_only=True)
class OpenedRun:
    """A run folder, as the main process found or made it; plain values, which every rank is told."""

    folder: RunFolder
    made: bool = False
    """Its folder was made now."""
    resumed: bool = False
    """It goes on from a checkpoint."""
    finished: bool = False
    """It came to its end: there is nothing left to do."""


def open_run(config: Config, *, resume: bool, or_start: bool = False) -> OpenedRun:
    """Find the run to continue, or make the folder of a new one.

    Args:
        config: of the training.
        resume: continue the newest unfinished run with this config.
        or_start: continue the run of this name where there is one, else start it.

    Raises:
        ValueError: there is no run to continue, a new one cannot have this name, or it has other settings.
    """
    if or_start:
        return find_or_start_run(config)
    if resume:
        return OpenedRun(folder=find_run(config), resumed=True)
    return OpenedRun(folder=start_run(config), made=True)


def as_json(config: Config) -> dict[str, object]:
    """The flat config as JSON would give it back (tuples as lists)."""
    return json.loads(json.dumps(flatten(config)))


def start_run(config: Config, *, again: bool = False) -> RunFolder:
    """Make the folder of a new run and write its config.

    Args:
        config: of the training.
        again: the folder may be there, without a config: its start was killed.

    Raises:
        ValueError: a run of that name exists.
    """
    path = Path(config.run.work) / (config.run.name or _unused_name(config))
    try:
        path.mkdir(parents=True, exist_ok=again)
    except FileExistsError:
        there = RunFolder(path)
        go_on = "--resume to continue it" if there.has_checkpoint else f"{_OR_START} {path.name} to begin it again"
        holder = who_has(there.lock)
        why = _RUNNING.format(holder) if holder else f"exists; give another --run.name, or {go_on}"
        raise ValueError(f"run {path} {why}") from None
    write_atomically(path / CONFIG_FILE, json.dumps(as_json(config), indent=1).encode())
    return RunFolder(path)


def _unused_name(config: Config) -> str:
    """The preset and the time, and a number for jobs that start in the same second."""
    name = f"{config.preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    numbered = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(name for name in numbered if not (Path(config.run.work) / name).exists())


def lock_run(folder: RunFolder, lock: Lock) -> None:
    """Keep other processes from training this run for as long as `lock` is held.

    Raises:
        ValueError: another process trains it.
    """
    try:
        lock.take()
    except Busy as error:
        raise ValueError(f"run {folder.path} {_RUNNING.format(error)}") from None


def find_run(config: Config) -> RunFolder:
    """The newest unfinished run with this config (and this name, where one is given).

    One with the same micro-batch comes first: another one may go on, but sees other groups in batch norm.

    Raises:
        ValueError: there is none; the message says what stands in the way.
    """
    work = Path(config.run.work)
    folders = [RunFolder(path.parent) for path in work.glob(f"{config.run.name or '*'}/{CONFIG_FILE}")]
    if not folders:
        raise ValueError(f"nothing to resume: there is no run {config.run.name or 'at all'} in {work}")
    folders.sort(key=lambda folder: (folder.path / CONFIG_FILE).stat().st_mtime, reverse=True)
    folders.sort(key=lambda folder: folder.micro_batch != config.engine.micro_batch)
    reasons = []
    for folder in folders:
        differences = folder.differences(config)
        if folder.is_finished:
            reasons.append(f"{folder.name}: finished")
        elif differences:
            reasons.append(f"{folder.name}: {'; '.join(differences[:3])}")
        elif not folder.has_checkpoint:
            reasons.append(f"{folder.name}: no checkpoint yet; begin again with {_OR_START} {folder.name}")
        else:
            return folder
    raise ValueError("nothing to resume with these settings:\n  " + "\n  ".join(reasons[:5]))


def find_or_start_run(config: Config) -> OpenedRun:
    """The run of this name: a new one, or the one that an earlier start of the same command has left.

    One that ended before its first checkpoint begins again in its folder.

    Raises:
        ValueError: no name is given, or the run was started with other settings.
    """
    if not config.run.name:
        raise ValueError("--resume-or-start goes on with the run of one name; give --run.name too")
    folder = RunFolder(Path(config.run.work) / config.run.name)
    if not (folder.path / CONFIG_FILE).exists():
        made = not folder.path.exists()  # a folder that was there is somebody's: a batch job's log, or notes
        return OpenedRun(folder=start_run(config, again=True), made=made)
    if differences := folder.differences(config):
        raise ValueError(
            f"run {folder.path} was started with other settings: {'; '.join(differences[:3])}; "
            "give the same ones, or another --run.name"
        )
    return OpenedRun(folder=folder, resumed=folder.has_checkpoint, finished=folder.is_finished)
