"""The import rule of the house, read from the source: kernels <- evaluator <- trainer <- tuner."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

MAY_IMPORT = {
    "kernels": set(),
    "evaluator": {"kernels"},
    "trainer": {"kernels", "evaluator"},
    "tuner": {"kernels", "evaluator", "trainer"},
}
OWNERS = {  # files, or whole packages with a slash
    "accelerate": {"trainer/engines/"},
    "deepspeed": {"trainer/engines/"},
    "webdataset": {"trainer/data/", "trainer/shards/", "tests/benchmarks/trainer/loader_paths.py"},
    "boto3": {"trainer/data/storage.py"},
    "ray": {"evaluator/service/ray_serve.py", "tuner/"},
    "optuna": {"tuner/"},
    "mlflow": {"trainer/monitoring/mlflow_tracker.py", "evaluator/registry/mlflow_registry.py"},
}
SOURCES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def imported_packages(path: Path) -> set[str]:
    """Top-level names that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path):
    package = path.relative_to(ROOT).parts[0]
    forbidden = set(MAY_IMPORT) - MAY_IMPORT[package] - {package} | {"launch", "infra", "tests"}
    assert not imported_packages(path) & forbidden


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_one_module_owns_each_heavy_library(path: Path):
    where = str(path.relative_to(ROOT))
    folders = {f"{parent}/" for parent in path.relative_to(ROOT).parents}
    for library in imported_packages(path) & set(OWNERS):
        assert {where, *folders} & OWNERS[library], f"{where} imports {library}; only {OWNERS[library]} may"


def test_kernels_need_only_torch():
    """Its benchmarks are programs, which may also print tables and read a command line."""
    library = {"torch", "triton", "jaxtyping", "kernels"} | set(sys.stdlib_module_names)
    for path in (ROOT / "kernels").rglob("*.py"):
        program = path.parent.name == "kernels" and path.stem.startswith("bench")
        assert imported_packages(path) <= library | ({"numpy", "rich", "tyro"} if program else set()), path


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_replaces_the_standard_library(path: Path):
    """`accelerate launch trainer/main.py` puts trainer/ on sys.path, in front of the standard library."""
    assert path.stem == "__init__" or path.stem not in sys.stdlib_module_names


def test_the_rule_sees_every_package():
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} >= set(MAY_IMPORT)


def test_an_error_message_waits_for_no_package_that_only_a_training_needs():
    """Torchvision brings torch's compiler: with it and matplotlib it took nearly twice as long."""
    program = "import sys, trainer.main; print(*{'matplotlib', 'torch._dynamo', 'torchvision'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
