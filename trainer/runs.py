"""The work folder: one folder per run, with its config, checkpoints, pictures and results."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoints import Checkpoints
from trainer.config import Config, flatten

CONFIG_FILE, RESULTS_FILE = "config.json", "results.json"
# Settings that may change between a run and its continuation: they say where and how, not what.
_FREE_TO_CHANGE = ("run.", "engine.threads")


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
    def is_finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / RESULTS_FILE).exists()

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


def as_json(config: Config) -> dict[str, object]:
    """The flat config as JSON would give it back (tuples as lists)."""
    return json.loads(json.dumps(flatten(config)))


def start_run(config: Config) -> RunFolder:
    """Make the folder of a new run and write its config.

    Raises:
        ValueError: a run of that name exists.
    """
    name = config.run.name or f"{config.preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    path = Path(config.run.work) / name
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise ValueError(f"run {path} exists; give another --run.name, or --resume to continue it") from None
    (path / CONFIG_FILE).write_text(json.dumps(as_json(config), indent=1))
    return RunFolder(path)


def find_run(config: Config) -> RunFolder:
    """The newest unfinished run with this config (and this name, where one is given).

    Raises:
        ValueError: there is none; the message says what stands in the way.
    """
    work = Path(config.run.work)
    folders = [RunFolder(path.parent) for path in work.glob(f"{config.run.name or '*'}/{CONFIG_FILE}")]
    if not folders:
        raise ValueError(f"nothing to resume: there is no run {config.run.name or 'at all'} in {work}")
    folders.sort(key=lambda folder: (folder.path / CONFIG_FILE).stat().st_mtime, reverse=True)
    reasons = []
    for folder in folders:
        differences = folder.differences(config)
        if folder.is_finished:
            reasons.append(f"{folder.name}: finished")
        elif differences:
            reasons.append(f"{folder.name}: {'; '.join(differences[:3])}")
        elif not Checkpoints(folder.checkpoints, keep=1).list():
            reasons.append(f"{folder.name}: no checkpoint yet; start again without --resume")
        else:
            return folder
    raise ValueError("nothing to resume with these settings:\n  " + "\n  ".join(reasons[:5]))
