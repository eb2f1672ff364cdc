"""The wheel: built as a release is, installed without the repository, and run from somewhere else."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import ROOT

PACKAGES = ("kernels", "evaluator", "trainer", "tuner")
NOT_PYTHON = ("jinja", "css", "js", "html", "svg", "pt2", "json", "typed")
"""Suffixes of the files beside the code that the commands need."""
COMMANDS = ("evaluator", "evaluator colorize", "tuner", "trainer.shards", "trainer.main", "chromaclick")

pytestmark = pytest.mark.launch


def run(*words: str, cwd: Path, path: Path | None = None) -> str:
    """Everything that Python prints; `path` comes before the environment, and the repository is not on it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the sources, so that nothing of an earlier build in the repository gets into it."""
    sources, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, sources)
    for package in (*PACKAGES, "tests"):
        shutil.copytree(ROOT / package, sources / package, ignore=shutil.ignore_patterns("__pycache__"))
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), cwd=sources)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's files and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    options = ("--no-deps", "--no-index", "--no-compile", "--target", str(target))
    run("-m", "pip", "install", *options, str(wheel), cwd=target)
    return target


def test_it_holds_the_sources_of_the_packages_and_nothing_else(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix == ".py" or path.suffix.lstrip(".") in NOT_PYTHON
    }
    assert sources - names == set()
    folders = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert folders == set(PACKAGES)


def test_it_says_under_which_terms(wheel: Path):
    archive = zipfile.ZipFile(wheel)
    licenses = {Path(name).name for name in archive.namelist() if ".dist-info/licenses/" in name}
    assert licenses == {"LICENSE", "NOTICE"}
    assert "evaluator/weights/NOTICE" in archive.namelist()


def test_every_package_has_its_types(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_run_elsewhere(installed: Path, tmp_path: Path, command: str):
    words = [str(installed / "bin" / "chromaclick")] if command == "chromaclick" else ["-m", *command.split()]
    assert "usage:" in run(*words, "--help", cwd=tmp_path, path=installed).lower()
    assert not list(tmp_path.iterdir())


def test_its_networks_are_whole(installed: Path, tmp_path: Path):
    """The hashes of the installed files are those that the package states."""
    program = (
        "import evaluator; from evaluator import weights\n"
        "print(evaluator.__file__, weights.verified(weights.COLORIZER), weights.verified(weights.GUIDE))"
    )
    places = run("-c", program, cwd=tmp_path, path=installed).split()
    assert len(places) == 3
    assert all(place.startswith(str(installed)) for place in places)
