"""Results of a finished training: tables, pictures, registered networks, and the commands to type next."""

import json
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from evaluator.protocol.tables import plain_text, report
from evaluator.registry.mlflow_registry import default_tracking_uri
from evaluator.system.files import write_atomically
from trainer.checkpoint import Checkpoints
from trainer.config import Config, RunConfig, flatten
from trainer.export import Exported, describe, export, save
from trainer.loop import Training
from trainer.monitoring.console import Screen
from trainer.monitoring.mlflow_tracker import open_tracker
from trainer.monitoring.tracker import NullTracker, Place
from trainer.recipes.base import Published
from trainer.run_folder import RESULTS_FILE, RunFolder
from trainer.validation import policies

PHOTOS_IN_PICTURE = 6


def conclude(training: Training, folder: RunFolder, tracker: NullTracker) -> None:
    """Report and publish the results, on the main process after the last stage."""
    results = training.results
    assert results is not None, "conclude() comes after run()"
    screen = training.screen
    screen.say(report(results))
    tracker.log_text(plain_text(results), "validation.txt")
    tracker.log_table(results.rows(), "validation.csv")
    pictures = draw(training, folder.path)
    for picture in pictures.values():
        tracker.log_picture(picture, picture.name)
    versions = publish(training, folder.path, tracker) if training.config.run.publish else {}
    write_results(training, folder.path, versions)
    screen.say(f"\nPicture of the clicks: {pictures['clicks']}\nValidation curves:     {pictures['curves']}")
    for name, version in versions.items():
        screen.say(f"Registered {name} version {version}")
    screen.say(next_commands(training))


def deliver(folder: RunFolder, config: Config, screen: Screen, tracking_uri: str = "") -> None:
    """Send what the tracking server did not get of a finished run, and register its networks.

    Args:
        folder: of the run.
        config: of the run.
        screen: hears what was done.
        tracking_uri: see `Place`.

    Raises:
        ConnectionError: the server still does not answer; nothing is lost.
        ValueError: there is no checkpoint, or no such run.
    """
    if folder.is_delivered:
        screen.say(f"run {folder.path} is finished: nothing is left to do")
        return
    state, results = Checkpoints(folder.checkpoints, keep=1).load(), folder.results
    if state is None:
        raise ValueError(f"{folder.path} has no checkpoint, which would name its MLflow run; register it by hand")
    place = Place(
        work=Path(config.run.work),
        folder=folder.path,
        name=folder.name,
        tracking_uri=tracking_uri,
        system_metrics=False,
        warn=screen.warn,
    )
    own = state["run_id"]
    for run_id in dict.fromkeys((*folder.unsent, own)):
        tracker = open_tracker(place, run_id=run_id, resumed_at_step=results["images_seen"])
        try:
            for network in folder.unregistered if run_id == own else []:
                version = results["registered"][network.name] = tracker.register(network)
                write_atomically(folder.path / RESULTS_FILE, json.dumps(results, indent=1).encode())
                screen.say(f"Registered {network.name} version {version}")
        finally:
            tracker.finish("FINISHED" if run_id == own else "KILLED")  # an earlier start of the same run
    if folder.is_delivered:
        screen.say(f"run {folder.path} is finished: the tracking server has all of it now")


def draw(training: Training, folder: Path) -> dict[str, Path]:
    """Draw a grid of photos under clicks, and the validation curves over the training."""
    # The report brings matplotlib: a second that no error message should wait for.
    from evaluator.report.click_grid import click_grid
    from evaluator.report.figures import training_curves

    config, recipe = training.config, training.recipe
    networks = {name: engine.whole for name, engine in training.engines.items()}
    shown = policies(recipe, networks, recipe.trained)
    grid = click_grid(
        recipe.colorizer.module(networks),
        shown,
        training.validation.photos[:PHOTOS_IN_PICTURE],
        training.cluster.device,
        clicks=tuple(count for count in training.validation.protocol.clicks if count) or (0,),
        hint_size=config.validation.hint_size,
        seed=config.seed,
        title=f"{config.preset}: {config.data.image_size} px, hint size {config.validation.hint_size} px",
    )
    files = {"clicks": folder / "clicks.png", "curves": folder / "curves.png"}
    grid.save(files["clicks"])
    training_curves(training.progress.curve, list(shown)).save(files["curves"])
    return files


def publish(training: Training, folder: Path, tracker: NullTracker) -> dict[str, int]:
    """Export and register the networks that were trained, here or in the run that this one began with.

    Returns their versions by registered name. A registry that cannot be reached costs a warning: the exports stay
    in the run's folder.
    """
    recipe = training.recipe
    versions: dict[str, int] = {}
    trained = recipe.trained
    if training.config.recipe.begin_with:  # guides that read its features are of no use without it
        trained.add(recipe.colorizer.network)
    networks = {name: on_cpu(build, training.engines[name].whole) for name, build in recipe.networks.items()}
    for published in recipe.published:
        if published.network not in trained:
            continue
        exported = export_network(training, published, networks)
        try:
            version = tracker.register(save(exported, folder / "networks" / published.name))
        except ConnectionError as error:
            training.screen.warn(str(error))
        else:
            versions |= {published.name: version} if version is not None else {}
    return versions


def export_network(training: Training, published: Published, networks: Mapping[str, nn.Module]) -> Exported:
    """A checked graph of one published network, with its contract."""
    config, results, recipe = training.config, training.results, training.recipe
    module = published.module(networks)
    guide = published.kind == "guide"
    policy = published.name if guide else "random"
    measured = {
        f"{one.policy}/{one.metric}@{one.clicks}": one.value
        for one in (results.records if results else [])
        if one.policy == policy
    }
    return export(
        module,
        describe(
            module,
            published.name,
            variant=getattr(module, "variant", None) if guide else None,
            hint_size=config.recipe.hint_size,
            temperature=published.temperature,
            follows_clicks=published.follows_clicks,
            colorizer=recipe.colorizer.module(networks) if guide else None,
            config={**flatten(config), "engine.precision": training.cluster.precision},
            metrics=measured,
        ),
    )


def on_cpu(build: Callable[[], nn.Module], trained: nn.Module) -> nn.Module:
    """A network of its own with the weights of a trained one."""
    network = build()
    network.load_state_dict({name: value.cpu() for name, value in trained.state_dict().items()})
    return network


def write_results(training: Training, folder: Path, versions: dict[str, int]) -> None:
    """Write all measurements; the file marks the run as finished."""
    content = {
        "results": training.results.rows() if training.results else [],
        "curve": training.progress.curve,
        "registered": versions,
        "images_seen": training.progress.images_seen,
        "precision": training.cluster.precision,
        "skipped_steps": training.progress.skipped_steps,
        "skipped_photos": training.progress.skipped_photos,
    }
    unfinished = folder / f"{RESULTS_FILE}.unfinished"
    unfinished.write_text(json.dumps(content, indent=1))
    unfinished.rename(folder / RESULTS_FILE)


def next_commands(training: Training) -> str:
    """Commands to run next."""
    work = training.config.run.work
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    look = (
        server
        if server.startswith("http")
        else f"mlflow ui --backend-store-uri {server or default_tracking_uri(work)}"
    )
    elsewhere = "" if work == RunConfig().work else f" --work {shlex.quote(work)}"
    return (
        f"\nLook at the runs:  {look}\n"
        f"Colour photos:     pip install -e '.[serve]' && python -m evaluator serve{elsewhere}\n"
        "Train on COCO:     python -m trainer.shards train2017.zip shards && \\\n"
        "                   accelerate launch trainer/main.py small \\\n"
        "                   --data.train shards --data.validation val2017.zip"
    )
