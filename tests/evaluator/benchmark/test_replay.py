"""The FID is taken on the very colorings that were measured, colored again from the stored clicks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor

from evaluator.baselines import Kernel
from evaluator.benchmark.measure import Task, fid_rows, measure, pieces
from evaluator.benchmark.store import merge
from evaluator.metrics.fid import Fid
from evaluator.photos.dataset import open_photos
from evaluator.photos.prefetch import Cut
from evaluator.policies import MaxErrorPolicy, RandomPolicy
from evaluator.protocol.results import Protocol
from evaluator.protocol.simulated_user import SimulatedUser
from tests.evaluator.benchmark.conftest import Bench
from tests.evaluator.conftest import spread_clicks


class Recorded(Fid):
    """Stands for the FID: keeps what it was given."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def update(self, truth_rgb: Tensor, predicted_rgb: Tensor) -> None:
        self.pairs += zip(truth_rgb, predicted_rgb, strict=True)

    def compute(self) -> float:
        return float(len(self.pairs))


@pytest.mark.parametrize(
    "robot", [SimulatedUser(), SimulatedUser(position_sigma=2.0, colour_sigma=8.0)], ids=["exact", "noisy"]
)
@pytest.mark.training
def test_photos_are_colored_again_exactly(bench: Bench, tmp_path: Path, robot: SimulatedUser):
    task = Task(
        colorizer=spread_clicks,
        policies={"random": RandomPolicy(), "max-error": MaxErrorPolicy()},
        photos=open_photos(bench.photos, limit=6),
        protocol=Protocol(clicks=(1, 5), hint_size=2, robot=robot, batch_size=4),
        cut=Cut(size=20),
        metrics=("rgb_psnr",),
        device=torch.device("cpu"),
        out=tmp_path,
        ruler=Kernel(),
    )
    measure(task, pieces(6, (), 4))
    merge(tmp_path, task.metrics)
    made: list[Recorded] = []

    def make(device: torch.device) -> Recorded:
        made.append(Recorded())
        return made[-1]

    rows = fid_rows(replace(task, protocol=replace(task.protocol, batch_size=3)), [5], make)
    assert [(row["policy"], row["clicks"], row["value"]) for row in rows] == [
        ("random", 5, 5.0),
        ("max-error", 5, 5.0),
        ("no network", 5, 5.0),
    ]
    stored = pd.read_parquet(tmp_path / "results.parquet").query("clicks == 5")
    for recorded, policy in zip(made, ("random", "max-error", "no network"), strict=True):
        found = [
            peak_signal_noise_ratio(truth.numpy(), predicted.numpy(), data_range=255)
            for truth, predicted in recorded.pairs
        ]
        expected = stored.loc[stored["policy"] == policy, "rgb_psnr"]
        np.testing.assert_allclose(found, expected, atol=1e-4)
