"""Environment of a measurement: machine, versions and commit."""

import math
import os
import platform
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = ("torch", "triton", "torchvision", "numpy", "pillow", "scikit-image")
"""Whose versions are written beside every figure."""


def machine() -> dict[str, object]:
    """Hardware: processor, usable cores, threads, memory in GiB, GPU, system."""
    return {
        "cpu": _cpu_name(),
        "cores": usable_cores(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
    }


def import_path() -> str:
    """The PYTHONPATH by which another process imports this very package."""
    root = Path(__file__).parents[2]
    return os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Number of cores that this process may use: its affinity, but no more than its container's CPU limit.

    Docker and Kubernetes limit the time alone: with a thread for each core of the machine, threads would wait for
    others that may not run.

    Args:
        cgroup: where the kernel shows the container's own control group, of version 2 or 1.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _cpu_limit(cgroup))))


def _cpu_limit(cgroup: Path) -> float:
    """Container's CPU limit in cores; infinite without one."""
    try:
        if (both := cgroup / "cpu.max").exists():
            quota, period = both.read_text().split()
        else:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    except OSError:
        return math.inf
    return math.inf if quota.strip() in ("max", "-1") else int(quota) / int(period)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python and of those of `packages` that are installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def commit() -> str:
    """Short git commit of the running code, `-dirty` with uncommitted changes, `unknown` outside git.

    As it was at the first call: a training that lasts for hours runs the code that it started with.
    """
    root = Path(__file__).parent.parent.parent
    try:
        head = _git(root, "rev-parse", "--short", "HEAD")
        return head + ("-dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()
