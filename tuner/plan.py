"""Plan of a sweep, made from options or read back from its folder, with everything checked before it starts."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from evaluator.registry.mlflow_registry import default_tracking_uri
from evaluator.system.environment import PACKAGES, commit, machine, versions
from evaluator.system.locks import alone
from trainer.config import Config, flatten, override
from trainer.config.overrides import config_of, nearest, overridden, read_config
from trainer.data.loader import open_loader
from trainer.run_folder import as_json
from tuner.config import Budget, Options, Repeated
from tuner.objectives import check_measurable, measures_of
from tuner.records import SWEEP_FILE, Measure, Sweep, read_trials
from tuner.resources import Machine, check_room, default_gpus, here
from tuner.search.presets import PRESETS, Preset
from tuner.search.space import Domain, Space, read_space


@dataclass(frozen=True)
class Course:
    """Photos seen at the end of each stage, where a trial validates and reports."""

    ends: tuple[int, ...]
    """Rising, one for each stage."""
    shared: int
    """Photos of the pretraining that a trial does not spend itself."""

    @classmethod
    def of(cls, config: Config, *, share_pretraining: bool) -> "Course":
        """Course of a training with this config.

        Raises:
            ValueError: its training photos cannot be used.
        """
        loader = open_loader(config.data, seed=config.seed, rank=0, world_size=1, pin_memory=False)
        photos, batch_size = loader.samples_per_epoch, config.data.batch_size
        loader.close()
        recipe = config.recipe.build()
        ends = list(accumulate(stage.batches(photos, batch_size) * batch_size for stage in recipe.stages))
        shares = share_pretraining and recipe.shared_prefix is not None and len(ends) > 1
        return cls(tuple(ends), ends[0] if shares else 0)

    @property
    def own(self) -> tuple[int, ...]:
        """Photos that the trial itself was trained on at each of its reports, excluding the shared pretraining."""
        return tuple(end - self.shared for end in self.ends if end > self.shared)

    @property
    def shortest(self) -> int:
        """Photos of the trial's shortest own stage."""
        return min(end - start for start, end in pairwise([0, *self.own]))


SWEEPS = "sweeps"
NOT_SEARCHED = (
    "recipe.rounds.",
    "run.",
    "validation.",
    "engine.threads",
    "data.batch_size",
    "data.image_size",
    "data.manifest",
    "data.train",
    "data.validation",
)
"""Beginnings of the names of settings that all trials of a sweep share."""
FINISHED = "finished"
"""Option in `sweep.json`: when the sweep came to its end; absent before."""
FIRST_BUDGET = "first_budget"
"""Option in `sweep.json`: the budget that the search was made for, where a resumed sweep has another."""
RESUMABLE = ("name", "work", "resume", "budget", "promote", "address")
"""Options that a resumed sweep takes; what it was started with stays."""
POPULATION = 8
"""Trials of population-based training where the budget does not say."""
_DEFAULT_METRICS = ("ab_psnr", "ab_ssim", "dispersion")
Machines = Callable[[Options], Sequence[Machine]]
"""Where the trials will run."""
_VERSIONS = (*PACKAGES, "ray", "optuna", "mlflow", "accelerate")


@dataclass(frozen=True)
class Plan:
    """A sweep with its settings as objects."""

    folder: Path
    """Absolute."""
    sweep: Sweep
    base: Config
    """What the searched values replace parts of; its work folder is absolute."""
    space: Space
    budget: Budget
    course: Course
    """Of the base config."""
    options: Options

    @property
    def mutated(self) -> tuple[str, ...]:
        """Settings that population-based training perturbs."""
        named = words(self.options.mutate)
        schedules = tuple(
            domain.path
            for domain in self.space.domains
            if domain.kind != "choice"
            and domain.path.startswith(("recipe.choice.temperature.", "recipe.choice.tau."))
        )
        return named or schedules

    @property
    def population(self) -> int:
        """Number of trials in population-based training."""
        return self.budget.trials or POPULATION

    @property
    def busy(self) -> str:
        """Message for a sweep that another process runs."""
        return f"sweep {self.folder} is running in another process; wait for it, or stop it"

    @classmethod
    def new(cls, options: Options, machines: Machines = lambda _: here()) -> "Plan":
        """A new sweep: check everything and make its folder.

        Args:
            options: of the command line.
            machines: asked last, as it may have to connect to a cluster.

        Raises:
            ValueError: something is wrong with the options; the message says what to do.
        """
        preset = PRESETS[options.preset]()
        base = _base(options, preset)
        domains = read_space(options.space) if options.space else preset.domains
        work = Path(base.run.work)
        name = options.name or f"{options.preset}-{time.strftime('%Y%m%d-%H%M%S')}"
        if Path(name).name != name:
            raise ValueError(f"--name is {name!r}; give a plain folder name")
        options = replace(options, name=name)
        scheduler = options.scheduler or preset.scheduler
        search = options.search or ("random" if scheduler == "pbt" else preset.search)
        space = Space(tuple(domains), base)
        sweep = Sweep(
            name=name,
            started=datetime.now().astimezone().isoformat(timespec="seconds"),
            commit=commit(),
            machine=machine(),
            versions=versions(_VERSIONS),
            seed=options.seed,
            search=search,
            scheduler=scheduler,
            budget=options.budget or (f"{len(space.grid())}" if search == "grid" else preset.budget),
            metrics=tuple(_measure(name, base) for name in words(options.metric) or _DEFAULT_METRICS),
            space=tuple(domain.as_json() for domain in domains),
            base=as_json(base),
            tracking_uri=default_tracking_uri(work),
            options=_options_as_json(options),
        )
        plan = cls._of(work / SWEEPS / name, sweep)
        plan._check()
        plan = plan._for(machines(options), preset)
        try:
            plan.folder.mkdir(parents=True)
        except FileExistsError:
            raise ValueError(
                f"sweep {plan.folder} exists; give another --name, or --resume to continue it"
            ) from None
        plan.sweep.write(plan.folder)
        return plan

    @classmethod
    def resumed(cls, options: Options, machines: Machines = lambda _: here()) -> "Plan":
        """The newest unfinished sweep, or the named one; with another budget or cluster where given.

        Raises:
            ValueError: there is none, it runs, or there is no room for it; an option that cannot be changed.
        """
        defaults = {item.name: item.default for item in fields(Options)}
        given = [f"--{name}" for name in defaults if getattr(options, name) != defaults[name]]
        if wrong := [name for name in given if name[2:] not in RESUMABLE]:
            raise ValueError(
                f"--resume keeps what the sweep was started with, and {', '.join(wrong).replace('_', '-')} would "
                f"have no effect; leave it out. It takes {', '.join(f'--{name}' for name in RESUMABLE)}"
            )
        folder = options.work.resolve() / SWEEPS
        names = [path.parent for path in folder.glob(f"{options.name or '*'}/{SWEEP_FILE}")]
        unfinished = [path for path in names if FINISHED not in Sweep.read(path).options]
        if not unfinished:
            state = "all sweeps are finished" if names else f"there is no sweep {options.name or 'at all'}"
            raise ValueError(f"nothing to resume: {state} in {folder}")
        newest = max(unfinished, key=lambda path: (path / SWEEP_FILE).stat().st_mtime)
        plan = cls.read(newest)
        with alone(plan.folder, plan.busy):
            plan = plan._changed(options)
            check_room(plan.options, machines(plan.options))
            plan.sweep.write(plan.folder)
        return plan

    @classmethod
    def read(cls, folder: Path) -> "Plan":
        """The plan in a sweep's folder.

        Raises:
            ValueError: there is no sweep, or its photos are gone.
        """
        return cls._of(folder, Sweep.read(folder))

    @classmethod
    def _of(cls, folder: Path, sweep: Sweep) -> "Plan":
        base = config_of(sweep.base)
        options = _options_from_json(sweep.options)
        return cls(
            folder=folder,
            sweep=sweep,
            base=base,
            space=Space(tuple(map(Domain.from_json, sweep.space)), base),
            budget=Budget.parse(sweep.budget),
            course=Course.of(base, share_pretraining=options.share_pretraining),
            options=options,
        )

    def _for(self, machines: Sequence[Machine], preset: Preset) -> "Plan":
        """The plan with the GPUs that each trial gets on these machines."""
        options = replace(self.options, gpus=default_gpus(self.options, preset.gpus, machines))
        check_room(options, machines)
        return replace(self, options=options, sweep=replace(self.sweep, options=_options_as_json(options)))

    def _changed(self, options: Options) -> "Plan":
        """The plan with the budget, cluster and promotion of a resumed sweep's options, where given."""
        budget = Budget.parse(options.budget or self.sweep.budget)
        if budget.trials != self.budget.trials:
            begun = len(read_trials(self.folder))
            if self.sweep.scheduler == "pbt":
                raise ValueError(f"--budget {options.budget}: pbt's population stays at {self.population} trials")
            if self.budget.trials and begun >= self.budget.trials:
                raise ValueError(
                    f"--budget {options.budget}: all {begun} trials of the sweep have begun, and Ray's search has "
                    "ended; change time or photos alone, or start another sweep"
                )
        changes: dict[str, Any] = {
            "address": options.address or self.options.address,
            "promote": options.promote or self.options.promote,
        }
        kept = replace(self.options, **changes)
        entries = {**self.sweep.options, **changes}
        if budget != self.budget:
            entries.setdefault(FIRST_BUDGET, self.sweep.budget)
        sweep = replace(self.sweep, budget=options.budget or self.sweep.budget, options=entries)
        return replace(self, budget=budget, options=kept, sweep=sweep)

    def _check(self) -> None:
        """Refuse contradicting options."""
        sweep = self.sweep
        check_measurable([measure.name for measure in sweep.metrics], self.base)
        for domain in self.space.domains:
            if domain.path.startswith(NOT_SEARCHED):
                raise ValueError(
                    f"{domain.path} cannot be searched: trials would report after other photos, measure other "
                    "things, or be told another value; give it to the base by --set"
                )
        self._refuse_flat_schedules()
        if sweep.scheduler == "pbt":
            if sweep.search != "random":
                raise ValueError(f"--search {sweep.search} has no effect with pbt, which draws its population")
            if self.options.workers > 1:
                raise ValueError("pbt with --workers above 1 could copy no weights; use one worker")
            if self.options.parallel:
                raise ValueError(
                    "--parallel has no effect with pbt, whose population runs as there is room for it"
                )
            if self.population < 4:
                raise ValueError(
                    f"a population of {self.population} is too small; give a --budget of 4 trials or more"
                )
            if not self.mutated:
                raise ValueError(
                    "pbt has nothing to perturb: no schedule is searched; name settings with --mutate"
                )
            for path in self.mutated:
                self.space.domain(path)
        elif self.options.mutate:
            raise ValueError("--mutate has no effect without --scheduler pbt")
        if sweep.search == "grid":
            self.space.grid()

    def _refuse_flat_schedules(self) -> None:
        """Refuse schedule shapes whose trials would all be the same training."""
        settings, searched = flatten(self.base), {domain.path for domain in self.space.domains}
        for group in ("recipe.choice.temperature", "recipe.choice.tau"):
            start, end = f"{group}.start", f"{group}.end"
            if f"{group}.shape" in searched and not {start, end} & searched and settings[start] == settings[end]:
                raise ValueError(
                    f"{group}.shape is searched, but every shape stays at {settings[start]}; give another end by "
                    f"--set {end}=VALUE, or search it too"
                )


def words(groups: Repeated) -> tuple[str, ...]:
    """Values of a repeated option, which may hold several words or commas."""
    return tuple(word for group in groups for part in group for word in part.split(",") if word)


def _base(options: Options, preset: Preset) -> Config:
    base = read_config(options.config) if options.config else preset.base
    values: dict[str, Any] = {}
    for group in options.set:
        for word in group:
            name, equals, text = word.partition("=")
            if not equals:
                raise ValueError(f"--set {word!r}: write NAME=VALUE, such as recipe.loss.entropy=0.02")
            values[name] = _value(text)
    base = overridden(base, values)
    return override(base, {"run.work": str(options.work.resolve()), "run.name": ""})


def _value(text: str) -> Any:
    """A JSON value; text that is no JSON stays text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _measure(name: str, base: Config) -> Measure:
    known = measures_of(base)
    if name not in known:
        raise ValueError(f"there is no metric {name!r}{nearest(name, known)}; have {', '.join(known)}")
    return known[name]


def _options_as_json(options: Options) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(options), default=str))


def _options_from_json(content: dict[str, Any]) -> Options:
    """Options from the output of `_options_as_json`, or from a file that also has other entries."""
    names = [name for name in Options.__dataclass_fields__ if name in content]
    values = {name: content[name] for name in names}
    for name in ("set", "metric", "mutate"):
        values[name] = tuple(map(tuple, values[name]))
    for name in ("work", "config", "space"):
        values[name] = Path(values[name]) if values[name] else None
    return Options(**values)
