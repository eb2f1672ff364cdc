"""What a requirements file installs, worked out from the packages that are installed here."""

import re
import sys
from importlib.metadata import PackageNotFoundError, distributions, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OF_CUDA_TORCH = re.compile(r"nvidia-.*|cuda-.*|triton")
"""What torch brings for GPUs, and its wheels for CPUs do not."""


def read(file: Path) -> list[Requirement]:
    """The requirements of a file, with those of files that it includes."""
    found = []
    for line in file.read_text().splitlines():
        if line.startswith("-r "):
            found += read(file.parent / line[3:])
        elif line and not line.startswith("#"):
            found.append(Requirement(line))
    return found


def closure(wanted: list[Requirement]) -> set[str]:
    """Names of all distributions that these requirements bring, with CPU wheels of torch."""
    found: dict[str, set[str]] = {}
    waiting = [(canonicalize_name(one.name), extra) for one in wanted for extra in ("", *one.extras)]
    while waiting:
        name, extra = waiting.pop()
        if OF_CUDA_TORCH.fullmatch(name) or extra in found.setdefault(name, set()):
            continue
        found[name].add(extra)
        waiting += [
            (canonicalize_name(one.name), more)
            for one in _needs(name)
            if one.marker is None or one.marker.evaluate({"extra": extra})
            for more in ("", *one.extras)
        ]
    return set(found)


def _needs(name: str) -> list[Requirement]:
    try:
        return [Requirement(text) for text in requires(name) or []]
    except PackageNotFoundError:
        raise AssertionError(f"{name} is not installed here, so that its requirements are unknown") from None


def modules_outside(names: set[str]) -> set[str]:
    """Top-level modules that are installed here, and come from none of these distributions."""
    return {
        module
        for module, providers in packages_distributions().items()
        if not {canonicalize_name(one) for one in providers} & names
    } - set(sys.stdlib_module_names)


def all_names() -> set[str]:
    """Every installed distribution."""
    return {canonicalize_name(one.metadata["Name"]) for one in distributions()}
