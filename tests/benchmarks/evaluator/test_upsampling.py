"""The benchmark of enlarged colors, and the ways that lost to the service's."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from skimage.transform import resize

from tests.benchmarks.__main__ import main
from tests.benchmarks.evaluator import upsampling
from tests.benchmarks.evaluator.upsampling import EPSILON, METHODS, RADIUS, guided


def test_every_way_is_measured_at_every_size(photos: Path, report_of: Callable):
    content = report_of("upsampling", "--photos", photos, "--working", 48, 24, "--limit", 2)
    found = {(row["working"], row["method"]) for row in content["rows"]}
    assert found == {(working, method) for working in (48, 24) for method in ("detail", "guided", "bilinear")}
    assert {row["photos"] for row in content["rows"]} == {2}
    assert all(0 < row["delta E 2000"] < 50 for row in content["rows"])
    assert len(content["goals"]) == 4


@pytest.mark.parametrize(
    ("name", "message"), [("detail", "detail without detail is 1.28"), ("guided", "guided of one color is 1.28")]
)
def test_a_wrong_way_is_not_measured(
    name: str, message: str, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    right = METHODS[name]
    monkeypatch.setitem(upsampling.METHODS, name, lambda *given: right(*given) + 0.01)
    assert main(["upsampling", "--photos", str(photos), "--working", "24"]) == 1
    assert message in capsys.readouterr().err


def test_photos_that_are_small_already_are_told(photos: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["upsampling", "--photos", str(photos), "--working", "96"]) == 2
    assert "no photo of" in capsys.readouterr().err


def test_guided_is_the_published_filter():
    ab, small, large = (
        torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(channels))
        for channels, size in ((2, (20, 31)), (1, (20, 31)), (1, (77, 130)))
    )

    def mean(plane: np.ndarray) -> np.ndarray:
        return uniform_filter(plane, 2 * RADIUS + 1, mode="nearest")

    light = small[0, 0].double().numpy()
    expected = []
    for plane in (ab - 0.5)[0].double().numpy():
        covariance = mean(plane * light) - mean(plane) * mean(light)
        slope = covariance / (mean(light * light) - mean(light) ** 2 + EPSILON)
        functions = mean(slope), mean(mean(plane) - slope * mean(light))
        slope, offset = (np.asarray(resize(one, (77, 130), order=1, mode="edge")) for one in functions)
        expected.append(slope * large[0, 0].double().numpy() + offset)
    assert np.abs(guided(ab - 0.5, small, large)[0].numpy() - np.clip(expected, -1, 1)).max() < 1e-4
