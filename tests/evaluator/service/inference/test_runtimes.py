"""Runtimes of a network: the same numbers, the quickest taken, and a reason for each that is left out."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evaluator.registry.mlflow_registry import load_colorizer, load_guide
from evaluator.registry.networks import LoadedColorizer
from evaluator.service.inference import converted, runtimes
from evaluator.service.inference.converted import with_graph
from evaluator.service.inference.runtimes import choose, example
from evaluator.service.inference.side_by_side import SideBySide, side_by_side
from trainer import export
from trainer.networks import ColorNet, EditNet

SIZES = ((32, 32), (32, 24))


class Changed(nn.Module):
    """A graph with other numbers."""

    def __init__(self, graph: nn.Module, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.graph, self.change = graph, change

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.change(self.graph(*inputs))


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


@pytest.mark.parametrize("name", ["colornet", "editnet-blind"])
def test_onnx_runtime_gives_the_numbers_of_the_graph_at_any_size(folders: dict[str, Path], name: str):
    network = (load_colorizer if name == "colornet" else load_guide)(folders[name])
    other = converted.to_onnx(network, None)
    assert type(other) is type(network)
    for height, width, batch in ((32, 32, 1), (17, 40, 3), (5, 9, 1), (64, 20, 2)):
        inputs = example(network, height, width, batch)
        right = runtimes._call(network, inputs)
        assert (runtimes._call(other, inputs) - right).abs().max() <= 1e-5 * max(1, right.abs().max())


@pytest.mark.slow
def test_a_compiled_network_gives_the_numbers_of_the_graph(colorizer: LoadedColorizer):
    choice = choose(colorizer, SIZES, ["torch", "torch-compiled"])
    assert not choice.skipped
    assert set(choice.milliseconds) == {"torch", "torch-compiled"}


def photos_of(call: Any) -> int:
    return len(call.args[1][0])


def is_side_by_side(call: Any) -> bool:
    return isinstance(call.args[0]._graph, SideBySide)


def test_the_quickest_is_taken(colorizer: LoadedColorizer, monkeypatch: pytest.MonkeyPatch):
    milliseconds = {"slow": 3.0, "quick": 1.0, "middling": 2.0}
    made = {name: with_graph(colorizer, colorizer._graph) for name in milliseconds}
    times = {id(network): milliseconds[name] / 1000 for name, network in made.items()}
    monkeypatch.setattr(
        runtimes, "RUNTIMES", {name: lambda network, cache, name=name: made[name] for name in made}
    )
    monkeypatch.setattr(runtimes, "seconds", lambda call: times.get(id(call.args[0]), 1) * photos_of(call))
    choice = choose(colorizer, SIZES, list(made))
    assert choice.network is made["quick"]
    assert (choice.runtime, choice.milliseconds) == ("quick", milliseconds)
    assert (choice.way, choice.most_batch) == ("one by one", 1)
    assert choice.gains["together"] == pytest.approx(1)
    assert choice.words.startswith("quick (slow 3.0 ms, quick 1.0 ms")


def test_a_machine_whose_batches_are_quicker_computes_photos_together(
    colorizer: LoadedColorizer, monkeypatch: pytest.MonkeyPatch
):
    def quick_together(call: Any) -> float:
        return photos_of(call) if is_side_by_side(call) else 1.0 + 0.1 * photos_of(call)

    monkeypatch.setattr(runtimes, "seconds", quick_together)
    choice = choose(colorizer, SIZES, ["torch"])
    assert (choice.way, choice.most_batch) == ("together", None)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_a_machine_whose_cores_are_quicker_alone_computes_photos_side_by_side(
    colorizer: LoadedColorizer, monkeypatch: pytest.MonkeyPatch, runtime: str
):
    monkeypatch.setattr(
        runtimes, "seconds", lambda call: photos_of(call) * (0.9 if is_side_by_side(call) else 1.0)
    )
    choice = choose(colorizer, SIZES, [runtime])
    assert (choice.way, choice.most_batch) == ("side by side", 2)
    assert choice.gains["side by side"] == pytest.approx(1 / 0.9)
    for photos in (1, 2, 5):
        inputs = example(colorizer, 20, 32, photos)
        right = runtimes._call(colorizer, inputs)
        assert (runtimes._call(choice.network, inputs) - right).abs().max() <= 1e-5


@pytest.mark.parametrize(("cores", "most_batch", "seen"), [(16, 8, 8), (16, 3, 3), (2, 8, 4), (2, 1, 1)])
def test_no_more_photos_are_measured_than_come_at_once(
    colorizer: LoadedColorizer, monkeypatch: pytest.MonkeyPatch, cores: int, most_batch: int, seen: int
):
    counted: list[int] = []

    def count(call: Any) -> float:
        counted.append(photos_of(call))
        return photos_of(call) * (0.5 if is_side_by_side(call) else 1.0)

    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    monkeypatch.setattr(runtimes, "seconds", count)
    choice = choose(colorizer, SIZES, ["torch"], most_batch=most_batch)
    assert max(counted) == seen
    expected = ("side by side", min(cores, most_batch)) if most_batch > 1 else ("one by one", 1)
    assert (choice.way, choice.most_batch) == expected


@pytest.mark.usefixtures("two_threads")
def test_photos_that_occupy_all_cores_have_one_each_and_others_have_all(colorizer: LoadedColorizer):
    seen: list[tuple[int, int]] = []

    def noted(y: Tensor) -> Tensor:
        seen.append((len(y), torch.get_num_threads()))
        return y

    network = side_by_side(with_graph(colorizer, Changed(colorizer._graph, noted)), 2)
    for photos, expected in ((1, [(1, 2)]), (2, 2 * [(1, 1)]), (3, 3 * [(1, 1)])):
        seen.clear()
        assert len(runtimes._call(network, example(colorizer, 32, 32, photos))) == photos
        assert seen == expected
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_a_way_with_other_numbers_is_left_out(colorizer: LoadedColorizer, monkeypatch: pytest.MonkeyPatch):
    def off(network: LoadedColorizer, threads: int) -> LoadedColorizer:
        return with_graph(network, Changed(network._graph, lambda y: y + 0.01))  # pyright: ignore[reportReturnType]

    monkeypatch.setattr(runtimes, "side_by_side", off)
    choice = choose(colorizer, SIZES, ["torch"])
    assert "it differs by 0.01" in choice.skipped["side by side"]
    assert set(choice.gains) == {"one by one", "together"}


def test_one_with_other_numbers_is_left_out(colorizer: LoadedColorizer, monkeypatch: pytest.MonkeyPatch):
    after = {"off": lambda y: y + 0.01, "broken": lambda y: y * float("nan"), "raising": lambda y: 1 / 0}
    off = {
        name: lambda network, cache, change=change: with_graph(network, Changed(network._graph, change))
        for name, change in after.items()
    }
    monkeypatch.setattr(runtimes, "RUNTIMES", {**runtimes.RUNTIMES, **off})
    choice = choose(colorizer, SIZES, ["torch", *off])
    assert choice.runtime == "torch"
    assert list(choice.skipped) == list(off)
    assert "it differs by 0.01" in choice.skipped["off"]
    assert "it differs by nan" in choice.skipped["broken"]
    assert choice.skipped["raising"] == "ZeroDivisionError: division by zero"
    assert "; off left out: it differs by" in choice.words
    with pytest.raises(ValueError, match="runs in none of the runtimes"):
        choose(colorizer, SIZES, list(off))


def test_a_missing_package_is_named(colorizer: LoadedColorizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    choice = choose(colorizer, SIZES, ["torch", "onnxruntime"])
    assert choice.skipped == {"onnxruntime": "onnxruntime is not installed; pip install chromaclick[serve]"}


def test_a_failed_conversion_is_explained(colorizer: LoadedColorizer, monkeypatch: pytest.MonkeyPatch):
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("no such operator\nwith a long trace")

    monkeypatch.setattr(torch.onnx, "export", fail)
    assert choose(colorizer, SIZES, ["torch", "onnxruntime"]).skipped == {
        "onnxruntime": "RuntimeError: no such operator"
    }


@pytest.mark.parametrize("names", [[], ["tensorflow"], ["torch", "x"]])
def test_unknown_runtimes_are_refused(colorizer: LoadedColorizer, names: list[str]):
    with pytest.raises(ValueError, match="name some of"):
        choose(colorizer, SIZES, names)


def test_a_converted_network_is_kept_and_a_broken_file_made_again(
    colorizer: LoadedColorizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    inputs = example(colorizer, 20, 12)
    first = runtimes._call(converted.to_onnx(colorizer, tmp_path), inputs)
    (file,) = tmp_path.iterdir()
    assert colorizer.fingerprint[:32] in file.name
    with monkeypatch.context() as without:
        without.setattr(converted, "_convert", lambda *given: pytest.fail("it was converted again"))
        assert torch.equal(runtimes._call(converted.to_onnx(colorizer, tmp_path), inputs), first)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert torch.equal(runtimes._call(converted.to_onnx(colorizer, tmp_path), inputs), first)
    assert "is broken, the network is converted again" in caplog.text
    assert len(file.read_bytes()) == len(whole)


def test_only_the_files_that_were_used_last_are_kept(
    colorizer: LoadedColorizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    converted.to_onnx(colorizer, tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.unlink()
    monkeypatch.setattr(converted, "_convert", lambda *given: whole)
    for number in range(14):
        old = tmp_path / f"{number}.onnx"
        old.write_bytes(b"")
        os.utime(old, (number, number))
    converted.to_onnx(colorizer, tmp_path)
    kept = {path.name for path in tmp_path.iterdir()}
    assert len(kept) == 12
    assert {f"{number}.onnx" for number in range(3, 14)} < kept
