"""Command line of a sweep, and its budget of trials, time or photos."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

Words = tuple[str, ...]
Repeated = Annotated[tuple[Words, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Search over the trainer's settings. Other commands: `python -m tuner report | promote --help`."""

    preset: Literal["smoke", "small", "medium", "full"] = "small"
    """What to start from: smoke (32 px, minutes), small (64 px), medium (128 px, GPUs), full (the thesis)."""
    name: str = ""
    """The sweep's folder in WORK/sweeps; empty: the preset and the time."""
    work: Path = Path("runs")
    """Work folder: MLflow database, sweeps, shared pretraining, runs."""
    config: Path | None = None
    """Base training instead of the preset's, as `trainer/main.py --config` takes it (such as a best.json)."""
    set: Repeated = ()
    """Settings of the base training, such as: 'data.train=["shards/{000..117}.tar"]' seed=3."""
    space: Path | None = None
    """What is searched, as YAML, instead of the preset's; see tuner/README.md."""
    search: Literal["tpe", "random", "grid"] | None = None
    """How the next trial's settings are chosen; the presets say tpe (Optuna)."""
    scheduler: Literal["asha", "pbt", "none"] | None = None
    """asha stops trials that fall behind. pbt lets them copy a better one's weights and perturbs what --mutate
    names. The presets say asha."""
    budget: str = ""
    """20 (trials), 2h, 30m, '500k photos', or several: '40, 2h'. With pbt the trials are its population."""
    metric: Repeated = ()
    """What is measured, such as: ab_psnr lpips dispersion. The first decides, all are in the Pareto table; a list
    is in tuner/README.md. Default: ab_psnr ab_ssim dispersion."""
    mutate: Repeated = ()
    """Settings that pbt perturbs; default: the searched start, end and warmup of the schedules."""
    seed: int = 0
    """Of the search. The trainings have the base training's seed; search over `seed` to see its spread."""
    parallel: int = 0
    """Trials at a time, at most; 0: as many as there are cores or GPUs for."""
    cpus: float = 1.0
    """Cores for each worker of a trial."""
    gpus: float | None = None
    """GPUs for each worker of a trial; a fraction shares one, 0 keeps trials off them. Default: the preset's, or
    0.25 where there are any (1 with several workers)."""
    workers: int = 1
    """Processes of each trial; several go through Ray Train."""
    threads: int = 0
    """CPU threads of each worker; 0: as many as it has whole cores."""
    share_pretraining: bool = True
    """Train ColorNet's first stage once for all trials that agree in it."""
    address: str = ""
    """Ray cluster: auto, or HOST:PORT; empty starts Ray on this machine for as long as it takes.
    WORK must then be a folder that every node sees."""
    give_up: int = 5
    """End the sweep when so many trials have failed and none has measured anything; 0: never."""
    resume: bool = False
    """Continue the sweep called --name, or the newest unfinished one. What it was started with stays; --budget,
    --address and --promote may be given anew."""
    promote: bool = False
    """Afterwards train the best again in full, and put it through the evaluator's promote."""

    def __post_init__(self) -> None:
        if self.workers < 1 or self.cpus <= 0 or min(self._counts) < 0:
            raise ValueError(
                f"--workers {self.workers} --cpus {self.cpus} --gpus {self.gpus} --threads {self.threads} "
                f"--parallel {self.parallel} --seed {self.seed} --give-up {self.give_up}: give at least one "
                "worker with some cores, and nothing below 0"
            )

    @property
    def _counts(self) -> tuple[int | float, ...]:
        return self.gpus or 0.0, self.threads, self.parallel, self.seed, self.give_up


MIN_STARTUP, MAX_STARTUP = 4, 10
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_THOUSANDS = {"": 1, "k": 1_000, "M": 1_000_000}
_TRIALS = re.compile(r"(\d+)( trials?)?")
_TIME = re.compile(r"(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s)?")
_PHOTOS = re.compile(r"(\d+(?:\.\d+)?)([kM]?) photos?")


@dataclass(frozen=True)
class Budget:
    """Limits of a sweep; None is unlimited."""

    trials: int | None = None
    """Trials that may start."""
    seconds: float | None = None
    """Wall time of the sweep, its interruptions left out."""
    photos: int | None = None
    """Photos that trials are trained on; a shared pretraining's do not count."""

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """A budget from text such as `20`, `20 trials`, `2h`, `1h30m`, `500k photos`, or several with commas.

        Raises:
            ValueError: it is none of these, or nothing at all is allowed.
        """
        limits: dict[str, float] = {}
        for part in map(str.strip, text.split(",")):
            name, amount = _amount(part)
            if amount <= 0:
                raise ValueError(f"the budget {text!r} allows nothing; give more than 0")
            if name in limits:
                raise ValueError(f"the budget {text!r} limits the {name} twice; give one number of {name}")
            limits[name] = amount
        whole = {name: int(amount) for name, amount in limits.items() if name != "seconds"}
        return cls(seconds=limits.get("seconds"), **whole)

    def spent(self, *, seconds: float, photos: int) -> str:
        """The limit that has been reached, as a sentence; empty while there is some left.

        The number of trials is not among them: a last trial that has started may finish.
        """
        if self.seconds is not None and seconds >= self.seconds:
            return f"{seconds / 60:.1f} minutes have passed"
        if self.photos is not None and photos >= self.photos:
            return f"{photos:,} photos have been trained on"
        return ""


def startup(trials: int | None) -> int:
    """Number of random trials before TPE learns: a quarter of the budget's, within 4 to 10."""
    if trials is None:
        return MAX_STARTUP
    return min(MAX_STARTUP, max(MIN_STARTUP, trials // 4))


def _amount(part: str) -> tuple[str, float]:
    if match := _TRIALS.fullmatch(part):
        return "trials", float(match[1])
    if match := _PHOTOS.fullmatch(part):
        return "photos", float(match[1]) * _THOUSANDS[match[2]]
    match = _TIME.fullmatch(part)
    if match and part:
        return "seconds", sum(float(match[unit] or 0) * length for unit, length in _SECONDS.items())
    raise ValueError(f"the budget {part!r} is no amount; write 20, 2h, 30m or '500k photos'")
