"""A finished run with a small untrained split colorizer and its guide, as `trainer.export` writes them."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from evaluator.registry.contract import FILE_NAME
from evaluator.registry.mlflow_registry import GRAPH_FILE
from tests import ROOT
from trainer import export
from trainer.export import export_parts, save_parts
from trainer.networks import GuideHead, SplitColorNet

PHOTO_WIDTHS, CLICK_WIDTHS = (8, 8, 8, 8), (8, 8, 8)


def write_split_run(folder: Path, config: Mapping[str, Any] | None = None) -> Path:
    """The run's folder, with `networks/colornet` and `networks/editnet-blind`.

    Another process writes it: torch.export's symbolic sizes are no `int` to the shape checks of the tests.
    """
    command = [sys.executable, "-m", __name__, str(folder), json.dumps(config or {})]
    subprocess.run(command, check=True, cwd=ROOT)
    return folder


def _write(folder: Path, config: Mapping[str, Any]) -> None:
    torch.manual_seed(0)
    colorizer = SplitColorNet("fresh", PHOTO_WIDTHS, CLICK_WIDTHS).eval().requires_grad_(False)
    guide = GuideHead("blind", PHOTO_WIDTHS[0] + CLICK_WIDTHS[0], (8, 8, 8)).eval()
    for name, network in {"colornet": colorizer, "editnet-blind": guide}.items():
        blind = network is guide
        contract = export.describe(
            network,
            name,
            variant="blind" if blind else None,
            hint_size=3,
            temperature=0.5 if blind else None,
            colorizer=colorizer if blind else None,
            config=config,
        )
        place = folder / "networks" / name
        if blind:
            export.save(export.export(network, contract), place)
        else:  # the whole, which takes as long to export as its parts, is never loaded
            save_parts(export_parts(network), network.bins, place)
            (place / FILE_NAME).write_text(contract.to_json(), encoding="utf-8")
            (place / GRAPH_FILE).parent.mkdir()
            (place / GRAPH_FILE).write_bytes(b"the whole")


if __name__ == "__main__":
    _write(Path(sys.argv[1]), json.loads(sys.argv[2]))
