"""The command line of the benchmark."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from evaluator import presets
from evaluator.robot import Robot

Words = tuple[str, ...]
Repeated = Annotated[tuple[Words, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure a colorizer under click policies, photo by photo.

    Lists take spaces or commas: `--clicks 0,1,5` or `--clicks 0 1 5`. Runs under `accelerate launch -m evaluator
    benchmark ...` too; the processes share the photos.
    """

    colorizer: str
    """What colours: models:/NAME@ALIAS, models:/NAME/VERSION, a model folder, a .pt2 file with its contract; or
    kernel or levin, which need no network."""
    photos: Path
    """A folder or a zip of photos, or shards (a folder with manifest.json, or that file)."""
    limit: int | None = None
    """Take only the first so many of them: by name, or in the manifest's order."""
    out: Path
    """Folder for the results: results.parquet, results.json, report.html."""
    guide: Repeated = ()
    """What proposes clicks, as --colorizer; several, or the flag again. Measured as guide-blind, guide-oracle."""
    preset: presets.Name | None = None
    """A paper's experiment: its protocol, and its figures beside ours. Other flags still win."""
    run: Path | None = None
    """Folder of a training, for thesis-table-4.2: its validation after each cycle."""
    policies: Words = ()
    """What places the clicks, beside random and every --guide; default: all that do not try clicks; or: all."""
    clicks: Words = ()
    """Numbers of clicks at which is measured; default: 0,1,2,5,10,20,30,50,100."""
    metrics: Words = ()
    """What is measured; default: all that can be measured here."""
    nri: Words = ()
    """Clicks to reach a level, such as rgb_psnr=25 (the default, with ab_psnr=30)."""
    fid: Words = ()
    """Also the FID of each policy at these numbers of clicks; every one costs one more pass over the photos."""
    hint_size: int | None = None
    """Side of a click's stamp in pixels; default 1."""
    size: int | None = None
    """Side of the largest centred square after resizing, in pixels; default 256."""
    seed: int = 0
    """Of the policies' and the robot's noise, and of the bootstrap."""
    robot: Robot = field(default_factory=Robot)
    """The simulated user; exact unless told otherwise."""
    grey: bool = False
    """Measure grey photos too. They are left out, named and counted otherwise: their true colours are unknown."""
    least_side: int = 16
    """Leave out photos with a shorter side, in pixels; those between it and --size are enlarged and counted."""
    batch_size: int = 0
    """Photos between two saves, and on a GPU at a time; 0: 32 on a GPU, on a CPU at least 8 and 4 per thread.
    Changes speed and memory, not results."""
    workers: int = 2
    """Threads that decode ahead."""
    threads: int = 0
    """CPU threads for the networks; 0: the cores divided by the processes on this machine."""
    device: str = "auto"
    """cpu, cuda, cuda:1...; auto: this process's GPU where there is one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the networks. bf16 moves PSNR by some 0.01 dB, which is a reported digit: not for numbers to publish."""
    ruler: bool = True
    """Also measure, as "no network", what random clicks give without one (kernel): a colorizer below that has not
    learned to use clicks."""
    gallery: bool = True
    """Show the worst and best photos in the report."""
    resume: bool = False
    """Continue what is in --out; photos that are done are not measured again."""
    mlflow: Literal["auto", "on", "off"] = "auto"
    """Log figures and files; auto: where the colorizer came from a registry or MLFLOW_TRACKING_URI is set."""
    work: Path = Path("runs")
    """Work folder whose mlflow.db is the registry where MLFLOW_TRACKING_URI is not set."""
