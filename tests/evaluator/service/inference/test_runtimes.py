"""ONNX Runtime beside torch: the same numbers or a reason; a conversion is made once and can be stopped."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluator.registry.mlflow_registry import load_colorizer, load_guide
from evaluator.registry.networks import LoadedColorizer
from evaluator.service.inference import runtimes
from evaluator.service.inference.runtimes import (
    OnnxGraph,
    Unusable,
    call,
    convert,
    converted,
    example,
    main,
    open_converted,
)
from trainer import export
from trainer.networks import ColorNet, EditNet

pytestmark = pytest.mark.launch

SIZES = ((32, 32), (32, 24))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    work = tmp_path_factory.mktemp("networks")
    color, edit = ColorNet((4, 6, 8)), EditNet("blind", (4, 6, 8))
    contracts = {
        "colornet": export.describe(color, "colornet"),
        "editnet-blind": export.describe(edit, "editnet-blind", variant="blind", temperature=1.0),
    }
    networks = {"colornet": color, "editnet-blind": edit}
    return {name: export.save(export.export(networks[name], contracts[name]), work / name) for name in networks}


@pytest.fixture(scope="module")
def colorizer(folders: dict[str, Path]) -> LoadedColorizer:
    return load_colorizer(folders["colornet"])


@pytest.fixture(scope="module")
def model(colorizer: LoadedColorizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The colorizer's converted file."""
    folder = tmp_path_factory.mktemp("converted")
    convert(colorizer, folder)
    (file,) = folder.iterdir()
    return file


@pytest.fixture
def cache(model: Path, tmp_path: Path) -> Path:
    """A folder with that file, which a test may change."""
    (tmp_path / model.name).write_bytes(model.read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", ["colornet", "editnet-blind"])
def test_onnx_runtime_gives_the_numbers_of_the_graph_at_any_size(folders: dict[str, Path], name: str, cache: Path):
    network = (load_colorizer if name == "colornet" else load_guide)(folders[name])
    convert(network, cache)  # which has the colorizer
    other = open_converted(network, SIZES, cache)
    assert type(other) is type(network)
    for height, width, batch in ((32, 32, 1), (17, 40, 3), (5, 9, 1), (64, 20, 2)):
        inputs = example(network, height, width, batch)
        right = call(network, inputs)
        assert (call(other, inputs) - right).abs().max() <= 1e-5 * max(1, right.abs().max())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda y: y + 0.01, "it differs by 0.01 at"),
        (lambda y: y * float("nan"), "it differs by nan at"),
        (lambda y: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_other_numbers_are_refused(
    colorizer: LoadedColorizer,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Tensor], Any],
    reason: str,
):
    right = OnnxGraph.forward
    monkeypatch.setattr(OnnxGraph, "forward", lambda self, *inputs: change(right(self, *inputs)))
    with pytest.raises(Unusable, match=reason):
        open_converted(colorizer, SIZES, cache)


def test_a_missing_package_is_named(colorizer: LoadedColorizer, cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(Unusable, match=r"onnxruntime is not installed; pip install chromaclick\[serve\]"):
        open_converted(colorizer, SIZES, cache)
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(Unusable, match="onnxscript is not installed"):
        convert(colorizer, cache)


def test_a_failed_conversion_is_explained(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("no such operator\nwith a long trace")

    monkeypatch.setattr(torch.onnx, "export", fail)
    monkeypatch.setattr(os, "nice", lambda more: None)  # of this process
    assert main(["colorizer", str(folders["colornet"]), str(tmp_path)]) == 1
    assert capsys.readouterr().err == "RuntimeError: no such operator\n"


def test_a_converted_network_is_kept_and_a_broken_file_made_again(
    colorizer: LoadedColorizer, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    with monkeypatch.context() as without:
        without.setattr(torch.onnx, "export", lambda *given, **options: pytest.fail("it was converted again"))
        convert(colorizer, cache)
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileNotFoundError):
        open_converted(colorizer, SIZES, cache)
    assert "is broken, the network is converted again" in caplog.text
    convert(colorizer, cache)
    assert len(file.read_bytes()) == len(whole)


def test_only_the_files_that_were_used_last_are_kept(colorizer: LoadedColorizer, cache: Path):
    for number in range(14):
        old = cache / f"{number}.onnx"
        old.write_bytes(b"")
        os.utime(old, (number, number))
    convert(colorizer, cache)
    kept = {path.name for path in cache.iterdir()}
    assert len(kept) == 12
    assert {f"{number}.onnx" for number in range(3, 14)} < kept


def test_another_process_converts_what_the_cache_has_not(folders: dict[str, Path], tmp_path: Path):
    network = load_guide(folders["editnet-blind"])
    where = ("guide", str(folders["editnet-blind"]), None, SIZES, tmp_path)
    quick = asyncio.run(asyncio.wait_for(converted(network, *where), 300))
    inputs = example(network, 20, 30)
    np.testing.assert_allclose(call(quick, inputs), call(network, inputs), atol=1e-5)


class Instead:
    """Processes with another program than the one that was asked for."""

    def __init__(self, program: str) -> None:
        self.program, self.begun, self.popen = program, [], subprocess.Popen

    def __call__(self, command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        self.begun.append(self.popen([sys.executable, "-c", self.program], **options))
        return self.begun[-1]


def test_why_the_other_process_failed_is_said(
    colorizer: LoadedColorizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for program, reason in (
        ("import sys; sys.exit('a warning\\nno such operator')", "^no such operator$"),
        ("import os; os.abort()", "its conversion ended with -6"),
    ):
        monkeypatch.setattr(runtimes.subprocess, "Popen", Instead(program))
        with pytest.raises(Unusable, match=reason):
            asyncio.run(converted(colorizer, "colorizer", "any", None, SIZES, tmp_path))
        monkeypatch.undo()


def test_who_stops_does_not_wait_for_a_conversion(
    colorizer: LoadedColorizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The conversion never ends."""
    endless = Instead("import threading; threading.Event().wait()")

    async def story() -> None:
        task = asyncio.create_task(converted(colorizer, "colorizer", "any", None, SIZES, tmp_path))
        while not endless.begun:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    monkeypatch.setattr(runtimes.subprocess, "Popen", endless)
    asyncio.run(asyncio.wait_for(story(), 60))
    assert endless.begun[0].wait(60) < 0
