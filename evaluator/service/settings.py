"""Settings of the service, each a flag of `serve` and an environment variable `CHROMACLICK_*`."""

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

from evaluator.registry.mlflow_registry import default_tracking_uri

PREFIX = "CHROMACLICK_"
_log = logging.getLogger("chromaclick")
_MIB = 2**20
RUNTIMES = ("torch", "onnxruntime")
_AT_LEAST: dict[str, float] = {
    "working_size": 16,
    "store_mib": 1,
    "most_upload_mib": 1,
    "most_megapixels": 0.001,
    "embeddings_mib": 0,
    "upload_workers": 1,
    "upload_seconds": 0.1,
    "most_batch": 1,
    "most_waiting": 1,
    "deadline_seconds": 0.1,
    "most_requests": 1,
    "most_jobs": 1,
    "rate": 0,
    "burst": 1,
    "refresh_seconds": 0,
    "threads": 0,
    "shutdown_seconds": 0,
}
_BOOLEANS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_ORIGIN = re.compile(r"https?://[^/\s*]+")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Serve the page and the API.

    Raises:
        ValueError: a value that cannot work; the message names the flag.
    """

    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 for every one of this machine."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    work: Path = Path("runs")
    """Work folder: its mlflow.db is the registry, and photos and jobs are kept in it."""
    registry: str = ""
    """MLflow server or database; default: MLFLOW_TRACKING_URI, else the work folder's."""
    colorizer: str = ""
    """What colors: models:/NAME@ALIAS, models:/NAME/VERSION, a model folder, a .pt2 file, or shipped.
    Default: models:/colornet@champion; while there is no champion of both kinds, the networks that ship."""
    guide: str = ""
    """What proposes clicks, as --colorizer; it must be blind.
    Default: models:/editnet-blind@champion, or shipped."""
    store: str = ""
    """Folder of the photos and jobs; replicas share it. Default: WORK/service."""
    store_mib: int = 4096
    """Photos that were not used for longest leave the store when it is larger, in MiB; so do finished batches."""
    working_size: int = 256
    """Long side at which the networks see a photo, in pixels."""
    most_upload_mib: int = 64
    """Largest file that is taken, in MiB."""
    most_megapixels: float = 50.0
    """Largest photo that is taken, in millions of pixels."""
    embeddings_mib: int = 256
    """Memory for what a split colorizer saw in open photos, in MiB; at 256 px a photo takes 8."""
    upload_workers: int = 2
    """Processes that parse uploads."""
    upload_seconds: float = 30.0
    """Longest time for parsing an upload, and longest pause of a client that sends one."""
    most_batch: int = 8
    """Most requests that a GPU computes together; a CPU computes them one after the other."""
    most_waiting: int = 32
    """Most requests that wait for the network; more are told to come back (429)."""
    deadline_seconds: float = 10.0
    """Longest time for a preview or a suggestion, with its wait; six times that for a file in full size."""
    most_requests: int = 128
    """Most requests under way at once, of all kinds."""
    most_jobs: int = 4
    """Most batch jobs that are queued or running."""
    rate: float = 50.0
    """Requests per second of one client; 0: no limit."""
    burst: int = 200
    """Requests that a client may make at once before --rate counts."""
    token: str = ""
    """Bearer token that /v1 and /metrics then ask for. Better by CHROMACLICK_TOKEN: flags are seen by others."""
    origins: tuple[str, ...] = ()
    """Other web sites that may call the API (CORS), such as https://photos.example; default: none."""
    hosts: tuple[str, ...] = ()
    """Names under which the service is called; default: any, or this machine's where --host is this machine."""
    proxies: str = ""
    """Addresses of proxies whose X-Forwarded-For is believed, with commas; default: none."""
    allow_switch: Literal["auto", "yes", "no"] = "auto"
    """Whether anybody may change networks where there is no token; auto: only where --host is this machine."""
    runtimes: tuple[str, ...] = RUNTIMES
    """What runs the networks: with both, torch answers at once, and onnxruntime takes over when it is ready, if it
    gives the same numbers. One alone is forced."""
    refresh_seconds: float = 30.0
    """How often aliases such as @champion are looked up again; 0: never."""
    threads: int = 0
    """CPU threads of the networks; 0: all cores."""
    shutdown_seconds: float = 10.0
    """Time for requests under way when the service is stopped."""

    def __post_init__(self) -> None:
        for name, least in _AT_LEAST.items():
            if not getattr(self, name) >= least:  # also NaN
                raise ValueError(f"{_flag(name)} is {getattr(self, name)}; it must be at least {least:g}")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"--port is {self.port}; it must be 0 to 65535")
        if not self.runtimes or set(self.runtimes) - set(RUNTIMES):
            raise ValueError(f"--runtimes is {self.runtimes}; give one or several of {', '.join(RUNTIMES)}")
        for origin in self.origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"--origins has {origin!r}; write scheme and host, such as https://photos.example"
                )
        if self.token and (len(self.token) < 16 or not self.token.isascii()):
            raise ValueError(f"the token has {len(self.token)} characters; give at least 16, of ASCII")

    @property
    def tracking_uri(self) -> str:
        """URI of the registry."""
        return self.registry or default_tracking_uri(self.work)

    @property
    def store_folder(self) -> Path:
        """Folder of photos and jobs."""
        return Path(self.store) if self.store else self.work / "service"

    @property
    def most_upload_bytes(self) -> int:
        """`most_upload_mib` in bytes."""
        return self.most_upload_mib * _MIB

    @property
    def most_pixels(self) -> int:
        """`most_megapixels` in pixels."""
        return round(self.most_megapixels * 1e6)

    @property
    def is_loopback(self) -> bool:
        """Whether the service listens on this machine only."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def anybody_may_switch(self) -> bool:
        """Whether networks may be changed without a token."""
        return self.is_loopback if self.allow_switch == "auto" else self.allow_switch == "yes"

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """Host names that requests may carry; empty: any.

        Without this, a web site could have its own name resolve to 127.0.0.1 and read the photos of a visitor who
        runs the service (DNS rebinding).
        """
        if self.hosts or not self.is_loopback:
            return self.hosts
        return ("localhost", "127.0.0.1", "[::1]", self.host)


def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings with the defaults replaced by `CHROMACLICK_*` variables.

    An unknown variable of that prefix has no effect and is warned of: Kubernetes adds some of its own for a
    service of this name.

    Raises:
        ValueError: a value of another type.
    """
    known = {PREFIX + field.name.upper(): field for field in fields(Settings)}
    given = {name: text for name, text in environment.items() if name.startswith(PREFIX)}
    if unknown := sorted(set(given) - set(known)):
        _log.warning("%s has no effect; there are %s", ", ".join(unknown), ", ".join(sorted(known)))
    return Settings(
        **{field.name: _read(name, given[name], field.default) for name, field in known.items() if name in given}
    )


def _read(name: str, text: str, default: object) -> Any:
    """A variable's text as the type of its default."""
    try:
        if isinstance(default, bool):
            return _BOOLEANS[text.lower()]
        if isinstance(default, tuple):
            return tuple(word.strip() for word in text.split(",") if word.strip())
        kind: Any = type(default)
        return kind(text)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{name} is {text!r}; it must be of type {type(default).__name__}") from error


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
