"""The service with networks by formula, to work on the page: `python -m tests.evaluator.service.demo --port N`."""

import logging
import tempfile
from dataclasses import dataclass

import tyro

from evaluator.service.api.state import Service
from evaluator.service.app import create_app
from evaluator.service.inference.engine import Engine
from evaluator.service.serve import run
from evaluator.service.settings import Settings
from tests.evaluator.service import fakes


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Serve made-up networks."""

    port: int = 0
    """0: a free one."""
    store: str = ""
    """Folder of the photos; default: a temporary one."""
    rate: float = 0.0
    """Requests per second of one client; 0: no limit."""
    token: str = ""
    """Bearer token to ask for."""
    split: bool = False
    """Serve a split colorizer and a guide that reads its features."""


def main(arguments: Arguments) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        settings = Settings(
            port=arguments.port, store=arguments.store or folder, rate=arguments.rate, token=arguments.token
        )
        pair = (fakes.Split(), fakes.Head()) if arguments.split else (fakes.spread, fakes.detail)
        app = create_app(settings, Engine.from_networks(*pair))
        run(app, settings, ready)


def ready(url: str, service: Service) -> None:
    print(f"ready {url}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
