"""`python -m evaluator benchmark`: from the command line to results.parquet, results.json and report.html."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console

from evaluator import report
from evaluator.benchmark import mlflow_log, summary
from evaluator.benchmark.config import Options, Plan, make_plan, split
from evaluator.benchmark.console import progress, say, show
from evaluator.benchmark.distributed import Ranks
from evaluator.benchmark.measure import Piece, Task, fid_rows, measure, pieces
from evaluator.benchmark.networks import Networks, load_networks, make_policies
from evaluator.benchmark.presets import cycles_of
from evaluator.benchmark.store import ROWS_FILE, Coverage, merge, prepare, remove_parts
from evaluator.photos.dataset import FilePhotos, ShardPhotos, open_photos
from evaluator.photos.prefetch import Ready, read_ahead
from evaluator.protocol.finished import Finished, read_table
from evaluator.protocol.results import Results
from evaluator.registry.mlflow_registry import default_tracking_uri
from evaluator.system.threads import use_threads

MIN_BATCH_ON_CPU, PER_THREAD, BATCH_ON_GPU = 8, 4, 32


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Everything that one command measures, loaded and checked."""

    options: Options
    plan: Plan
    networks: Networks
    photos: FilePhotos | ShardPhotos
    task: Task
    ranks: Ranks
    cycles: list[dict[str, Any]]
    """Of the training that `--run` names: its validation after each cycle."""
    console: Console

    @classmethod
    def open(cls, options: Options, ranks: Ranks) -> "Benchmark":
        """Load photos and networks; a ValueError or ConnectionError says what is wrong with them."""
        device = ranks.device(options.device)
        plan = make_plan(options, options.batch_size or BATCH_ON_GPU)
        threads = use_threads(options.threads)
        if device.type == "cpu" and not options.batch_size:
            plan = plan.in_batches_of(max(MIN_BATCH_ON_CPU, PER_THREAD * threads))
        photos = open_photos(options.photos, options.limit)
        guides = split(word for words in options.guide for word in words)
        networks = load_networks(options.colorizer, guides, options.work, device, ruler=options.ruler)
        autocast = torch.bfloat16 if options.precision == "bf16" else None
        task = Task(
            colorizer=networks.colorizer,
            policies=make_policies(plan.policies, networks, autocast),
            photos=photos,
            protocol=plan.protocol,
            cut=plan.cut,
            metrics=plan.metrics,
            device=device,
            out=options.out,
            workers=options.workers,
            autocast=autocast,
            ruler=networks.ruler,
        )
        console = Console(quiet=not ranks.is_main)
        return cls(
            options=options,
            plan=plan,
            networks=networks,
            photos=photos,
            task=task,
            ranks=ranks,
            cycles=cycles_of(options.run, plan.protocol.clicks[-1]) if options.run else [],
            console=console,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What a continuation must have in common with the beginning."""
        stated = self.plan.stated()
        del stated["batch_size"]
        guides = {policy: guide.fingerprint for policy, guide in self.networks.guides.items()}
        return {
            **stated,
            "policies": list(self.task.policies),
            "metrics": list(self.plan.metrics),
            "colorizer": self.networks.colorizer.fingerprint,
            "guides": guides,
            "ruler": self.networks.ruler.fingerprint if self.networks.ruler else None,
            "photos": self.photos.fingerprint,
        }

    def run(self) -> None:
        """Measure what is left, then merge and report on rank 0."""
        done = self.ranks.from_main(lambda: prepare(self.options.out, self.identity, resume=self.options.resume))
        left = pieces(len(self.photos.names), done, self.plan.protocol.batch_size)
        if done:
            say(self.console, f"{len(done)} photos were measured before")
        self._measure(self.ranks.mine(left))
        self.ranks.wait()
        self.ranks.from_main(self._conclude)

    def _measure(self, mine: Sequence[Piece]) -> None:
        photos = sum(map(len, mine))
        if not photos:
            return
        with progress(self.console, photos, photos * self.task.clicks_per_photo, self.ranks.world_size) as counter:
            measure(self.task, mine, counter.click, lambda piece: counter.photo(len(piece)))

    def _conclude(self) -> None:
        """Merge, summarise, report and log; in this order, so that nothing measured can be lost."""
        out = self.options.out
        coverage = merge(out, self.plan.metrics)
        if not coverage.measured:
            reasons = "; ".join(f"{self.photos.names[i]}: {why}" for i, why in list(coverage.left_out.items())[:3])
            raise ValueError(f"none of {len(coverage.left_out)} photos can be measured: {reasons}")
        results = Results(protocol=self.plan.protocol, frame=read_table(out / ROWS_FILE))
        summary.save(out, self._summary(results, coverage))
        remove_parts(out)
        left_out = {self.photos.names[index]: why for index, why in coverage.left_out.items()}
        show(self.console, results, left_out, self.plan.not_measured)
        finished = Finished.read(out)
        page = report.build(finished, self._gallery(finished) if self.options.gallery else None)
        say(self.console, f"report: {page}")
        self._log(finished)

    def _summary(self, results: Results, coverage: Coverage) -> dict[str, Any]:
        plan = self.plan
        return summary.summarise(
            plan,
            self.networks,
            results,
            coverage,
            self.photos,
            self.options.photos,
            fid=fid_rows(self.task, plan.fid) if plan.fid else (),
            cycles=self.cycles,
        )

    def _gallery(self, finished: Finished) -> report.Gallery:
        """The worst and best photos, colored again."""
        picks = report.choose(finished)
        found = read_ahead(
            self.photos,
            [pick.index for pick in picks],
            self.plan.cut,
            workers=self.options.workers,
            depth=len(picks),
        )
        photos = {self.photos.names[one.index]: one.rgb for one in found if isinstance(one, Ready)}
        return report.render(
            finished,
            picks,
            photos,
            self.networks.colorizer,
            self.task.device,
            ruler=self.networks.ruler,
            autocast=self.task.autocast,
        )

    def _log(self, finished: Finished) -> None:
        options = self.options
        if not mlflow_log.wanted(options.mlflow, options.colorizer):
            return
        files = [path for path in sorted(options.out.iterdir()) if path.is_file() and path.name[0] != "."]
        uri = default_tracking_uri(options.work)
        with tempfile.TemporaryDirectory(prefix="figures-") as folder:
            files += report.save_figures(finished, Path(folder))
            run_id = mlflow_log.log_run(uri, options.out.resolve().name, finished.about, files)
        say(self.console, f"logged as run {run_id} in {uri}")


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Returns:
        The exit code, 0.

    Raises:
        ValueError: bad input.
        OSError: MLflow does not answer, or the disk is full; what was measured is kept, and --resume goes on.
    """
    options = tyro.cli(Options, prog="python -m evaluator benchmark", args=list(arguments))
    ranks = Ranks.start()
    try:
        Benchmark.open(options, ranks).run()
    except torch.OutOfMemoryError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{reason}; lower --batch-size and add --resume: what was measured is kept") from error
    finally:
        ranks.close()
    return 0
