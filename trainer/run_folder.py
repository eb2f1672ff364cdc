"""The work folder: one folder per run with its config, checkpoints, pictures and results."""

import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from evaluator.system.files import write_atomically
from evaluator.system.locks import NO_LOCKS, Busy, Lock, who_has
from trainer.checkpoint import Checkpoints
from trainer.config import Config, flatten
from trainer.monitoring.metric_queue import UNSENT

CONFIG_FILE, RESULTS_FILE, LOCK_FILE = "config.json", "results.json", "lock"
_OR_START = "--resume-or-start --run.name"
_BETWEEN_TRIES_S = 2.0
_RUNNING = "is being trained already ({}); wait for it or stop it, or give another --run.name"
# Settings that may change between a run and its continuation: they say where and how, not what. Of another
# micro-batch, which changes batch norm's groups as other numbers of processes do, the training gives notice.
_FREE_TO_CHANGE = (
    *("run.", "data.workers", "data.cache"),
    *("engine.threads", "engine.timeout", "engine.bucket_mb", "engine.micro_batch"),
)


@dataclass(frozen=True)
class RunFolder:
    """Files of one run."""

    path: Path

    @property
    def name(self) -> str:
        """The run's name, also in MLflow."""
        return self.path.name

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.path / "checkpoints"

    @property
    def lock(self) -> Path:
        """Lock file, held by the process that trains the run."""
        return self.path / LOCK_FILE

    @property
    def is_finished(self) -> bool:
        """Whether the run has finished."""
        return (self.path / RESULTS_FILE).exists()

    @property
    def results(self) -> dict[str, Any]:
        """What a finished run measured and registered."""
        return json.loads((self.path / RESULTS_FILE).read_text())

    @property
    def unregistered(self) -> list[Path]:
        """Exported networks of a finished run that the registry did not get."""
        registered = self.results.get("registered", {})
        return [path for path in sorted(self.path.glob("networks/*")) if path.name not in registered]

    @property
    def unsent(self) -> list[str]:
        """Ids of the MLflow runs of which something could not be sent."""
        begin, end = UNSENT.split("{}")
        return [path.name[len(begin) : -len(end)] for path in sorted(self.path.glob(UNSENT.format("*")))]

    @property
    def is_delivered(self) -> bool:
        """Whether the tracking server has all of a finished run."""
        return not (self.unregistered or self.unsent)

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to resume from."""
        return bool(Checkpoints(self.checkpoints, keep=1).list())

    @property
    def micro_batch(self) -> object:
        """Micro-batch setting that the run was started with."""
        return json.loads((self.path / CONFIG_FILE).read_text()).get("engine.micro_batch")

    def differences(self, config: Config) -> list[str]:
        """Settings in which `config` differs from the one that this run was started with."""
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
    """A run folder as the main process found or made it, in plain values for broadcasting to every rank."""

    folder: RunFolder
    made: bool = False
    """Its folder was made now."""
    resumed: bool = False
    """It goes on from a checkpoint."""
    finished: bool = False
    """It came to its end: nothing is left to train."""


class Claim:
    """Lock that keeps other processes from training a run; held on the main process.

    Args:
        warn: hears of file systems without locks, and of a wait.
        patience: seconds to wait for a holder on another machine. One that vanished keeps its locks for a while.
    """

    def __init__(self, warn: Callable[[str], None], patience: float = 0.0) -> None:
        self._warn, self._patience = warn, patience
        self._lock: Lock | None = None

    def take(self, folder: RunFolder) -> None:
        """Lock a run until `release`.

        Raises:
            ValueError: another process trains it.
        """
        lock, late = Lock(folder.lock), time.monotonic() + self._patience
        waits = False
        while True:
            try:
                lock.take()
                break
            except Busy as error:
                if error.host in ("", socket.gethostname()) or time.monotonic() >= late:
                    raise ValueError(f"run {folder.path} {_RUNNING.format(error)}") from None
                if not waits:
                    self._warn(f"run {folder.path} belongs to {error}: waiting {self._patience:g} s at most")
                waits = True
                time.sleep(_BETWEEN_TRIES_S)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                self._warn(
                    f"the file system of {folder.path} has no locks ({error.strerror}): nothing keeps a second "
                    "job out of this run"
                )
                break
        self._lock = lock

    def release(self) -> None:
        """Release the lock."""
        if self._lock:
            self._lock.release()


def open_run(
    config: Config, *, resume: bool, or_start: bool = False, claim: Callable[[RunFolder], None] = lambda _: None
) -> OpenedRun:
    """Find the run to resume, or create the folder of a new one.

    Args:
        config: of the training.
        resume: continue the newest unfinished run with this config.
        or_start: continue the run of this name where there is one, else start it.
        claim: called with the run's folder before a config is written there, or one by that name is compared.

    Raises:
        ValueError: there is no run to continue, a new one cannot have this name, or it has other settings.
    """
    if or_start:
        return find_or_start_run(config, claim)
    if resume:
        folder = find_run(config)
        claim(folder)
        return OpenedRun(folder=folder, resumed=True, finished=folder.is_finished)
    return OpenedRun(folder=start_run(config, claim), made=True)


def as_json(config: Config) -> dict[str, object]:
    """The flat config as JSON returns it (tuples as lists)."""
    return json.loads(json.dumps(flatten(config)))


def start_run(config: Config, claim: Callable[[RunFolder], None] = lambda _: None) -> RunFolder:
    """Create the folder of a new run and write its config; `claim` as in `open_run`.

    Raises:
        ValueError: a run of that name exists.
    """
    path = Path(config.run.work) / (config.run.name or _unused_name(config))
    there = RunFolder(path)
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        go_on = "--resume to continue it" if there.has_checkpoint else f"{_OR_START} {path.name} to begin it again"
        holder, other = who_has(there.lock), "give another --run.name"
        exists = f"is finished; {other}" if there.is_finished else f"exists; {other}, or {go_on}"
        why = _RUNNING.format(holder) if holder else exists
        raise ValueError(f"run {path} {why}") from None
    claim(there)
    _write_config(there, config)
    return there


def _write_config(folder: RunFolder, config: Config) -> None:
    write_atomically(folder.path / CONFIG_FILE, json.dumps(as_json(config), indent=1).encode())


def _unused_name(config: Config) -> str:
    """A run name of preset and time, numbered for jobs that start in the same second."""
    name = f"{config.preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    numbered = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(name for name in numbered if not (Path(config.run.work) / name).exists())


def find_run(config: Config) -> RunFolder:
    """The newest run with this config (and this name, where one is given) that has something left to do.

    That is training, or sending to the tracking server what a finished run could not send.

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
    reasons, undelivered = [], []
    for folder in folders:
        differences = folder.differences(config)
        if differences:
            reasons.append(f"{folder.name}: {'; '.join(differences[:3])}")
        elif folder.is_finished:
            undelivered += [] if folder.is_delivered else [folder]
            reasons.append(f"{folder.name}: finished")
        elif not folder.has_checkpoint:
            reasons.append(f"{folder.name}: no checkpoint yet; begin again with {_OR_START} {folder.name}")
        else:
            return folder
    if undelivered:
        return undelivered[0]
    raise ValueError("nothing to resume with these settings:\n  " + "\n  ".join(reasons[:5]))


def find_or_start_run(config: Config, claim: Callable[[RunFolder], None] = lambda _: None) -> OpenedRun:
    """The run of this name: a new one, or the one that an earlier start of the same command left.

    One that ended before its first checkpoint begins again in its folder. Starts at the same time, of an array of
    jobs, say, meet at `claim`, so that the config is that of the one that trains.

    Raises:
        ValueError: no name is given, or the run was started with other settings.
    """
    if not config.run.name:
        raise ValueError("--resume-or-start goes on with the run of one name; give --run.name too")
    folder = RunFolder(Path(config.run.work) / config.run.name)
    made = not folder.path.exists()  # a folder that was there is somebody's: a batch job's log, or notes
    folder.path.mkdir(parents=True, exist_ok=True)
    if not (folder.is_finished and folder.is_delivered):
        claim(folder)
    if not (folder.path / CONFIG_FILE).exists():
        _write_config(folder, config)
        return OpenedRun(folder=folder, made=made)
    if differences := folder.differences(config):
        raise ValueError(
            f"run {folder.path} was started with other settings: {'; '.join(differences[:3])}; "
            "give the same ones, or another --run.name"
        )
    return OpenedRun(folder=folder, resumed=folder.has_checkpoint, finished=folder.is_finished)
