"""Resources of a trial, and how many trials fit on the machines.

Ray gives a worker cores and GPUs of one machine only, and a share of a GPU from one GPU only.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from evaluator.system.environment import usable_cores
from tuner.config import Options

SHARED_GPU = 0.25
"""Of a GPU, for each trial where neither options nor preset say it and there are GPUs."""
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Machine:
    """Resources of this machine, or of one in a cluster."""

    cores: int | float
    gpus: int | float


@dataclass(frozen=True)
class Needs:
    """Resources of one trial."""

    workers: int
    cores: int | float
    """Of each worker."""
    gpus: int | float
    """Of each worker."""

    @classmethod
    def of(cls, options: Options) -> "Needs":
        """Resources by the options; several workers have whole cores, as many as threads."""
        several = options.workers > 1
        return cls(options.workers, threads(options) if several else options.cpus, options.gpus or 0.0)

    @property
    def words(self) -> str:
        """Text such as `1 core` or `2 workers with each 4 cores and 1 GPU`."""
        each = _counted(self.cores, "core") + (f" and {_counted(self.gpus, 'GPU')}" if self.gpus else "")
        return each if self.workers == 1 else f"{self.workers} workers with each {each}"

    def fit(self, machines: Sequence[Machine]) -> int:
        """Number of trials that fit on the machines at a time."""
        return sum(map(self._workers_on, machines)) // self.workers

    def _workers_on(self, machine: Machine) -> int:
        most = int(machine.cores / self.cores + _ROUNDING)
        if not self.gpus:
            return most
        if self.gpus < 1:
            return min(most, int(machine.gpus) * int(1 / self.gpus + _ROUNDING))
        return min(most, int(machine.gpus / self.gpus + _ROUNDING))


def threads(options: Options) -> int:
    """CPU threads of each worker."""
    return options.threads or max(1, int(options.cpus))


def here() -> list[Machine]:
    """Resources that this process may use of this machine."""
    return [Machine(usable_cores(), torch.cuda.device_count())]


def cluster() -> list[Machine]:
    """Current machines of the Ray cluster that this process is connected to."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Machine(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]


def default_gpus(options: Options, preset: float, machines: Sequence[Machine]) -> float:
    """GPUs for each worker: the option's, else the preset's, else a share where there are GPUs.

    Several workers get whole ones, for NCCL cannot join two processes on one GPU.
    """
    if options.gpus is not None:
        return float(options.gpus)
    wanted = preset or (SHARED_GPU if any(machine.gpus for machine in machines) else 0.0)
    return max(1.0, wanted) if wanted and options.workers > 1 else wanted


def check_room(options: Options, machines: Sequence[Machine]) -> None:
    """Refuse a sweep that could never start, or not as many trials at a time as were asked for.

    A cluster may grow while the sweep runs, so that there `--parallel` is only an upper limit.

    Raises:
        ValueError: what is missing, and what to lower.
    """
    needs = Needs.of(options)
    shared = needs.gpus and not float(needs.gpus).is_integer()
    if shared and (needs.gpus > 1 or needs.workers > 1):
        raise ValueError(
            f"--gpus {needs.gpus:g} with --workers {needs.workers}: several workers, and more than one GPU, take "
            "whole GPUs; give a whole number"
        )
    place = "the cluster" if options.address else "this machine"
    there = f"{_total(machine.cores for machine in machines)} cores and {_total(m.gpus for m in machines)} GPUs"
    room = needs.fit(machines)
    if room < 1:
        raise ValueError(
            f"a trial needs {needs.words}, and {place} has {there}; lower --cpus, --gpus, --threads or --workers"
        )
    if options.parallel > room and not options.address:
        raise ValueError(
            f"--parallel {options.parallel}: a trial needs {needs.words}, so {place} with {there} has room for "
            f"{room} at a time; lower --parallel, or give less to each by --cpus or --gpus (such as 0.5)"
        )


def _counted(amount: int | float, name: str) -> str:
    return f"{amount:g} {name}{'' if amount == 1 else 's'}"


def _total(amounts: Iterable[int | float]) -> str:
    return f"{sum(amounts):g}"
