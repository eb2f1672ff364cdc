"""Where an exported network runs: in ONNX Runtime if that gives torch's numbers, else in torch.

A network is converted once, by a process of its own: it takes half a minute, changes settings of all of torch
meanwhile, and a thread could not be interrupted. ONNX files are data, never code; at each start their numbers are
compared with the exported graph's.
"""

import logging
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from evaluator.registry.contract import Contract
from evaluator.registry.mlflow_registry import load_colorizer, load_guide
from evaluator.registry.networks import LoadedColorizer, LoadedGuide, LoadedSplitColorizer, SplitParts
from evaluator.system.environment import import_path
from evaluator.system.files import write_atomically
from evaluator.system.threads import in_daemon_thread

Loaded = LoadedColorizer | LoadedGuide
TOLERANCE = 1e-4
"""Largest difference from the exported graph, relative to the largest output or 1: 0.013 CIE units of ab."""
LOADERS = {"colorizer": load_colorizer, "guide": load_guide}
_CACHED = 12
"""Converted files that are kept, those used last: a split colorizer and its guide have three."""
_CONVERSION_SECONDS = 900.0
"""Longest conversion: half a minute on an idle machine."""
_log = logging.getLogger("chromaclick")


class Unusable(Exception):
    """ONNX Runtime cannot run a network, and why."""


class OnnxGraph(nn.Module):
    """Calls an ONNX file as the exported graph is called."""

    def __init__(self, model: bytes) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        # Its threads would burn a core for a while after each call, which the event loop needs now.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._names = [port.name for port in self._session.get_inputs()]

    def forward(self, *inputs: Tensor) -> Any:
        """The graph's output; a tuple where it has several."""
        arrays = {name: np.ascontiguousarray(x.numpy()) for name, x in zip(self._names, inputs, strict=True)}
        outputs = [torch.from_numpy(array) for array in self._session.run(None, arrays)]
        return tuple(outputs) if len(outputs) > 1 else outputs[0]


async def converted(
    network: Loaded, kind: str, uri: str, tracking_uri: str | None, sizes: Sequence[tuple[int, int]], cache: Path
) -> Loaded:
    """The network in ONNX Runtime, from the cache, or converted first. Cancelling it ends a conversion.

    Args:
        network: as loaded.
        kind: "colorizer" or "guide".
        uri: by which another process loads the same.
        tracking_uri: see `evaluator.registry.mlflow_registry.load`.
        sizes: heights and widths to warm and compare it at.
        cache: folder of converted files, named by the network's fingerprint and torch's version.

    Raises:
        Unusable: a package is missing, the graph has something that ONNX has not, or the numbers differ.
    """
    try:
        return await in_daemon_thread(open_converted, network, sizes, cache)
    except FileNotFoundError:
        await _convert_elsewhere(kind, uri, tracking_uri, cache)
    try:
        return await in_daemon_thread(open_converted, network, sizes, cache)
    except FileNotFoundError as error:
        raise Unusable(f"{error.filename} is missing; {uri} may be another network now") from error


async def _convert_elsewhere(kind: str, uri: str, tracking_uri: str | None, cache: Path) -> None:
    """Run `main` in a process of its own."""
    # Not in the command, which others see: a registry's URI may have a password.
    where = {"MLFLOW_TRACKING_URI": tracking_uri} if tracking_uri else {}
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, kind, uri, str(cache)],
        env={**os.environ, **where, "PYTHONPATH": import_path()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C ends the service first, which then ends this
    )
    try:
        _, said = await in_daemon_thread(process.communicate, timeout=_CONVERSION_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise Unusable(f"its conversion took longer than {_CONVERSION_SECONDS:g} s") from error
    finally:
        process.kill()
    if process.returncode:
        lines = said.decode(errors="replace").strip().splitlines()
        raise Unusable(lines[-1] if lines else f"its conversion ended with {process.returncode}")


def open_converted(network: Loaded, sizes: Sequence[tuple[int, int]], cache: Path) -> Loaded:
    """The network in ONNX Runtime from converted files, warmed, and compared at each size with one photo more.

    Raises:
        FileNotFoundError: a file is not there, or was broken and has been removed.
        Unusable: a package is missing, or the numbers differ from the exported graph's.
    """
    try:
        quick = _with_graphs(network, [_read(file) for file in _parts(network, cache)])
        for photos, size in enumerate(sizes, start=1):
            inputs = example(network, *size, photos)
            right, found = call(network, inputs), call(quick, inputs)
            difference = float((found - right).abs().max()) / max(1.0, float(right.abs().max()))
            if not difference <= TOLERANCE:  # also NaN
                shape = tuple(right.shape)
                raise Unusable(f"it differs by {difference:.2g} at {shape}, more than {TOLERANCE:g}, from torch")
    except (FileNotFoundError, Unusable):
        raise
    except Exception as error:  # ONNX Runtime has a type of its own for each
        raise Unusable(_reason(error)) from error
    return quick


def convert(network: Loaded, cache: Path) -> None:
    """Write the ONNX files of a network that are not in the cache, batch and sides free.

    Raises:
        Unusable: a package is missing, or the graph has something that ONNX has not.
    """
    try:
        import onnxscript  # noqa: F401  its absence is said in better words than torch's

        for file, graph in _parts(network, cache).items():
            if file.exists():
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about the converters' own insides
                program = _program_of(graph, _smallest(network, graph), network.contract)
                made = torch.onnx.export(program, dynamo=True, verbose=False)
            assert made is not None
            model = made.model_proto.SerializeToString()
            OnnxGraph(model)  # a file that cannot be read would be converted again and again
            write_atomically(file, model)
    except Exception as error:  # of any library below
        raise Unusable(_reason(error)) from error
    files = sorted(cache.glob("*.onnx"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in files[_CACHED:]:
        old.unlink(missing_ok=True)


def _reason(error: BaseException) -> str:
    """An error of somebody else's in one line."""
    if isinstance(error, ImportError) and error.name:
        return f"{error.name} is not installed; pip install chromaclick[serve]"
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


def _parts(network: Loaded, cache: Path) -> dict[Path, nn.Module]:
    """What is converted, by its file. A split colorizer's palette, asked for a few cells, stays as it is."""
    if isinstance(network, LoadedSplitColorizer):
        graphs = {"-embed": network._parts.embed, "-colour": network._parts.color}
    else:
        graphs = {"": network._graph}
    name = network.fingerprint[:32]
    return {cache / f"{name}{part}-torch{torch.__version__}.onnx": graph for part, graph in graphs.items()}


def _read(file: Path) -> OnnxGraph:
    model = file.read_bytes()
    try:
        graph = OnnxGraph(model)
    except ImportError:
        raise
    except Exception as error:  # ONNX Runtime has a type of its own for each
        _log.warning("%s is broken, the network is converted again: %s", file, _reason(error))
        file.unlink(missing_ok=True)
        raise FileNotFoundError(2, "broken", str(file)) from error
    os.utime(file)
    return graph


def _with_graphs(network: Loaded, graphs: Sequence[nn.Module]) -> Loaded:
    """The same network, computed by others than its own graphs: the same checks, padding and cropping."""
    about = (network.contract, network.source, network.device)
    if isinstance(network, LoadedSplitColorizer):
        parts = network._parts
        embed, colour = graphs
        return LoadedSplitColorizer(SplitParts(embed, colour, parts.palette, parts.bins), *about)
    return type(network)(graphs[0], *about)


def _smallest(network: Loaded, graph: nn.Module) -> tuple[Tensor, ...]:
    """Inputs of one of a network's graphs: two smallest photos."""
    side = network.contract.min_size
    inputs = tuple(
        torch.zeros(2, port.channels or 1, side // port.cell, side // port.cell)
        for port in network.contract.inputs
    )
    if not isinstance(network, LoadedSplitColorizer):
        return inputs
    lightness, clicks = inputs
    clicks[:, 0, 0, 0] = 1.0  # the number of clicks is none of what an export takes as given
    return (lightness,) if graph is network._parts.embed else (lightness, clicks, *network.embed(lightness))


def _program_of(graph: nn.Module, inputs: tuple[Tensor, ...], contract: Contract) -> ExportedProgram:
    """The exported program again from a loaded graph: MLflow, which refuses pickles, hands over a module only.

    Batch and sides of every input are free; the sides in step with the first one's, the photo's.
    """
    if isinstance(
        graph, GraphModule
    ):  # checks of sizes that loading adds trip over an input that a head does not use
        for node in [node for node in graph.graph.nodes if node.target == "_guards_fn"]:
            graph.graph.erase_node(node)
        graph.recompile()
    batch, least = Dim("batch"), contract.min_size // contract.multiple
    sides = [Dim(f"{side}_blocks", min=least) for side in ("height", "width")]

    def free(x: Tensor) -> dict[int, Any]:
        values = x.shape[-1] // least
        return {0: batch, x.ndim - 2: values * sides[0], x.ndim - 1: values * sides[1]}

    return torch.export.export(graph, inputs, dynamic_shapes=tuple(free(x) for x in inputs))


def example(network: Loaded, height: int, width: int, batch: int = 1) -> tuple[Tensor, ...]:
    """Made-up inputs of a network, always the same."""
    generator = torch.Generator().manual_seed(0)
    contract = network.contract
    least, multiple = contract.min_size, contract.multiple

    def sides(cell: int) -> list[int]:
        """Of a map; one of cells has those of the padded photo."""
        padded = [max(least, math.ceil(side / multiple) * multiple) // cell for side in (height, width)]
        return [height, width] if cell == 1 else padded

    maps = {
        port.name: 2 * torch.rand(batch, port.channels or 1, *sides(port.cell), generator=generator) - 1
        for port in contract.inputs
    }
    maps["lightness"] = maps["lightness"].abs()
    maps["clicks"][:, 0] = (maps["clicks"][:, 0] > 0.99).float()
    maps["clicks"][:, 1:] *= maps["clicks"][:, :1]
    return tuple(maps.values())


@torch.no_grad()
def call(network: Any, inputs: Sequence[Tensor]) -> Tensor:
    """All that a network answers, as one tensor where it has several answers."""
    if isinstance(network, LoadedSplitColorizer):
        ab, features = network.color(network.embed(inputs[0]), *inputs)
        return torch.cat([ab.flatten(1), features.flatten(1)], 1)
    if isinstance(network, LoadedGuide) and network.reads_features:
        return network(*inputs[:-1], features=inputs[-1])
    return network(*inputs)


def main(words: Sequence[str]) -> int:
    """Convert a network: its kind, its URI, and the cache's folder."""
    kind, uri, cache = words
    os.nice(10)  # people are being answered
    try:
        convert(LOADERS[kind](uri), Path(cache))
    except (Unusable, ValueError, ConnectionError) as error:
        print(str(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
