"""Loading and promotion of exported networks in an MLflow registry or a folder. Never imports the trainer.

The only module of the evaluator that uses MLflow, which takes most of a second to import and is therefore imported
on first use. Pickles are never loaded.
"""

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from evaluator import weights
from evaluator.baselines import BASELINES
from evaluator.registry.contract import FILE_NAME, Contract, Port
from evaluator.registry.networks import (
    LoadedColorizer,
    LoadedGuide,
    LoadedNetwork,
    LoadedSplitColorizer,
    SplitParts,
    load_baseline,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature
else:  # stand-ins for the annotations
    MlflowClient = ModelVersion = ModelSignature = Any

CHAMPION = "champion"
"""Alias of the version that is used by default."""
GRAPH_FILE = "data/model.pt2"
"""Where a model folder holds its graph."""
PART_FILES = {name: f"parts/{name}.pt2" for name in ("embed", "color", "palette")}
"""Where the folder of a split colorizer holds the graphs of its parts."""
BINS_FILE = "parts/bins.json"
"""The colors that its palette speaks of."""
_REGISTERED = ("models:/", "runs:/")
_MAKE_ONE = "`accelerate launch trainer/main.py` trains networks and registers them"
_SETTINGS = {
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # no chatter about migrations
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # it would use the network
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # about 5 s on a refused connection; MLflow's own 7 take minutes
}


def import_mlflow() -> ModuleType:
    """Import MLflow quietly, without telemetry, and with unpickling disabled.

    Settings of the environment win over ours, but for the last.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    import mlflow

    # It prints, with a trace, what it raises as well, at each of our retries.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return mlflow


def default_tracking_uri(work: Path | str = "runs") -> str:
    """`MLFLOW_TRACKING_URI` where it is set, else the SQLite database of the work folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(work).resolve() / 'mlflow.db'}"


def load_colorizer(uri: str | Path, tracking_uri: str | None = None, device: str = "cpu") -> LoadedColorizer:
    """Load a colorizer; see `load`. Raises a ValueError for a guide.

    A name in `evaluator.baselines.BASELINES` stands for that colorizer without a network, also where a folder is
    called so: write ./kernel for the folder.
    """
    if str(uri) in BASELINES:
        return load_baseline(BASELINES[str(uri)], device)
    try:
        network = _load(uri, tracking_uri, device, weights.COLORIZER)
    except ValueError as error:
        if str(uri).startswith(_REGISTERED) or str(uri) == weights.SHIPPED or Path(uri).exists():
            raise
        raise ValueError(
            f"{error}; without a network, --colorizer takes {' and '.join(BASELINES)}, and {weights.SHIPPED} is "
            "the one that comes with the package"
        ) from error
    if not isinstance(network, LoadedColorizer):
        raise ValueError(f"{uri} is a guide ({network.contract.name}); give a colorizer, such as models:/colornet")
    return network


def load_guide(uri: str | Path, tracking_uri: str | None = None, device: str = "cpu") -> LoadedGuide:
    """Load a guide; see `load`. Raises a ValueError for a colorizer."""
    network = _load(uri, tracking_uri, device, weights.GUIDE)
    if not isinstance(network, LoadedGuide):
        raise ValueError(
            f"{uri} is a colorizer ({network.contract.name}); give a guide, such as models:/editnet-blind"
        )
    return network


def load(uri: str | Path, tracking_uri: str | None = None, device: str = "cpu") -> LoadedNetwork:
    """Load an exported network with its contract.

    Args:
        uri: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/RUN/NAME`, a model folder, a `.pt2` file with
            its `contract.json` beside it or one folder up, or `shipped`: the colorizer that comes with the
            package (for `load_guide`, its blind guide).
        tracking_uri: MLflow server or database; None: see `default_tracking_uri`.
        device: where to run it.

    Raises:
        ValueError: nothing there (the message says what is, and which command makes one), a pickle, a bad
            contract, or a shipped file that is damaged.
        ConnectionError: the MLflow server does not answer.
    """
    return _load(uri, tracking_uri, device, weights.COLORIZER)


def _load(uri: str | Path, tracking_uri: str | None, device: str, shipped: str) -> LoadedNetwork:
    """`load`, with the name `shipped` resolved to one of the two."""
    target = torch.device(device)
    with tempfile.TemporaryDirectory(prefix="network-") as scratch:
        if str(uri).startswith(_REGISTERED):
            place, source = _fetch(str(uri), tracking_uri or default_tracking_uri(), scratch)
        elif str(uri) == weights.SHIPPED:
            place, source = weights.verified(shipped), weights.SHIPPED
        else:
            place, source = Path(uri), str(uri)
        graph_file, contract_file = _files(place, source)
        contract = Contract.read(contract_file)
        if source == weights.SHIPPED:
            source = weights.source_of(contract)
        if contract.kind == "colorizer" and contract.features:
            parts = _open_parts(contract_file.parent, target, source)
            return LoadedSplitColorizer(parts, contract, source, parts.bins.device)
        graph = _open(_there(graph_file, source), target, source)
    kind = LoadedColorizer if contract.kind == "colorizer" else LoadedGuide
    return kind(graph, contract, source, next((weight.device for weight in graph.parameters()), target))


def _open_parts(folder: Path, device: torch.device, source: str) -> SplitParts:
    """Graphs of a split colorizer's parts."""
    graphs = [_open(_there(folder / file, source), device, source) for file in PART_FILES.values()]
    parts = SplitParts(*graphs, bins=read_tensor(_there(folder / BINS_FILE, source)))
    return parts.to(device)


def read_tensor(file: Path) -> Tensor:
    """Read a tensor that `write_tensor` wrote."""
    return torch.tensor(json.loads(file.read_text(encoding="utf-8")))


def write_tensor(file: Path, values: Tensor) -> None:
    """Write a small tensor as JSON."""
    file.write_text(json.dumps(values.tolist()), encoding="utf-8")


def _files(place: Path, source: str) -> tuple[Path, Path]:
    """Graph and contract files of a model folder or a `.pt2` file."""
    if place.suffix == ".pt2":
        beside = place.with_name(FILE_NAME)
        graph_file, contract_file = place, beside if beside.exists() else place.parent.parent / FILE_NAME
    else:
        found = [place / name for name in (GRAPH_FILE, "model.pt2") if (place / name).exists()]
        graph_file, contract_file = found[0] if found else place / GRAPH_FILE, place / FILE_NAME
    return (graph_file if contract_file.is_file() else _there(graph_file, source)), contract_file


def _there(file: Path, source: str) -> Path:
    """The file, if it exists."""
    if not file.is_file():
        raise ValueError(
            f"{source} has no exported graph ({file} is missing); pickles are never loaded. {_MAKE_ONE}"
        )
    return file


def _open(graph_file: Path, device: torch.device, source: str) -> nn.Module:
    """Load a pt2 archive through MLflow, which refuses archives with pickled code (torch alone would run it)."""
    mlflow = import_mlflow()
    from mlflow.pytorch import load_model

    with tempfile.TemporaryDirectory(prefix="graph-") as folder:
        (Path(folder) / "data").mkdir()
        (Path(folder) / GRAPH_FILE).symlink_to(graph_file.resolve())
        write_model_file(Path(folder))
        try:
            graph = load_model(folder)
        except mlflow.MlflowException as error:
            raise ValueError(f"{source} is refused: {error.message}") from error
    if device.type != "cpu":  # exported on the CPU: also constants inside the graph have to move
        program = move_to_device_pass(torch.export.load(graph_file), device)
        graph = program.module()
    return graph.requires_grad_(False)


def write_model_file(
    folder: Path, contract: Contract | None = None, *, run_id: str | None = None, model_id: str | None = None
) -> None:
    """Write the file that makes a folder with a graph a model of MLflow's pytorch flavor.

    `mlflow.pytorch.save_model` would export a second time, with sides that are free but not bound to be multiples
    and a batch of at least two; so a graph that was checked is stored as it is.

    Args:
        folder: has the graph.
        contract: gives the signature.
        run_id: the run that made it.
        model_id: MLflow's id of it.
    """
    from mlflow.models import Model

    signature = _signature(contract) if contract else None
    about = {"contract": FILE_NAME}
    model = Model(run_id=run_id, model_id=model_id, signature=signature, metadata=about)
    model.add_flavor("pytorch", model_data="data", pytorch_version=str(torch.__version__), code=None)
    model.save(str(folder / "MLmodel"))


def _signature(contract: Contract) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def schema(ports: tuple[Port, ...]) -> Schema:
        return Schema([TensorSpec(np.dtype(port.dtype), port.shape, port.name) for port in ports])

    return ModelSignature(inputs=schema(contract.inputs), outputs=schema(contract.outputs))


def connect(tracking_uri: str) -> MlflowClient:
    """Client of an existing database or of a server.

    Raises:
        ValueError: there is no such SQLite file (it is not created).
        ConnectionError: the file is no database.
    """
    file = tracking_uri.removeprefix("sqlite:///")
    if file != tracking_uri and not Path(file).is_file():
        raise ValueError(f"there is no MLflow database at {file}; {_MAKE_ONE}, or set MLFLOW_TRACKING_URI")
    return new_client(tracking_uri)


def new_client(tracking_uri: str) -> MlflowClient:
    """Client of a server or of a database, which is created where necessary.

    Raises:
        ConnectionError: the database cannot be used.
    """
    mlflow = import_mlflow()
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return mlflow.MlflowClient(tracking_uri=tracking_uri)
    except SQLAlchemyError as error:
        raise unreachable(tracking_uri, error) from error


@contextmanager
def _explained(what: str, tracking_uri: str, client: MlflowClient) -> Iterator[None]:
    """Context that turns MLflow's errors into ours: ValueErrors for unknown names, else ConnectionErrors."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.get_http_status_code() not in (400, 404):
            raise unreachable(tracking_uri, error) from error
        names = ", ".join(_describe(model) for model in client.search_registered_models()) or "nothing"
        raise ValueError(
            f"{what} is not in {tracking_uri} ({error.message}); registered there: {names}. {_MAKE_ONE}"
        ) from error


def unreachable(tracking_uri: str, error: Exception) -> ConnectionError:
    """Error for a server or database that does not answer."""
    reason = str(error).partition("\n")[0][:200]
    return ConnectionError(
        f"MLflow at {tracking_uri} does not answer; start it, or correct MLFLOW_TRACKING_URI, or unset that to "
        f"use a local database ({reason})"
    )


def _describe(model: Any) -> str:
    aliases = "".join(f" @{alias}={version}" for alias, version in sorted(model.aliases.items()))
    return model.name + aliases


def _fetch(uri: str, tracking_uri: str, scratch: str) -> tuple[Path, str]:
    """Folder of a registered or logged model, downloaded where it is not local, and its exact source."""
    client = connect(tracking_uri)
    with _explained(uri, tracking_uri, client):
        location, source = _location(client, uri)
        local = location.removeprefix("file://")
        if local.startswith("/"):
            return Path(local), source
        from mlflow.artifacts import download_artifacts

        return Path(download_artifacts(artifact_uri=location, dst_path=scratch, tracking_uri=tracking_uri)), source


def _location(client: MlflowClient, uri: str) -> tuple[str, str]:
    """Storage location of a model, and the URI with its alias resolved.

    `mlflow.artifacts` would look up `models:/` and `runs:/` in the process-wide tracking URI; this does not.
    """
    path = uri.split(":/", 1)[1].strip("/")
    if uri.startswith("runs:/"):
        run_id, _, name = path.partition("/")
        run = client.get_run(run_id)
        models = client.search_logged_models([run.info.experiment_id], filter_string=f"name = '{name}'")
        logged = [model.artifact_location for model in models if model.source_run_id == run_id]
        return (logged[0] if logged else f"{run.info.artifact_uri}/{name}"), uri
    name, alias, label = path.rpartition("@") if "@" in path else path.rpartition("/")
    if not name or not label:
        raise ValueError(f"{uri} names no version; write models:/NAME@{CHAMPION} or models:/NAME/VERSION")
    get = client.get_model_version_by_alias if alias == "@" else client.get_model_version
    version = get(name, label)
    return client.get_model_version_download_uri(name, str(version.version)), f"models:/{name}/{version.version}"


def versions(tracking_uri: str) -> list[ModelVersion]:
    """All registered versions by name, newest first, with their aliases.

    Raises:
        ValueError: there is no database.
        ConnectionError: the server does not answer.
    """
    client = connect(tracking_uri)
    with _explained("the registry", tracking_uri, client):
        found = client.search_model_versions()
        return [
            client.get_model_version(version.name, str(version.version))
            for version in sorted(found, key=lambda one: (one.name, -int(one.version)))
        ]


def champion(tracking_uri: str, name: str) -> str | None:
    """Version of a registered network with the alias `champion`; None if there is none.

    Raises:
        ValueError: there is no database, or no network of this name.
        ConnectionError: the server does not answer.
    """
    client = connect(tracking_uri)
    with _explained(name, tracking_uri, client):
        version = client.get_registered_model(name).aliases.get(CHAMPION)
        return None if version is None else str(version)


def promote(tracking_uri: str, name: str, version: str, why: Mapping[str, str]) -> None:
    """Give a version the alias `champion`, and record why: tags `promotion.*`, and a line of its description.

    The alias moves last, in one step: whoever loads `@champion` gets the old version or the new one.

    Raises:
        ValueError: there is no such version.
        ConnectionError: the server does not answer.
    """
    client = connect(tracking_uri)
    with _explained(f"{name}/{version}", tracking_uri, client):
        before = client.get_model_version(name, version).description
        for key, value in why.items():
            client.set_model_version_tag(name, version, f"promotion.{key}", value)
        line = f"Promoted: {in_words(why)}"
        client.update_model_version(name, version, f"{before}\n{line}" if before else line)
        client.set_registered_model_alias(name, CHAMPION, version)


def in_words(why: Mapping[str, str]) -> str:
    """Reasons in one line."""
    return "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in why.items())
