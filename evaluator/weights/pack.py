"""Packing of a run's networks for shipping: checked, without this machine's paths, all or none."""

import dataclasses
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from evaluator import weights
from evaluator.registry import mlflow_registry
from evaluator.registry.contract import FILE_NAME, Contract
from evaluator.registry.networks import LoadedGuide, LoadedSplitColorizer

MAX_BYTES = 25_000_000
"""Of all files together, as the run has them: packed they are smaller."""
NOTICE_FILE, README_FILE = "NOTICE", "README.md"
GRAPHS = {
    weights.COLORIZER: tuple(mlflow_registry.PART_FILES.values()),
    weights.GUIDE: (mlflow_registry.GRAPH_FILE,),
}
"""The graphs of each network that ship; a split colorizer's parts make its whole, which is left out."""
_LOCAL = re.compile(r"(?:(?:sqlite|file)://|(?<![\w:/.~-]))/+(?:[^/\s'\"]+/)+")
"""The folders of an absolute path."""


def pack(run: Path, commands: str) -> dict[str, int]:
    """Write the networks of a run to where `evaluator.registry.mlflow_registry.load("shipped")` finds them.

    Graphs keep their weights and operations. The lines of source that torch notes beside each operation are left
    out, and absolute paths in the contracts' configs are cut down to their last part: both name this machine.
    What is there is replaced only once everything new is written, loaded, and has given the same numbers.

    Args:
        run: folder of a finished run, with `networks/colornet` and `networks/editnet-blind`.
        commands: that trained them, for the README.

    Returns:
        Size in bytes by path, of everything that ships.

    Raises:
        ValueError: a network is missing, damaged, a pickle, or of another kind; the guide reads another colorizer;
            the files are too large; or the commands name an absolute path.
    """
    if found := _LOCAL.search(commands):
        raise ValueError(f"the commands name a path of this machine, {found[0]}...; write it relative")
    if not commands.strip():
        raise ValueError("the commands are empty; give the lines that trained the networks")
    made = {name: run / "networks" / name for name in (weights.COLORIZER, weights.GUIDE)}
    contracts = {name: Contract.read(folder / FILE_NAME) for name, folder in made.items()}
    _check_contracts(contracts[weights.COLORIZER], contracts[weights.GUIDE], run)
    _check_size(made)
    before = _load(made)
    with tempfile.TemporaryDirectory(dir=weights.FOLDER, prefix=".packing-") as scratch:
        staged = Path(scratch)
        for name, contract in contracts.items():
            _write_network(name, made[name], staged / name, contract)
        files = sorted(path for path in staged.rglob("*") if path.is_file())
        sizes = {path.relative_to(staged).as_posix(): path.stat().st_size for path in files}
        sums = {path: weights.sha256(staged / path) for path in sizes}
        readme = _readme(contracts[weights.COLORIZER], commands, sizes, sums)
        lines = "".join(f"{digest}  {path}\n" for path, digest in sums.items())
        (staged / README_FILE).write_text(readme, encoding="utf-8")
        (staged / weights.SUMS_FILE).write_text(lines, encoding="utf-8")
        sizes |= {name: (staged / name).stat().st_size for name in (README_FILE, weights.SUMS_FILE)}
        sizes[NOTICE_FILE] = (weights.FOLDER / NOTICE_FILE).stat().st_size
        _check_same(before, _load({name: staged / name for name in made}))
        exchange(staged)
    return sizes


def _check_contracts(colorizer: Contract, guide: Contract, run: Path) -> None:
    if colorizer.kind != "colorizer" or not colorizer.features:
        raise ValueError(f"{run} has no split colorizer ({colorizer.name}); train with --recipe.network split")
    if guide.variant != "blind":
        raise ValueError(f"{run} has no blind guide ({guide.name}, {guide.variant}); a blind one ships")
    if guide.reads != colorizer.weights:
        raise ValueError(
            f"the guide of {run} reads {guide.reads[:12] or 'no features'}, not the features of its colorizer "
            f"{colorizer.weights[:12]}; take both from one training, with --recipe.guide head"
        )


def _check_size(folders: Mapping[str, Path]) -> None:
    files = [folder / file for name, folder in folders.items() for file in (*GRAPHS[name], FILE_NAME)]
    total = sum(file.stat().st_size for file in files if file.is_file())
    if total > MAX_BYTES:
        raise ValueError(
            f"the networks have {total / 1e6:.1f} MB together; at most {MAX_BYTES / 1e6:g} MB may ship: train "
            "smaller ones"
        )


def _load(folders: Mapping[str, Path]) -> tuple[LoadedSplitColorizer, LoadedGuide]:
    """Both networks; loading them refuses pickles."""
    colorizer = mlflow_registry.load_colorizer(folders[weights.COLORIZER])
    assert isinstance(colorizer, LoadedSplitColorizer)
    return colorizer, mlflow_registry.load_guide(folders[weights.GUIDE])


def _write_network(name: str, source: Path, target: Path, contract: Contract) -> None:
    for file in GRAPHS[name]:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        torch.export.save(without_traces(torch.export.load(source / file)), target / file)
    if name == weights.COLORIZER:
        shutil.copyfile(source / mlflow_registry.BINS_FILE, target / mlflow_registry.BINS_FILE)
    shippable = dataclasses.replace(contract, config=_without_folders(contract.config))
    (target / FILE_NAME).write_text(shippable.to_json(), encoding="utf-8")


def without_traces(program: ExportedProgram) -> ExportedProgram:
    """The program without the source files and lines that torch records for each operation."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program


def _without_folders(value: Any) -> Any:
    """A config with absolute paths reduced to their last part."""
    if isinstance(value, str):
        return _LOCAL.sub("", value)
    if isinstance(value, Mapping):
        return {key: _without_folders(item) for key, item in value.items()}
    return [_without_folders(item) for item in value] if isinstance(value, list | tuple) else value


def _check_same(
    before: tuple[LoadedSplitColorizer, LoadedGuide], after: tuple[LoadedSplitColorizer, LoadedGuide]
) -> None:
    side = before[0].contract.min_size
    generator = torch.Generator().manual_seed(0)
    lightness = torch.rand(1, 1, side, side, generator=generator)
    clicks = torch.zeros(1, 3, side, side)
    clicks[0, :, side // 2, side // 2] = torch.tensor([1.0, 0.25, -0.25])
    answers = []
    for colorizer, guide in (before, after):
        ab, features = colorizer.color(colorizer.embed(lightness), lightness, clicks)
        cells = features.flatten(2)[0].T
        answers.append((ab, colorizer.palette(cells), guide(lightness, ab, clicks, features=features)))
    if not all(torch.equal(*pair) for pair in zip(*answers, strict=True)):
        raise RuntimeError("the packed networks give other numbers than the run's; they were not shipped")


def _readme(contract: Contract, commands: str, sizes: Mapping[str, int], sums: Mapping[str, str]) -> str:
    table = "\n".join(f"| `{path}` | {size:,} | `{sums[path][:16]}` |" for path, size in sizes.items())
    versions = ", ".join(f"{name} {version}" for name, version in contract.versions.items())
    return f"""# The networks that ship

`python -m evaluator.weights` wrote this file, `SHA256SUMS` and the folders beside it. They are loaded by the name
`shipped`, which compares every file with its hash first. `NOTICE` says what they were trained from.

Commit `{contract.commit}`, {versions}; encoder `{contract.config.get("recipe.encoder", "unknown")}`. The commands:

```
{commands.strip()}
```

The contracts hold the whole config and the validation results; absolute paths are cut down to their last part.

| file | bytes | SHA-256 begins with |
|---|---|---|
{table}
"""


def exchange(staged: Path) -> None:
    """Move staged files into place; on failure the previous ones are restored.

    The list of hashes leaves first and comes last: in between, the package has no weights, and not half of them.

    Args:
        staged: a folder on the same disk with both networks, README and hashes.
    """
    names = (weights.COLORIZER, weights.GUIDE, README_FILE)
    old = staged / "old"
    old.mkdir()
    moved: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        os.replace(source, target)
        moved.append((source, target))

    try:
        for name in (weights.SUMS_FILE, *names):
            if (weights.FOLDER / name).exists():
                move(weights.FOLDER / name, old / name)
        for name in (*names, weights.SUMS_FILE):
            move(staged / name, weights.FOLDER / name)
    except BaseException:
        for source, target in reversed(moved):
            os.replace(target, source)
        raise
