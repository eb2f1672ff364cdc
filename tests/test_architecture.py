"""What each room of the house may import, which of them owns a heavy library, and what files may be called."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT

MAY_IMPORT = {  # a room, and the rooms that it may import beside itself; the longest name that fits counts
    "kernels": "",
    "evaluator.system": "",
    "evaluator.baselines": "",
    "evaluator.photos": "kernels evaluator.system",
    "evaluator.metrics": "kernels",
    "evaluator.registry": "kernels evaluator.baselines evaluator.weights",
    "evaluator.weights": "evaluator.registry",
    "evaluator.policies": "kernels evaluator.registry",
    "evaluator.protocol": "kernels evaluator.system evaluator.baselines evaluator.metrics evaluator.policies "
    "evaluator.registry",
    "evaluator.report": "kernels evaluator.system evaluator.metrics evaluator.policies evaluator.protocol "
    "evaluator.registry",
    "evaluator.benchmark": "kernels evaluator.system evaluator.baselines evaluator.metrics evaluator.photos "
    "evaluator.policies evaluator.protocol evaluator.registry evaluator.report",
    "evaluator.service.images": "kernels evaluator.system evaluator.photos",
    "evaluator.service.inference": "kernels evaluator.system evaluator.metrics evaluator.registry "
    "evaluator.weights evaluator.service.settings",
    "evaluator.service.rendering": "kernels evaluator.service.images",
    "evaluator.service.middleware": "evaluator.service evaluator.service.settings",
    "evaluator.service.settings": "evaluator.system evaluator.registry",
    "evaluator.service": "evaluator.system evaluator.registry evaluator.service.*",
    "evaluator.service.api": "evaluator.system evaluator.registry evaluator.service evaluator.service.*",
    "evaluator": "kernels evaluator.*",
    "trainer.networks": "kernels",
    "trainer.recipes": "kernels evaluator.metrics trainer.networks",
    "trainer.config": "trainer.recipes",
    "trainer.data": "kernels evaluator.photos evaluator.system trainer.config",
    "trainer.shards": "evaluator.photos evaluator.system trainer.data",
    "trainer.engines": "evaluator.system trainer.config trainer.recipes",
    "trainer.monitoring": "evaluator.registry trainer.config trainer.data trainer.engines",
    "trainer": "kernels evaluator.* trainer.*",
    "tuner": "kernels evaluator.* trainer.* trainer tuner.*",
    "tuner.search": "kernels trainer.config trainer.recipes tuner",
    "tuner.report": "evaluator.report evaluator.system trainer.config trainer.recipes tuner tuner.search",
}
OWNERS = {  # rooms, or single files
    "accelerate": "trainer.engines",
    "deepspeed": "trainer.engines",
    "webdataset": "trainer.data trainer.shards",
    "boto3": "trainer.data.storage",
    "ray": "tuner evaluator.service.ray_serve",
    "optuna": "tuner",
    "mlflow": "trainer.monitoring.mlflow_tracker evaluator.registry.mlflow_registry",
}
KERNELS_NEED = {"torch", "triton", "jaxtyping", "kernels"}
SOURCES = [
    path for package in ("kernels", "evaluator", "trainer", "tuner") for path in (ROOT / package).rglob("*.py")
]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: {ast.unparse(node)}; write the whole name"
            files = [f"{node.module}.{alias.name}" for alias in node.names]
            inside = [name for name in files if exists(name)]
            yield from inside if len(inside) == len(files) else [node.module, *inside]


def exists(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def room_of(module: str) -> str:
    return max((room for room in MAY_IMPORT if is_in(module, room)), key=len, default="")


def is_in(module: str, place: str) -> bool:
    return module == place or module.startswith(f"{place}.")


def test_each_room_imports_what_its_row_says():
    for path in SOURCES:
        module = module_of(path)
        own = room_of(module)
        allowed = MAY_IMPORT[own].split()
        for name in imported(path):
            room = room_of(name)
            fits = room in allowed or any(one.endswith(".*") and room.startswith(one[:-1]) for one in allowed)
            assert not room or room == own or fits, f"{module} imports {name}; {own} may import {allowed}"
            assert name.partition(".")[0] not in {"tests", "launch", "infra"}, f"{module} imports {name}"


def test_one_room_owns_each_heavy_library():
    for path in SOURCES:
        module = module_of(path)
        libraries = {name.partition(".")[0] for name in imported(path)}
        for library in libraries & set(OWNERS):
            owners = OWNERS[library].split()
            assert any(is_in(module, owner) for owner in owners), f"{module} imports {library}; only {owners} may"
        if is_in(module, "kernels"):
            assert libraries <= KERNELS_NEED | set(sys.stdlib_module_names), f"{module} imports {libraries}"


def test_files_are_few_in_a_room_and_replace_no_library():
    """`accelerate launch trainer/main.py` puts trainer/ on sys.path, in front of everything else."""
    folders: dict[Path, list[str]] = {}
    for path in SOURCES:
        if path.stem not in ("__init__", "__main__"):
            folders.setdefault(path.parent, []).append(path.stem)
    taken = set(sys.stdlib_module_names) | {*OWNERS, "torch", "numpy", "pandas", "requests", "filelock", "tyro"}
    for folder, names in folders.items():
        assert not taken & set(names), folder
        assert len(names) <= 13, f"{folder} holds {len(names)} files"


@pytest.mark.training
def test_an_error_message_waits_for_no_package_that_only_a_training_needs():
    """Torchvision brings torch's compiler: with it and matplotlib it took nearly twice as long."""
    program = "import sys, trainer.main; print(*{'matplotlib', 'torch._dynamo', 'torchvision'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
