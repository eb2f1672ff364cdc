"""MLflow tracker: runs, metrics, pictures and registered networks. The trainer's only module that uses MLflow.

By default a SQLite database in the work folder holds all runs; `MLFLOW_TRACKING_URI` names a server instead.
"""

import csv
import json
import logging
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from PIL import Image

from evaluator.registry.contract import FILE_NAME, Contract
from evaluator.registry.mlflow_registry import (
    CHAMPION,
    default_tracking_uri,
    new_client,
    unreachable,
    write_model_file,
)
from evaluator.registry.tags import tags_of
from trainer.config import flat
from trainer.monitoring.metric_queue import UNSENT, Entry, Outbox, Rejected, brief, now, within
from trainer.monitoring.tracker import NullTracker, Place

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run
else:  # stand-ins for the annotations: MLflow is imported on first use
    MlflowClient = Experiment = Run = Any

LONGEST_VALUE = 6000
"""Characters of a parameter that MLflow keeps."""
PARENT = "mlflow.parentRunId"
"""Tag by which MLflow's pages show a run below another one."""
_NAME = re.compile(r"[\w\-. /:]{1,250}")


def open_tracker(
    place: Place, *, rank: int = 0, run_id: str | None = None, resumed_at_step: int = 0
) -> NullTracker:
    """Start a run or resume one; only rank 0 gets a real tracker.

    A resumed run logs the steps after its checkpoint a second time, and MLflow keeps both points. As a resumed
    training repeats itself exactly, they coincide unless a setting was changed. The tag `resumed_at_step` lists
    where the run was taken up, `config_changed` what was changed; the first config's parameters stay.

    Args:
        place: where to record it.
        rank: this process's.
        run_id: the run to resume, from a checkpoint; None starts one.
        resumed_at_step: step of that checkpoint.

    Raises:
        ConnectionError: server or database do not answer within half a minute.
        ValueError: there is no such run.
    """
    return NullTracker() if rank else Tracker(place, run_id, resumed_at_step)


class Tracker(NullTracker):
    """An MLflow run; see `open_tracker`.

    Everything but `register` is queued and sent by a thread of its own (`trainer.monitoring.metric_queue`), so a
    server that is slow or down costs the training nothing, and nothing is lost without a word.
    """

    def __init__(
        self, place: Place, run_id: str | None = None, resumed_at_step: int = 0, start_seconds: float = 30.0
    ) -> None:
        self.place = place
        self.uri = place.tracking_uri or default_tracking_uri(place.work)
        if self.uri.startswith("sqlite:///"):
            Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        place.folder.mkdir(parents=True, exist_ok=True)
        self._client, run = _start(start_seconds, self.uri, lambda: self._begin(run_id))
        self.run_id: str = run.info.run_id
        self._experiment_id = run.info.experiment_id
        self._known = dict(run.data.params)
        self._resumed_at = resumed_at_step if run_id else None
        self._skipped = 0
        self._open = True
        unsent = place.folder / UNSENT.format(self.run_id)
        self._outbox = Outbox(self._send, unsent, place.warn)
        self._machine = _Machine(self.run_id, self.uri) if place.system_metrics else None
        if run_id:
            earlier = run.data.tags.get("resumed_at_step")
            self.set_tags({"resumed_at_step": ", ".join(filter(None, (earlier, str(resumed_at_step))))})

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Log the config; a resumed run keeps its first parameters and lists those that changed."""
        name = "config.json" if self._resumed_at is None else f"config-resumed-at-{self._resumed_at}.json"
        if (self.place.folder / name).exists():  # the training has written it itself
            self._keep(self.place.folder / name, name)
        else:
            self.log_text(json.dumps(config, indent=2, default=str) + "\n", name)
        values = {name: str(value)[:LONGEST_VALUE] for name, value in flat(config).items()}
        new = {name: value for name, value in values.items() if name not in self._known}
        changed = [name for name, value in values.items() if self._known.get(name, value) != value]
        self._outbox.put(Entry("param", _valid(name), value) for name, value in new.items())
        self._known |= new
        if changed:
            self.set_tags({"config_changed": ", ".join(changed)})

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags of the run; later values replace earlier ones.

        Raises:
            ValueError: a name that MLflow does not take.
        """
        self._outbox.put([Entry("tag", _valid(name), str(value)[:LONGEST_VALUE]) for name, value in tags.items()])

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Queue metrics; returns at once. Non-finite values are dropped and counted.

        Raises:
            ValueError: a name that MLflow does not take.
        """
        finite = {_valid(name): float(value) for name, value in metrics.items() if math.isfinite(value)}
        self._skipped += len(metrics) - len(finite)
        time = now()
        self._outbox.put(Entry("metric", name, value, step, time) for name, value in finite.items())
        if self._machine and (sample := self._machine.sample()):
            self._outbox.put(Entry("metric", name, value, step, time) for name, value in sample.items())

    def log_picture(self, picture: Path | Image.Image, name: str) -> None:
        """Store a picture in the run's folder and in MLflow."""
        target = self._target(name)
        if isinstance(picture, Image.Image):
            picture.save(target)
        elif picture.resolve() != target.resolve():
            shutil.copyfile(picture, target)
        self._keep(target, name)

    def log_text(self, text: str, name: str) -> None:
        """Store a text in the run's folder and in MLflow."""
        target = self._target(name)
        target.write_text(text, encoding="utf-8")
        self._keep(target, name)

    def log_table(self, rows: Sequence[Mapping[str, object]], name: str) -> None:
        """Store a table as a CSV file in the run's folder and in MLflow."""
        target = self._target(name)
        with target.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]) if rows else [])
            writer.writeheader()
            writer.writerows(rows)
        self._keep(target, name)

    def register(self, folder: Path) -> int:
        """Register an exported network under its contract's name; the first version becomes `champion`.

        The folder gets an `MLmodel` file, so that MLflow can load it, and is stored with the run.

        Raises:
            ConnectionError: MLflow does not answer; the network stays in `folder` and loads from there.
            ValueError: there is no contract in the folder.
        """
        contract = Contract.read(folder / FILE_NAME)
        from mlflow.exceptions import MlflowException

        try:
            return self._register(folder, contract)
        except (MlflowException, OSError) as error:
            raise ConnectionError(
                f"{contract.name} could not be registered at {self.uri} ({brief(error)}); the network is kept: "
                f"use {folder} in place of models:/{contract.name}"
            ) from error

    def flush(self, timeout: float = 30.0) -> bool:
        """Deliver the queue within `timeout` seconds; returns whether all was delivered."""
        return self._outbox.flush(timeout)

    def finish(self, status: str = "FINISHED") -> None:
        """End the run; what could not be delivered is written to the run's folder."""
        if not self._open:
            return
        self._open = False
        if self._skipped:
            self.set_tags({"metrics_not_finite": self._skipped})
        if self._outbox.close():
            return  # it does not answer, and shows the run as running until it is resumed
        try:
            self._client.set_terminated(self.run_id, status)
        except Exception as error:  # whatever goes wrong with tracking must not end a training
            self.place.warn(f"the run's end could not be recorded as {status} ({brief(error)})")

    def _begin(self, run_id: str | None) -> tuple[MlflowClient, Run]:
        client = new_client(self.uri)
        if run_id is None:
            experiment = _experiment(client, self.place.experiment, self.uri, self.place.work)
            tags = {PARENT: self.place.parent_run} if self.place.parent_run else None
            return client, client.create_run(experiment.experiment_id, run_name=self.place.name or None, tags=tags)
        run = _run(client, run_id, self.uri)
        client.update_run(run_id, status="RUNNING")
        return client, run

    def _send(self, batch: Sequence[Entry]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._send_one_kind(batch)
        except MlflowException as error:
            if error.get_http_status_code() in (400, 404):
                raise Rejected(str(error)) from error
            raise

    def _send_one_kind(self, batch: Sequence[Entry]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        match batch[0].kind:
            case "metric":
                metrics = [Metric(entry.key, float(entry.value), entry.time, entry.step) for entry in batch]
                self._client.log_batch(self.run_id, metrics=metrics)
            case "param":
                self._client.log_batch(self.run_id, params=[Param(entry.key, str(entry.value)) for entry in batch])
            case "tag":
                self._client.log_batch(self.run_id, tags=[RunTag(entry.key, str(entry.value)) for entry in batch])
            case "artifact":
                if not Path(batch[0].key).is_file():
                    raise Rejected(f"{batch[0].key} is gone")
                self._client.log_artifact(self.run_id, batch[0].key, str(batch[0].value) or None)

    def _target(self, name: str) -> Path:
        target = self.place.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _keep(self, file: Path, name: str) -> None:
        inside = Path(name).parent.as_posix()
        self._outbox.put([Entry("artifact", str(file), "" if inside == "." else inside)])

    def _register(self, folder: Path, contract: Contract) -> int:
        logged = self._client.create_logged_model(self._experiment_id, contract.name, self.run_id)
        write_model_file(folder, contract, run_id=self.run_id, model_id=logged.model_id)
        self._client.log_model_artifacts(logged.model_id, str(folder))
        self._client.finalize_logged_model(logged.model_id, "READY")
        _ensure_registered(self._client, contract.name)
        version = self._client.create_model_version(  # `models:/` as source would be looked up in a global URI
            contract.name, logged.artifact_location, self.run_id, tags_of(contract), model_id=logged.model_id
        )
        if int(version.version) == 1:
            self._client.set_registered_model_alias(contract.name, CHAMPION, "1")
        return int(version.version)


class _Machine:
    """System metrics of this machine, by MLflow's own monitors.

    MLflow's monitor has a thread that sends them by itself, and waits for a server that is down; here they go
    through the outbox, with the training's metrics.
    """

    def __init__(self, run_id: str, uri: str) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        with _quiet("mlflow.system_metrics"):
            self._monitor = SystemMetricsMonitor(run_id, tracking_uri=uri)
        self._next = 0.0

    def sample(self) -> dict[str, float]:
        """System metrics by MLflow's names, every 10 s (`MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL`), else none."""
        if monotonic() < self._next:
            return {}
        self._next = monotonic() + self._monitor.sampling_interval
        self._monitor.collect_metrics()
        values = self._monitor.aggregate_metrics()
        for part in self._monitor.monitors:
            part.clear_metrics()
        return {_valid(f"system/{name}"): float(value) for name, value in values.items()}


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silence a logger below warnings: MLflow's monitor complains about GPUs that do not exist."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def _valid(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"MLflow does not take the name {name!r}; use letters, digits and _ - . / : or spaces")
    return name


def _start(seconds: float, uri: str, begin: Callable[[], tuple[MlflowClient, Run]]) -> tuple[MlflowClient, Run]:
    """Result of `begin`, or an error after a timeout; MLflow would take minutes to give up on a silent server."""
    from mlflow.exceptions import MlflowException

    try:
        return within(seconds, begin)
    except MlflowException as error:
        if error.get_http_status_code() == 400:
            raise ValueError(f"MLflow at {uri} refuses the run: {error.message}") from error
        raise unreachable(uri, error) from error
    except TimeoutError as error:
        raise unreachable(uri, error) from error


def _experiment(client: MlflowClient, name: str, uri: str, work: Path) -> Experiment:
    """Id of the experiment of this name; a database in the work folder stores artifacts there too."""
    from mlflow.exceptions import MlflowException

    if found := client.get_experiment_by_name(name):
        return found
    place = None if uri.startswith(("http", "databricks")) else (work / "mlartifacts").resolve().as_uri()
    try:
        return client.get_experiment(client.create_experiment(name, artifact_location=place))
    except MlflowException:
        if found := client.get_experiment_by_name(name):  # another process was faster
            return found
        raise


def _run(client: MlflowClient, run_id: str, uri: str) -> Run:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.get_http_status_code() != 404:
            raise
        raise ValueError(
            f"the checkpoint's run {run_id} is not in {uri}; set MLFLOW_TRACKING_URI to where it was started"
        ) from error


def _ensure_registered(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
