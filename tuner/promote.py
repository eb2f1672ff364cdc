"""`python -m tuner promote FOLDER`: train a sweep's best settings in full, and promote the result if it wins.

The retraining registers its networks as every training does. Then the evaluator measures the new networks and the
present champions on the same photos under the same protocol, and its own `promote` decides, first about the
colorizer with random clicks, then about the blind guide with whichever colorizer is the champion by then.

The same command goes on where an earlier one ended: it resumes the retraining, and measures nothing twice.
Exit code 0: both are champions now. 3: the evidence was refused for one of them at least. 2: wrong input.
"""

import io
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image

from evaluator.benchmark import promote as evaluation
from evaluator.benchmark.command import Benchmark
from evaluator.benchmark.config import Options
from evaluator.benchmark.distributed import Ranks
from evaluator.metrics import METRICS
from evaluator.photos.dataset import open_photos
from evaluator.protocol.finished import SUMMARY_FILE
from evaluator.protocol.results import BASELINE
from evaluator.registry import mlflow_registry
from evaluator.system.files import write_atomically
from evaluator.system.interrupts import StopRequest
from evaluator.system.locks import alone
from trainer.checkpoint import Checkpoints
from trainer.config import Config, override
from trainer.config.overrides import config_of, nearest, overridden
from trainer.data.loader import open_validation
from trainer.finish import deliver
from trainer.monitoring.console import Screen
from trainer.run_folder import RunFolder
from trainer.session import Hooks, Session
from tuner.records import Sweep, best, read_trials

POLICY = "guide-blind"
"""What benchmarks call the guide."""
PROMOTION = "promotion"
"""Folder in the sweep's."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train the best settings of a sweep in full, and make its networks champions if benchmarks say so."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Of the sweep, such as runs/sweeps/NAME."""
    photos: Path | None = None
    """What is measured: a folder or a zip of photos, or shards. Without it the trainings' validation photos, by
    which the sweep has chosen its best: give others where you have them."""
    limit: int | None = None
    """Take only the first so many photos."""
    metric: str = "ab_psnr"
    """The new networks must be better on it, and not worse on any other."""
    seed: int | None = None
    """Of the retraining; without it the best trial's."""


def main(words: Sequence[str]) -> int:
    """Run the command; the exit code is in the module's docstring.

    Raises:
        ValueError: wrong input; the message says what to do.
        OSError: MLflow does not answer, or the disk is full.
        KeyboardInterrupt: asked to stop; the same command goes on.
        SystemExit: with code 1 when the training broke.
    """
    arguments = tyro.cli(Arguments, prog="python -m tuner promote", args=list(words))
    return promote(
        arguments.folder,
        photos=arguments.photos,
        limit=arguments.limit,
        metric=arguments.metric,
        seed=arguments.seed,
    )


def promote(
    folder: Path,
    *,
    photos: Path | None = None,
    limit: int | None = None,
    metric: str = "ab_psnr",
    seed: int | None = None,
) -> int:
    """Retrain, measure, decide: see `Arguments` and the module's docstring, and for errors `main`."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("promote is one process; leave accelerate launch out")
    if metric not in METRICS:
        raise ValueError(f"there is no metric {metric!r}{nearest(metric, METRICS)}; have {', '.join(METRICS)}")
    retraining = Retraining.of(folder, seed)
    with alone(retraining.folder / PROMOTION, f"{retraining.folder} is being promoted by another process"):
        source = photos or _validation_photos(retraining.config, retraining.folder / PROMOTION / "validation")
        fingerprint = open_photos(source, limit).fingerprint  # what is wrong with them is said before the training
        versions = retraining.run()
        out = retraining.folder / PROMOTION / f"photos-{fingerprint[:8]}"
        contest = Contest(
            config=retraining.config, versions=versions, photos=source, limit=limit, metric=metric, out=out
        )
        return contest.decide()


@dataclass(frozen=True)
class Retraining:
    """Full training with a sweep's best settings."""

    folder: Path
    """The sweep's."""
    trial: str
    """Id of the best."""
    parent_run: str
    tracking_uri: str
    config: Config

    @classmethod
    def of(cls, folder: Path, seed: int | None) -> "Retraining":
        """The retraining of a sweep.

        Raises:
            ValueError: no sweep, nothing measured in it, or MLflow is elsewhere now.
        """
        folder = folder.resolve()
        sweep = Sweep.read(folder)
        base = config_of(sweep.base)
        best_one = best(read_trials(folder), sweep.metric)
        if best_one is None:
            raise ValueError(
                f"no trial of {folder} has measured {sweep.metric.name}; there is no best one to train"
            )
        if (here := mlflow_registry.default_tracking_uri(base.run.work)) != sweep.tracking_uri:
            raise ValueError(
                f"the sweep is in MLflow at {sweep.tracking_uri}, and networks would be registered at {here}; "
                f"set MLFLOW_TRACKING_URI={sweep.tracking_uri}"
            )
        config = overridden(base, best_one.values)
        config = override(config, {"seed": config.seed if seed is None else seed})
        name = f"{sweep.name}-best-{best_one.id}-seed-{config.seed}"
        config = override(config, {"run.name": name, "run.publish": True})
        return cls(folder, best_one.id, sweep.parent_run, sweep.tracking_uri, config)

    def run(self) -> dict[str, str]:
        """Train, or resume, unless it is finished.

        Returns:
            The versions that were registered, by name.

        Raises:
            WRONG_INPUT: see `trainer.components`.
            KeyboardInterrupt: asked to stop.
            SystemExit: with code 1, the training broke.
        """
        run = RunFolder(Path(self.config.run.work) / self.config.run.name)
        if not run.is_finished:
            self._train(run)
        if not run.is_finished:
            raise KeyboardInterrupt("stopped; python -m tuner promote with the same words goes on")
        if not run.is_delivered:
            deliver(run, self.config, Screen(enabled=True), self.tracking_uri)
        return {name: str(run.results["registered"][name]) for name in judged(self.config)}

    def _train(self, run: RunFolder) -> None:
        resume = bool(Checkpoints(run.checkpoints, keep=1).list())
        if run.path.exists() and not resume:
            shutil.rmtree(run.path)  # it ended before its first checkpoint
        hooks = Hooks(
            parent_run=self.parent_run,
            tracking_uri=self.tracking_uri,
            tags={"sweep": self.folder.name, "retrains": self.trial},
        )
        with StopRequest() as stop, Session.open(self.config, resume=resume, hooks=hooks) as session:
            session.train(stop)


def judged(config: Config) -> list[str]:
    """Registered names of what may become a champion: the recipe's colorizer, and the guide of its objective."""
    recipe = config.recipe.build()
    return [recipe.colorizer.name, *([recipe.objective] if recipe.objective else [])]


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Comparison of the new networks with the champions."""

    config: Config
    """Of the new networks; benchmarks have the protocol of its validation."""
    versions: dict[str, str]
    """Of the new networks, by registered name."""
    photos: Path
    limit: int | None
    metric: str
    out: Path
    """Folder for the benchmarks."""

    @property
    def work(self) -> Path:
        """Work folder, which holds the registry where no server is set."""
        return Path(self.config.run.work)

    def decide(self) -> int:
        """Decide on the colorizer, then on the guide with whichever colorizer is the champion by then.

        Returns:
            0 when both are champions, else 3.

        Raises:
            ValueError, OSError: as `evaluator benchmark` and `evaluator promote`.
        """
        colorizer, *guides = judged(self.config)
        return max(self._colorizer(colorizer, guides), *(self._guide(guide, colorizer) for guide in guides), 0)

    def _colorizer(self, name: str, guides: Sequence[str]) -> int:
        old, new = self._champion(name), self.versions[name]
        if old == new:
            return self._already(name)
        challenger = self._measure((name, new), {guide: self.versions[guide] for guide in guides})
        # Its clicks are random ones: the guide is there for the next question.
        others = {guide: self._champion(guide) or self.versions[guide] for guide in guides}
        champion = self._measure((name, old), others) if old else None
        return self._judge(challenger, champion, evaluation.COLORIZER)

    def _guide(self, name: str, of: str) -> int:
        old, new = self._champion(name), self.versions[name]
        if old == new:
            return self._already(name)
        colorizer = of, self._champion(of) or self.versions[of]
        challenger = self._measure(colorizer, {name: new})
        champion = self._measure(colorizer, {name: old}) if old else None
        return self._judge(challenger, champion, POLICY)

    def _judge(self, challenger: Path, champion: Path | None, network: str) -> int:
        return evaluation.main(
            challenger=challenger,
            champion=champion,
            metric=self.metric,
            network=network,
            first=champion is None,
            work=self.work,
        )

    def _measure(self, colorizer: tuple[str, str], guides: Mapping[str, str]) -> Path:
        """Folder of a benchmark of registered versions, measured now unless it exists."""
        versions = [colorizer, *guides.items()]
        out = self.out / "_".join(f"{name}-{version}" for name, version in versions)
        if (out / SUMMARY_FILE).exists():
            return out
        validation = self.config.validation
        options = Options(
            colorizer="models:/{}/{}".format(*colorizer),
            guide=tuple((f"models:/{name}/{version}",) for name, version in guides.items()),
            photos=self.photos,
            limit=self.limit,
            out=out,
            policies=(BASELINE,),
            clicks=tuple(map(str, validation.clicks)),
            hint_size=validation.hint_size,
            size=self.config.data.image_size,
            threads=self.config.engine.threads,
            resume=True,
            work=self.work,
        )
        Benchmark.open(options, Ranks.start()).run()
        return out

    def _champion(self, name: str) -> str | None:
        return mlflow_registry.champion(mlflow_registry.default_tracking_uri(self.work), name)

    def _already(self, name: str) -> int:
        print(
            f"models:/{name}@{mlflow_registry.CHAMPION} is version {self.versions[name]}, which was trained here"
        )
        return 0


def _validation_photos(config: Config, folder: Path) -> Path:
    """Validation photos of the trainings as lossless files; correct files are left alone.

    A benchmark is continued only on files that nobody has written since.
    """
    photos, _ = open_validation(config.data, config.validation.photos)
    folder.mkdir(parents=True, exist_ok=True)
    for index, photo in enumerate(photos):
        png, file = io.BytesIO(), folder / f"{index:05}.png"
        Image.fromarray(photo.permute(1, 2, 0).numpy()).save(png, "PNG")
        if not file.exists() or file.read_bytes() != png.getvalue():
            write_atomically(file, png.getvalue())
    return folder
