"""Exported networks without training, and a folder of small photos with a few that nobody can measure."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from evaluator.registry.contract import Variant
from trainer.export import describe, export, save
from trainer.networks import ColorNet, EditNet

VARIANTS: dict[str, Variant | None] = {"colornet": None, "editnet-blind": "blind", "editnet-oracle": "oracle"}


@dataclass(frozen=True)
class Bench:
    """What a benchmark needs."""

    networks: Path
    photos: Path

    def words(self, out: Path, *more: str) -> list[str]:
        """A quick benchmark's command line."""
        return [
            *("benchmark", "--colorizer", str(self.networks / "colornet"), "--photos", str(self.photos)),
            *("--guide", str(self.networks / "editnet-blind"), str(self.networks / "editnet-oracle")),
            *("--out", str(out), "--size", "24", "--clicks", "0,1,4", "--policies", "grid,max-error"),
            *("--metrics", "ab_psnr,ab_ssim,rgb_psnr,delta_e,locality,click_distance", "--threads", "1"),
            *("--device", "cpu", "--no-gallery", *more),
        ]


def network(variant: Variant | None) -> nn.Module:
    torch.manual_seed(3)
    return EditNet(variant, (4, 6)) if variant else ColorNet((4, 6))


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory, jpeg: Callable[..., bytes]) -> Bench:
    """Eleven good photos among which stand a broken, a grey and a tiny one."""
    folder = tmp_path_factory.mktemp("bench")
    for name, variant in VARIANTS.items():
        made = network(variant)
        contract = describe(made, name, variant=variant, temperature=0.5 if variant else None)
        save(export(made, contract), folder / "networks" / name)
    photos = folder / "photos"
    photos.mkdir()
    for number in range(11):
        (photos / f"p{number:02d}.jpg").write_bytes(jpeg(number, 60, 44))
    (photos / "p03-broken.jpg").write_bytes(jpeg(3)[:400])
    Image.fromarray(np.full((40, 40), 99, np.uint8)).save(photos / "p05-grey.png")
    Image.new("RGB", (2, 2), "red").save(photos / "p99-tiny.png")
    return Bench(folder / "networks", photos)
