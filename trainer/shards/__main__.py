"""Make shards: `python -m trainer.shards SOURCE... OUT`, or describe others' tars: `... index URL...`.

The first form turns COCO's zips, folders and single photos into tars of photos with a `manifest.json` and a
`report.json` that names every file left out and why. It uses all cores, shows its progress, and continues where
a killed run stopped. The second form writes a manifest for tars that exist already, local or remote.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from evaluator.photos.manifest import FILE_NAME, ShardError, save
from trainer.data.storage import expand, is_local, local_path
from trainer.shards.build import REPORT_NAME, StoreSettings, Summary, build_all, plan_jobs
from trainer.shards.index import index_shards

_NAMES_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class MakeOptions:
    """Turn photos into shards for training.

    To describe tars that exist already: python -m trainer.shards index URL... [--out manifest.json]
    """

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE... OUT")]
    """Zips (COCO's train2017.zip), folders and photos; the last one is the folder to write to."""
    shard_size: int = 1000
    """Files per shard."""
    short_side: int | None = None
    """Shrink photos to this short side in pixels (larger than what you train on; 272 suits 256)."""
    quality: int | None = None
    """JPEG quality, 1 to 95. Without this and --short-side the photos' bytes stay as they are."""
    max_grey_share: float | None = None
    """Leave out photos of which more than this share of the pixels is near grey (chroma below 5); 0.7 is usual."""
    seed: int = 0
    """Shuffles the photos over the shards."""
    shuffle: bool = True
    """Shuffle the photos; otherwise they stay sorted by name."""
    jobs: int | None = None
    """Processes; default: one per core."""
    replace: bool = False
    """Replace a finished set of other photos or settings in that folder."""


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """Write the manifest of tars that exist already: paths, http(s)://, s3:// or pipe: URLs."""

    urls: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="URL...")]
    """The tars, with braces for many: 's3://bucket/coco-{000..117}.tar'."""
    out: Path | None = None
    """Where to write it; default: manifest.json beside local tars, else in the current folder."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, 1 for a failure on the way, or 2 for bad input."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    console, problems = Console(), Console(stderr=True)
    try:
        if words[:1] == ["index"]:
            _index(tyro.cli(IndexOptions, prog="python -m trainer.shards index", args=words[1:]), console)
        else:
            _make(tyro.cli(MakeOptions, prog="python -m trainer.shards", args=words), console)
    except (ValueError, ShardError) as error:
        problems.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 2
    except (OSError, RuntimeError) as error:
        problems.print(
            f"error: {error}; finished shards are kept: run the same command again",
            style="red",
            markup=False,
            soft_wrap=True,
        )
        return 1
    return 0


def _make(options: MakeOptions, console: Console) -> None:
    if len(options.paths) < 2:
        raise ValueError("give at least one source and the folder to write to: SOURCE... OUT")
    *sources, out = options.paths
    settings = StoreSettings(
        short_side=options.short_side, quality=options.quality, max_grey_share=options.max_grey_share
    )
    seed = options.seed if options.shuffle else None
    jobs = plan_jobs(sources, out, settings, options.shard_size, seed)
    if options.jobs is not None and options.jobs < 1:
        raise ValueError(f"--jobs is {options.jobs}; give at least 1")
    processes = options.jobs or _cores()
    with _progress(console) as progress:
        bar = progress.add_task("photos", total=sum(len(job.files) for job in jobs))
        summary = build_all(
            jobs, out, processes, lambda count: progress.advance(bar, count), replace=options.replace
        )
    _print_summary(summary, out, console)


def _print_summary(summary: Summary, out: Path, console: Console) -> None:
    shards = summary.manifest.shards
    reused = f", {summary.reused} of them from an earlier run" if summary.reused else ""
    size = sum(shard.bytes for shard in shards) / 2**20
    stored = f"stored {summary.manifest.samples} of {summary.files} files"
    _say(console, f"{stored} in {len(shards)} shards{reused}, {size:.1f} MiB")
    for reason, names in summary.dropped.items():
        shown = "; ".join(names[:_NAMES_SHOWN]) + ("; ..." if len(names) > _NAMES_SHOWN else "")
        _say(console, f"left out, {reason}: {len(names)}: {shown}")
    _say(console, f"all names: {out / REPORT_NAME}\nmanifest:  {out / FILE_NAME}  {summary.manifest.hash[:12]}")
    _say(console, f"train on them with: --data.train {out}")


def _index(options: IndexOptions, console: Console) -> None:
    urls = expand(options.urls)
    out = options.out or _beside(urls)
    with _progress(console) as progress:
        bar = progress.add_task("tars", total=len(urls))
        manifest, broken, others = index_shards(urls, out, lambda count: progress.advance(bar, count))
    save(manifest, out)
    _say(console, f"{out}: {manifest.samples} photos in {len(urls)} tars, {manifest.image_sizes}")
    if broken:
        _say(console, f"left out, not an image: {len(broken)}: {'; '.join(broken)}")
    if others:
        _say(console, f"left out, no photos by their names: {dict(others)}")
    _say(console, f"keep it beside the tars, or train with it: --data.train {out}")


def _say(console: Console, text: str) -> None:
    """Print as it is: paths are neither wrapped nor colored."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _beside(urls: Sequence[str]) -> Path:
    folders = {os.path.dirname(local_path(url)) for url in urls if is_local(url)}
    together = len(folders) == 1 and all(map(is_local, urls))
    return Path(folders.pop() if together else ".") / FILE_NAME


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console)


if __name__ == "__main__":
    sys.exit(main())
