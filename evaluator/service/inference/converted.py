"""An exported network in ONNX Runtime, and one compiled by torch: the runtimes that have to be made.

ONNX files are data, never code; each is checked against the exported graph before it is used.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from evaluator.registry.contract import Contract
from evaluator.registry.networks import LoadedColorizer, LoadedGuide, LoadedSplitColorizer, SplitParts
from evaluator.system.files import write_atomically

Loaded = LoadedColorizer | LoadedGuide
_log = logging.getLogger("chromaclick")
_CACHED = 12
"""Converted files that are kept, those used last: a split colorizer and its guide have three."""


class Unusable(Exception):
    """A runtime that cannot run a network, and why."""


class OnnxGraph(nn.Module):
    """Calls an ONNX file as the exported graph is called."""

    def __init__(self, model: bytes, threads: int = 0) -> None:
        """Read a file.

        Args:
            model: the file.
            threads: of a call; 0: as many as torch has.
        """
        super().__init__()
        import onnxruntime

        self._model = model
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
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

    def on_one_core(self) -> "OnnxGraph":
        """The same graph, each of whose calls is computed by the thread that makes it; several may call."""
        return OnnxGraph(self._model, threads=1)


def to_onnx(network: Loaded, cache: Path | None) -> Loaded:
    """The network in ONNX Runtime, converted from its exported program, batch and sides free.

    Args:
        network: as loaded.
        cache: folder of files converted earlier, by the network's fingerprint and torch's version; None: convert.

    Raises:
        Unusable: a package is missing, or the graph has something that ONNX has not.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise Unusable(f"{error.name} is not installed; pip install chromaclick[serve]") from error
    except Exception as error:  # installed, but not with what it needs: another protobuf, say
        raise Unusable(first_line(error)) from error
    try:
        if isinstance(network, LoadedSplitColorizer):
            return with_graph(network, _split_in_onnx(network, cache))
        return with_graph(network, _in_onnx(network, "", network._graph, _example(network.contract), cache))
    except Exception as error:  # of any library below
        raise Unusable(first_line(error)) from error


def _split_in_onnx(network: LoadedSplitColorizer, cache: Path | None) -> SplitParts:
    """Both large parts; the palette, which is asked for a few cells, stays as it is."""
    parts = network._parts
    lightness, clicks = _example(network.contract)
    clicks[:, 0, 0, 0] = 1.0  # the number of clicks is none of what an export takes as given
    with torch.no_grad():
        embedding = tuple(parts.embed(lightness))
    embed = _in_onnx(network, "-embed", parts.embed, (lightness,), cache)
    colour = _in_onnx(network, "-colour", parts.colour, (lightness, clicks, *embedding), cache)
    return SplitParts(embed, colour, parts.palette, parts.bins)


def _example(contract: Contract) -> tuple[Tensor, ...]:
    """Two smallest photos."""
    side = contract.min_size
    return tuple(
        torch.zeros(2, port.channels or 1, side // port.cell, side // port.cell) for port in contract.inputs
    )


def _in_onnx(
    network: Loaded, part: str, graph: nn.Module, example: tuple[Tensor, ...], cache: Path | None
) -> OnnxGraph:
    """A graph of a network from the cache, or converted and kept there."""
    name = f"{network.fingerprint[:32]}{part}-torch{torch.__version__}.onnx"
    file = None if cache is None else cache / name
    found = _from_cache(file)
    if found is None:
        model = _convert(graph, example, network.contract)
        if file is not None:
            _keep(file, model)
        found = OnnxGraph(model)
    return found


def _from_cache(file: Path | None) -> OnnxGraph | None:
    if file is None or not file.is_file():
        return None
    try:
        graph = OnnxGraph(file.read_bytes())
    except Exception as error:  # ONNX Runtime has a type of its own for each
        _log.warning("%s is broken, the network is converted again: %s", file, first_line(error))
        return None
    os.utime(file)
    return graph


def _keep(file: Path, model: bytes) -> None:
    write_atomically(file, model)
    others = sorted(file.parent.glob("*.onnx"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in others[_CACHED:]:
        old.unlink(missing_ok=True)


def _convert(graph: nn.Module, example: tuple[Tensor, ...], contract: Contract) -> bytes:
    with _quiet():
        program = torch.onnx.export(program_of(graph, example, contract), dynamo=True, verbose=False)
        assert program is not None
        return program.model_proto.SerializeToString()


def program_of(graph: nn.Module, example: tuple[Tensor, ...], contract: Contract) -> ExportedProgram:
    """The exported program again from a loaded graph: MLflow, which refuses pickles, hands over a module only."""
    _forget_guards(graph)
    return torch.export.export(graph, example, dynamic_shapes=_free(example, contract))


def _forget_guards(graph: nn.Module) -> None:
    """Without the checks of sizes that loading adds: they trip over an input that a head does not use."""
    if isinstance(graph, GraphModule):
        for node in [node for node in graph.graph.nodes if node.target == "_guards_fn"]:
            graph.graph.erase_node(node)
        graph.recompile()


def _free(example: tuple[Tensor, ...], contract: Contract) -> tuple[dict[int, Any], ...]:
    """Batch and sides of every input free; the sides in step with the first one's, the photo's."""
    batch, least = Dim("batch"), contract.min_size // contract.multiple
    sides = [Dim(f"{side}_blocks", min=least) for side in ("height", "width")]

    def free(x: Tensor) -> dict[int, Any]:
        values = x.shape[-1] // least
        return {0: batch, x.ndim - 2: values * sides[0], x.ndim - 1: values * sides[1]}

    return tuple(free(x) for x in example)


def to_compiled(network: Loaded, cache: Path | None) -> Loaded:
    """The network compiled by torch, once for all sizes. Takes a minute, and a C++ compiler.

    Raises:
        Unusable: compiling failed.
    """
    try:
        with torch.no_grad(), _quiet():
            compiled = cast(nn.Module, torch.compile(network._graph, dynamic=True))
            compiled(*(x.repeat(1, 1, 2, 2) for x in _example(network.contract)))
    except Exception as error:  # of any library below
        raise Unusable(first_line(error)) from error
    return with_graph(network, compiled)


def with_graph(network: Loaded, graph: nn.Module) -> Loaded:
    """The same network, computed by something else: the same checks, padding and cropping."""
    if isinstance(graph, SplitParts):
        return LoadedSplitColorizer(graph, network.contract, network.source, network.device)
    kind = LoadedColorizer if isinstance(network, LoadedColorizer) else LoadedGuide
    return kind(graph, network.contract, network.source, network.device)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the converters' warnings and remarks, which are about their own insides."""
    for name in ("onnx_ir", "onnxscript", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def first_line(error: BaseException) -> str:
    """An error of somebody else's, for a log."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
