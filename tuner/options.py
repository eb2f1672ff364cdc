"""The command line of a sweep."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

Words = tuple[str, ...]
Repeated = Annotated[tuple[Words, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Search over the trainer's settings. Other commands: `python -m tuner report | promote | bench --help`."""

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
