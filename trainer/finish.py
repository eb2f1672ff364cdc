"""What a finished training leaves behind: tables, pictures, registered networks, and what to type next."""

import json
import os
import shlex
from pathlib import Path

from evaluator.protocol.tables import plain_text, report
from evaluator.registry.mlflow_registry import default_tracking_uri
from trainer.config import RunConfig, flatten
from trainer.engines import Engine
from trainer.export import describe, export, save
from trainer.loop import Training
from trainer.monitoring.tracker import NullTracker
from trainer.recipes.base import Recipe
from trainer.run_folder import RESULTS_FILE, RunFolder
from trainer.validation import policies

COLORIZER_NAME = "colornet"
PHOTOS_IN_PICTURE = 6


def conclude(training: Training, folder: RunFolder, tracker: NullTracker) -> None:
    """Report, publish and say what to do next; on the main process, after the last stage."""
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


def draw(training: Training, folder: Path) -> dict[str, Path]:
    """Photos under clicks, and the validation curves over the training."""
    config, recipe = training.config, training.recipe
    shown = policies(recipe, training.engines, trained_networks(recipe))
    # Here: the report brings matplotlib, a second that no error message should wait for.
    from evaluator.report.click_grid import click_grid
    from evaluator.report.figures import training_curves

    grid = click_grid(
        training.engines[recipe.colorizer].whole,
        shown,
        training.validation.photos[:PHOTOS_IN_PICTURE],
        training.cluster.device,
        clicks=tuple(count for count in config.validation.clicks if count),
        hint_size=config.validation.hint_size,
        seed=config.seed,
        title=f"{config.preset}: {config.data.image_size} px, hint size {config.validation.hint_size} px",
    )
    files = {"clicks": folder / "clicks.png", "curves": folder / "curves.png"}
    grid.save(files["clicks"])
    training_curves(training.progress.curve, list(shown)).save(files["curves"])
    return files


def trained_networks(recipe: Recipe) -> set[str]:
    """Names of the networks that some stage trains."""
    return {name for stage in recipe.stages for phase in stage.phases for name in phase.trains}


def publish(training: Training, folder: Path, tracker: NullTracker) -> dict[str, int]:
    """Export and register the networks that were trained, here or in the run that this one began with.

    Returns their versions by registered name. A registry that cannot be reached costs a warning: the exports stay
    in the run's folder.
    """
    recipe = training.recipe
    versions: dict[str, int] = {}
    trained = trained_networks(recipe)
    if training.config.recipe.begin_with:  # guides that read its features are of no use without it
        trained.add(recipe.colorizer)
    for published, name in {COLORIZER_NAME: recipe.colorizer, **recipe.guides}.items():
        if name not in trained:
            continue
        exported = export_network(training, published, training.engines[name])
        try:
            version = tracker.register(save(exported, folder / "networks" / published))
        except ConnectionError as error:
            training.screen.warn(str(error))
        else:
            versions |= {published: version} if version is not None else {}
    return versions


def export_network(training: Training, published: str, engine: Engine):
    """A checked graph of one trained network, with its contract."""
    config, results = training.config, training.results
    network = training.recipe.networks[engine.name]()
    network.load_state_dict({name: value.cpu() for name, value in engine.whole.state_dict().items()})
    guide = published != COLORIZER_NAME
    policy = published if guide else "random"
    measured = {
        f"{row.policy}/{row.metric}@{row.clicks}": row.mean
        for row in (results.table() if results else [])
        if row.policy == policy
    }
    return export(
        network,
        describe(
            network,
            published,
            variant=getattr(network, "variant", None),
            hint_size=config.choice.hint_size,
            temperature=config.choice.temperature.at(1.0) if guide else None,
            colorizer=training.engines[training.recipe.colorizer].whole if guide else None,
            config={**flatten(config), "engine.precision": training.cluster.precision},
            metrics=measured,
        ),
    )


def write_results(training: Training, folder: Path, versions: dict[str, int]) -> None:
    """Everything that was measured; the file's presence says that the run is finished."""
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
    """The commands that a person would want next."""
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
