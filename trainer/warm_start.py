"""A recipe's first stage, shared by trainings that differ in later things: trained once, found by its settings.

A sweep over EditNet's losses and estimators pretrains the same ColorNet in every trial. The folder

    <work>/pretrained/<fingerprint>/state.pt, config.json

holds the state at the end of that stage, before its validation. A training that begins with it goes on exactly
like one that trained the stage itself (tests/trainer/test_warm_start.py compares weights and results).
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from evaluator.system.interrupts import StopRequest
from evaluator.system.locks import Busy, Lock
from trainer.checkpoint import STATE_FILE, Checkpoints, networks_of
from trainer.components import Parts, on_main
from trainer.config import Config
from trainer.engines import Cluster
from trainer.export import hash_of
from trainer.recipes.base import Recipe
from trainer.run_folder import CONFIG_FILE, as_json

FOLDER = "pretrained"
"""In the work folder."""
VERSION = 1
"""Part of every fingerprint; to be raised when the code changes what such a stage computes."""
WITHOUT_EFFECT = ("preset", "run.", "engine.timeout", "validation.", "data.validation")
"""Beginnings of the names of settings that it does not read, beside the recipe's own (`SharedPrefix.unread`)."""
_RESOLVED = (
    # Only what becomes of them matters: the loader's signature, precision, threads, LPIPS or none, weights.
    *("data.train", "data.manifest", "data.workers", "data.cache", "data.scale_jitter", "data.photo_share"),
    *("engine.precision", "engine.threads"),
)
_SECONDS_BETWEEN_TRIES = 0.2


def fingerprint(parts: Parts) -> str:
    """A name for exactly what the shared stage depends on: settings, data, seed, precision, processes.

    On a CPU also the number of threads, which changes the last bits.
    """
    recipe = pretraining(parts.config)
    assert recipe is not None, "a training without a shared stage has no such name"
    assert recipe.shared_prefix is not None
    own_names = (*recipe.shared_prefix.unread, *parts.config.recipe.resolved)
    unread = tuple(f"recipe.{name}" for name in own_names)
    settings = {
        name: value
        for name, value in as_json(parts.config).items()
        if not name.startswith((*WITHOUT_EFFECT, *_RESOLVED, *unread))
    }
    device = parts.cluster.device.type
    own = parts.config.recipe
    resolved = {
        "version": VERSION,
        "recipe": recipe.name,
        "photos": dict(parts.loader.signature),
        "precision": parts.cluster.precision,
        "device": device if device != "cpu" else f"cpu with {parts.cluster.threads} thread(s)",
        "processes": parts.cluster.world_size,
        **({"engine": parts.cluster.engine_name} if parts.cluster.zero else {}),  # which rounds differently
        "lpips": own.perceptual_weight if parts.perceptual else 0,
        **({"begins with": _networks_before(parts, recipe)} if own.begin_with else {}),
    }
    text = json.dumps([settings, resolved], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _networks_before(parts: Parts, recipe: Recipe) -> list[str]:
    """SHA-256 over each network of the shared stage in the run that `recipe.begin_with` names."""
    before = parts.config.recipe.begin_with
    return on_main(parts.cluster, lambda: [hash_of(networks_of(before).get(name, {})) for name in recipe.networks])


def pretraining(config: Config) -> Recipe | None:
    """The config's recipe cut down to the stage that trainings share; None where it has none."""
    recipe = config.recipe.build()
    if recipe.shared_prefix is None:
        return None
    first = recipe.stages[0]
    names = {name for phase in first.phases for name in (*phase.trains, *phase.borrows)}
    networks = {name: build for name, build in recipe.networks.items() if name in names}
    assert list(recipe.networks)[: len(names)] == list(networks), "their order gives each its initial weights"
    published = tuple(one for one in recipe.published if one.kind == "colorizer")
    return replace(recipe, networks=networks, stages=[first], published=published, objective="")


def shared_pretraining(config: Config) -> Path | None:
    """`find_or_pretrain` in the config's work folder, for a process without an open cluster."""
    parts = Parts.of(config, quiet=True)
    try:
        return find_or_pretrain(parts, Path(config.run.work) / FOLDER)
    finally:
        parts.loader.close()


def find_or_pretrain(parts: Parts, folder: Path) -> Path | None:
    """The checkpoint of the shared stage, trained now where no one has before; called on every rank.

    Who comes while it is trained waits. A pretraining that was killed is continued by whoever comes next. The
    lock is one of the file system, which a network file system must support.

    Returns:
        A folder for `Hooks.start`; None where the config has no such stage.

    Raises:
        TrainingBroke: the loss was not finite several times in a row.
        OSError: it cannot be written.
    """
    recipe = pretraining(parts.config)
    if recipe is None:
        return None
    target = folder / fingerprint(parts)
    if not _is_there(parts.cluster, target):
        with _turn(parts.cluster, target.with_suffix(".lock")):
            if not _is_there(parts.cluster, target):
                _pretrain(parts, recipe, target)
    return target


def _pretrain(parts: Parts, recipe: Recipe, target: Path) -> None:
    """Train the stage and move its last checkpoint to `target`, atomically."""
    work = target.with_suffix(".unfinished")
    training = parts.training(recipe, Checkpoints(work, keep=1))
    state = on_main(parts.cluster, training.checkpoints.load)
    if state:
        training.restore(state)
    elif before := parts.config.recipe.begin_with:
        training.take_networks(on_main(parts.cluster, lambda: networks_of(before)), before)
    parts.screen.say(f"{recipe.stages[0].name}: once for all trainings that share it, into {target}")
    with training.watch:
        training.train_stage(recipe.stages[0], StopRequest())

    def publish() -> None:
        last = training.checkpoints.list()[-1]
        (last / CONFIG_FILE).write_text(json.dumps(as_json(parts.config), indent=1))
        last.rename(target)
        shutil.rmtree(work)

    on_main(parts.cluster, publish)


def _is_there(cluster: Cluster, target: Path) -> bool:
    return on_main(cluster, lambda: (target / STATE_FILE).exists())


@contextmanager
def _turn(cluster: Cluster, path: Path) -> Iterator[None]:
    """Context that holds a lock; ranks poll together, so that none waits long in a collective."""
    lock = Lock(path)

    def try_to_lock() -> bool:
        try:
            lock.take()
        except Busy:
            return False
        return True

    try:
        while not on_main(cluster, try_to_lock):
            time.sleep(_SECONDS_BETWEEN_TRIES)
        yield
    finally:
        lock.release()
