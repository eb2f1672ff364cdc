"""A finished benchmark as a run in MLflow: settings, figures and files, so that runs can be compared in its UI."""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from evaluator.registry.mlflow_registry import import_mlflow, new_client, unreachable

EXPERIMENT = "chromaclick-benchmark"
_BATCH = 500
_NOT_IN_NAMES = re.compile(r"[^\w\-. /:]")
_NO_METRIC = ("policy", "clicks", "photos", "height", "width", "hint_size", "seed")
_MAX_CHARACTERS = 500


def wanted(switch: str, colorizer: str) -> bool:
    """Whether to log: "on", or "auto" with a colorizer from a registry or `MLFLOW_TRACKING_URI` set."""
    from_registry = colorizer.startswith(("models:/", "runs:/"))
    return switch == "on" or (switch == "auto" and (from_registry or bool(os.environ.get("MLFLOW_TRACKING_URI"))))


def log_run(tracking_uri: str, name: str, summary: Mapping[str, Any], files: Sequence[Path]) -> str:
    """Log one benchmark and return its run's id.

    Means become metrics like `random/ab_psnr` with the number of clicks as their step, so that MLflow draws click
    curves; the NRI is one number per policy.

    Raises:
        ConnectionError: MLflow does not answer, or does not take it.
    """
    mlflow = import_mlflow()
    try:
        client = new_client(tracking_uri)
        found = client.get_experiment_by_name(EXPERIMENT)
        experiment = (
            found.experiment_id if found else client.create_experiment(EXPERIMENT, _artifacts(tracking_uri))
        )
        run_id = client.create_run(experiment, run_name=name).info.run_id
        try:
            _fill(mlflow, client, run_id, summary, files)
        except BaseException:
            with suppress(mlflow.MlflowException, OSError):  # the first error says why
                client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id)
    except ConnectionError:
        raise
    except (mlflow.MlflowException, OSError) as error:
        raise unreachable(tracking_uri, error) from error
    return run_id


def _fill(mlflow: ModuleType, client: Any, run_id: str, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
    """Parameters, metrics and files of a run."""
    parameters = [mlflow.entities.Param(key, value) for key, value in _parameters(summary).items()]
    client.log_batch(run_id, params=parameters)
    now = int(time.time() * 1000)
    metrics = [mlflow.entities.Metric(key, value, now, step) for key, value, step in _metrics(summary)]
    for first in range(0, len(metrics), _BATCH):
        client.log_batch(run_id, metrics=metrics[first : first + _BATCH])
    for file in files:
        client.log_artifact(run_id, str(file))


def _artifacts(tracking_uri: str) -> str | None:
    """A database keeps files in its folder, as the trainer's do; a server stores them as it likes."""
    file = tracking_uri.removeprefix("sqlite:///")
    return None if file == tracking_uri else (Path(file).parent / "mlartifacts").resolve().as_uri()


def _parameters(summary: Mapping[str, Any]) -> dict[str, str]:
    networks = {"colorizer": summary["colorizer"], **summary["guides"]}
    values = {
        **summary["protocol"],
        "preset": (summary["preset"] or {}).get("name", ""),
        "photos": summary["photos"]["source"],
        "photos_count": summary["photos"]["count"],
        "photos_sha256": summary["photos"]["sha256"],
        "commit": summary["commit"],
        **{role: network["source"] for role, network in networks.items()},
        **{
            f"{role}_estimator": network["estimator"] for role, network in networks.items() if network["estimator"]
        },
    }
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return {key: text[:_MAX_CHARACTERS] for key, text in texts.items()}


def _metrics(summary: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """Name, value and step."""
    for row in summary["rows"]:
        for name, value in row.items():
            if name not in _NO_METRIC and isinstance(value, int | float):
                yield _named(f"{row['policy']}/{name}"), float(value), int(row["clicks"])
    for row in summary["nri"]:
        name = f"nri/{row['policy']}/{row['metric']}_{row['level']:g}"
        yield _named(name), float(row["mean"]), 0
        yield _named(f"{name}_failures"), float(row["failures"]), 0
    for row in summary["fid"]:
        if row["value"] is not None:
            yield _named(f"{row['policy']}/fid"), float(row["value"]), int(row["clicks"])


def _named(name: str) -> str:
    return _NOT_IN_NAMES.sub("_", name)
