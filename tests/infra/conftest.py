"""Small untrained networks, exported as a training does."""

from pathlib import Path

import pytest
import torch

from trainer import export
from trainer.networks import ColorNet, EditNet


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the exported `colornet` and `editnet-blind`, of three levels."""
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    for name, network in (("colornet", ColorNet((4, 6, 8))), ("editnet-blind", EditNet("blind", (4, 6, 8)))):
        variant = "blind" if name == "editnet-blind" else None
        contract = export.describe(
            network, name, variant=variant, hint_size=3, temperature=0.5 if variant else None
        )
        export.save(export.export(network, contract), folder / name)
    return folder
