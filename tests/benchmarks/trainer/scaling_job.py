"""A job of the benchmark `scaling`: some processes that do, step by step, what a socket tells them; and its owner.

The benchmark starts one with `started` and asks it (`RunningJob`). The job itself runs

    accelerate launch -m tests.benchmarks.trainer.scaling_job --socket FILE ...

Its first process hears a question, one line of JSON, tells the others, and answers with what all of them found.
"""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import tyro
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from evaluator.system.interrupts import StopRequest
from tests import ROOT
from tests.benchmarks.harness import Refused
from tests.benchmarks.trainer.trainings import PROGRESS, build, one_of_each
from trainer.config import override
from trainer.config.presets import PRESETS
from trainer.data.batch import Batch
from trainer.data.embedded import EmbeddedLoader
from trainer.engines import Cluster, Engine
from trainer.loop import Training

START_SECONDS, ANSWER_SECONDS, END_SECONDS = 300.0, 600.0, 60.0


@dataclass
class RunningJob:
    """A job that waits for questions."""

    processes: int
    running: subprocess.Popen[bytes]
    errors: Path
    """What it writes to stderr."""
    lines: Any
    """The socket's file, for questions and answers."""

    def ask(self, question: str, **words: Any) -> Any:
        """Ask the job's processes, and wait for their answer.

        Raises:
            Refused: the job died or does not answer, with the end of its errors.
        """
        try:
            self.lines.write(json.dumps({"ask": question, **words}) + "\n")
            self.lines.flush()
            answer = self.lines.readline()
        except OSError as error:
            raise Refused(f"{self.processes} processes: {error} at {question}\n{tail(self.errors)}") from error
        if not answer:
            raise Refused(f"{self.processes} processes died at {question}\n{tail(self.errors)}")
        return json.loads(answer)

    def end(self) -> None:
        """Let the processes leave their group in peace."""
        self.lines.write("null\n")
        self.lines.flush()
        self.running.wait(END_SECONDS)


def tail(file: Path, lines: int = 30) -> str:
    """The last lines of a file."""
    return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])


@contextmanager
def started(processes: int, preset: str, photos: int, threads: int, folder: Path) -> Iterator[RunningJob]:
    """Start a job as `launch/README.md` says, and end it with all of its processes.

    Args:
        processes: how many it has.
        preset: networks and photo size.
        photos: the most that a process will be asked for.
        threads: CPU threads of each process.
        folder: for the socket and the job's errors.

    Raises:
        Refused: it did not start.
    """
    address, errors = folder / f"{processes}.socket", folder / f"{processes}.errors"
    cpu = {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true"}
    environment = {**os.environ, **cpu, "OMP_NUM_THREADS": str(threads)}
    with socket.socket(socket.AF_UNIX) as server, errors.open("wb") as stderr:
        server.bind(str(address))
        server.listen(1)
        server.settimeout(1)
        options = ("--preset", preset, "--photos", str(photos), "--threads", str(threads))
        running = subprocess.Popen(
            _command(processes, "--socket", str(address), *options),
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,
        )
        try:
            with _accept(server, running, errors) as connection:
                connection.settimeout(ANSWER_SECONDS)
                lines = connection.makefile("rw")
                try:
                    job = RunningJob(processes, running, errors, lines)
                    yield job
                    job.end()
                finally:
                    with suppress(OSError):  # a job that died does not read what is left
                        lines.close()
        finally:
            if running.poll() is None:  # its session holds all of its processes
                os.killpg(running.pid, signal.SIGKILL)
                running.wait()


def _command(processes: int, *options: str) -> list[str]:
    several = ("--multi_gpu", "--main_process_port", "0") if processes > 1 else ()
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", *several, "--num_processes", str(processes)),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("-m", "tests.benchmarks.trainer.scaling_job", *options),
    ]


def _accept(server: socket.socket, running: subprocess.Popen[bytes], errors: Path) -> socket.socket:
    for _ in range(int(START_SECONDS)):
        try:
            return server.accept()[0]
        except TimeoutError:
            if running.poll() is not None:
                raise Refused(f"a job ended with code {running.returncode}\n{tail(errors)}") from None
    raise Refused(f"a job did not start in {START_SECONDS:.0f} s\n{tail(errors)}")


@dataclass(frozen=True, kw_only=True)
class JobArguments:
    """Wait for questions and answer them."""

    socket: Path
    """Where the questions come from."""
    preset: Literal["tiny", "small", "paper"] = "tiny"
    """Networks and photo size."""
    photos: int = 8
    """The most photos per process that will be asked for."""
    threads: int = 1
    """CPU threads per process."""


class Job:
    """A training on all processes, and what can be asked about it."""

    def __init__(self, arguments: JobArguments, scratch: Path) -> None:
        config = override(
            PRESETS[arguments.preset](), {"recipe.loss.perceptual": "off", "engine.threads": arguments.threads}
        )
        self.cluster = Cluster(config.engine)
        # No batch is larger than this one, so that none is cut into micro-batches.
        config = override(config, {"data.batch_size": arguments.photos * self.cluster.world_size})
        self.training = build(config, self.cluster, Training, scratch)
        self.stages = one_of_each(self.training)
        # Commands travel over gloo: processes that wait in NCCL keep their GPU busy, which other jobs measure on.
        self.control: dist.ProcessGroup | None = None
        if self.cluster.world_size > 1:
            group = dist.new_group(backend="gloo")
            assert isinstance(group, dist.ProcessGroup), "every process is a member"
            self.control = group
        loader = EmbeddedLoader(
            image_size=config.data.image_size,
            batch_size=arguments.photos,
            rank=self.cluster.rank,
            world_size=self.cluster.world_size,
        )
        self.batch = next(iter(loader.batches(0)))

    def share(self, value: Any) -> Any:
        """The first process's value."""
        if self.control is None:
            return value
        values = [value]
        dist.broadcast_object_list(values, group=self.control)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Every process's value; also a barrier."""
        if self.control is None:
            return [value]
        values: list[Any] = [None] * self.cluster.world_size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def describe(self) -> dict[str, Any]:
        """What the job runs on."""
        return {
            "stages": [stage.name for stage in self.stages],
            "device": self.cluster.device.type,
            "precision": self.cluster.precision,
            "image_size": self.training.config.data.image_size,
            "threads": self.cluster.threads,
        }

    def step(self, stage: int, photos: int, silent: bool = False) -> float:
        """Seconds of one step on so many photos per process, of the slowest; `silent`: gradients stay apart."""
        return max(self.gather(self._timed(lambda: self._train(stage, photos, silent=silent))))

    def reduce(self, size: int) -> float:
        """Seconds of an all-reduce of so many bytes by itself."""
        values = torch.zeros(max(1, size // 4), device=self.cluster.device)
        return max(self.gather(self._timed(lambda: dist.all_reduce(values))))

    def check(self) -> dict[str, bool]:
        """Whether steps are what they are called: weights stay alike while gradients are shared, and only then."""
        start = self._digest()
        for _ in range(2):
            self._train(0, 2, silent=False)
        shared = self.gather(self._digest())
        self._train(0, 2, silent=True)
        apart = self.gather(self._digest())
        return {
            "trained": start != shared[0],
            "alike": len(set(shared)) == 1,
            "apart": len(set(apart)) == len(apart),
            "sound": self.training.progress.skipped_steps == 0,
        }

    def collectives(self, stage: int, photos: int) -> dict[str, float]:
        """Of one profiled step: seconds in which some collective was under way, their number, and the step's."""
        kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (self.cluster.device.type == "cuda")
        self.gather(None)
        # acc_events: without it the profiler warns that it forgets earlier cycles.
        with profile(activities=kinds, acc_events=True) as profiler:
            seconds = self._seconds(lambda: self._train(stage, photos, silent=False))
        marks = ("nccldev", "ncclkernel") if self.cluster.device.type == "cuda" else ("gloo:",)
        spans = sorted(
            (event.time_range.start, event.time_range.end)
            for event in profiler.events() or ()
            if event.name.lower().startswith(marks)
        )
        found = {"busy": union(spans) / 1e6, "calls": float(len(spans)), "seconds": seconds}
        return self.gather(found)[0]

    def _timed(self, run: Callable[[], object]) -> float:
        self.gather(None)
        return self._seconds(run)

    def _seconds(self, run: Callable[[], object]) -> float:
        started = time.perf_counter()
        run()
        if self.cluster.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def _train(self, stage: int, photos: int, *, silent: bool) -> None:
        with unshared(list(self.training.engines.values())) if silent else ExitStack():
            self.training.step(self.stages[stage], PROGRESS, Batch(self.batch.rgb[:photos]), StopRequest())

    def _digest(self) -> str:
        """Of the weights that the first stage trains."""
        module = self.training.engines[self.stages[0].phases[0].trains[0]].module
        found = hashlib.sha256()
        for parameter in module.parameters():
            found.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()


@contextmanager
def unshared(engines: list[Engine]) -> Iterator[None]:
    """Keep DDP from reducing gradients.

    Raises:
        ValueError: the processes train in another way than DDP, which cannot be told so.
    """
    wrappers = [
        part for engine in engines for part in vars(engine).values() if isinstance(part, DistributedDataParallel)
    ]
    if dist.is_initialized() and dist.get_world_size() > 1 and len(wrappers) != len(engines):
        raise ValueError(f"{len(engines)} networks but {len(wrappers)} DDP wrappers; launch with DDP")
    with ExitStack() as stack:
        for wrapper in wrappers:
            stack.enter_context(wrapper.no_sync())
        yield


def union(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals that are sorted by their start."""
    length, reached = 0.0, float("-inf")
    for start, end in spans:
        length += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return length


def main(arguments: JobArguments) -> None:
    """Answer until told to end."""
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        job = Job(arguments, Path(scratch))
        lines = None
        if job.cluster.is_main:
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(str(arguments.socket))
            lines = stack.enter_context(connection.makefile("rw"))
        while question := job.share(json.loads(lines.readline() or "null") if lines else None):
            answer = getattr(job, question.pop("ask"))(**question)
            if lines:
                lines.write(json.dumps(answer) + "\n")
                lines.flush()
        job.cluster.close()


if __name__ == "__main__":
    main(tyro.cli(JobArguments))
