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

from evaluator.atomic import write_atomically
from evaluator.contract import Contract
from evaluator.loaded import LoadedColorizer, LoadedGuide

Loaded = LoadedColorizer | LoadedGuide
_log = logging.getLogger("chromaclick")
_CACHED = 8
"""Converted files that are kept, those used last."""


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

    def forward(self, *inputs: Tensor) -> Tensor:
        """The graph's output."""
        arrays = {name: np.ascontiguousarray(x.numpy()) for name, x in zip(self._names, inputs, strict=True)}
        return torch.from_numpy(self._session.run(None, arrays)[0])

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
    file = None if cache is None else cache / f"{network.fingerprint[:32]}-torch{torch.__version__}.onnx"
    try:
        return with_graph(network, _from_cache(file) or _from_graph(network, file))
    except Exception as error:  # of any library below
        raise Unusable(first_line(error)) from error


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


def _from_graph(network: Loaded, file: Path | None) -> OnnxGraph:
    model = _convert(network)
    if file is not None:
        _keep(file, model)
    return OnnxGraph(model)


def _keep(file: Path, model: bytes) -> None:
    write_atomically(file, model)
    others = sorted(file.parent.glob("*.onnx"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in others[_CACHED:]:
        old.unlink(missing_ok=True)


def _convert(network: Loaded) -> bytes:
    with _quiet():
        program = torch.onnx.export(program_of(network), dynamo=True, verbose=False)
        assert program is not None
        return program.model_proto.SerializeToString()


def program_of(network: Loaded) -> ExportedProgram:
    """The exported program again from a loaded graph: MLflow, which refuses pickles, hands over a module only."""
    contract, graph = network.contract, network._graph
    side = contract.min_size
    example = tuple(torch.zeros(2, port.channels or 1, side, side) for port in contract.inputs)
    return torch.export.export(graph, example, dynamic_shapes=_free(contract))


def _free(contract: Contract) -> tuple[dict[int, Any], ...]:
    least = contract.min_size // contract.multiple
    height, width = (contract.multiple * Dim(f"{side}_blocks", min=least) for side in ("height", "width"))
    return tuple({0: Dim("batch"), 2: height, 3: width} for _ in contract.inputs)


def to_compiled(network: Loaded, cache: Path | None) -> Loaded:
    """The network compiled by torch, once for all sizes. Takes a minute, and a C++ compiler.

    Raises:
        Unusable: compiling failed.
    """
    side = 2 * network.contract.min_size
    example = tuple(torch.zeros(2, port.channels or 1, side, side) for port in network.contract.inputs)
    try:
        with torch.no_grad(), _quiet():
            compiled = cast(nn.Module, torch.compile(network._graph, dynamic=True))
            compiled(*example)
    except Exception as error:  # of any library below
        raise Unusable(first_line(error)) from error
    return with_graph(network, compiled)


def with_graph(network: Loaded, graph: nn.Module) -> Loaded:
    """The same network, computed by something else: the same checks, padding and cropping."""
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
