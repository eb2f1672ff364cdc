"""The benchmark of suggested colors: a run, what a hit is, and that every method proposes."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import deltaE_ciede2000

from evaluator.service.inference.engine import Engine
from kernels.color import lab_to_rgb, rgb_to_lab
from tests.benchmarks.__main__ import main
from tests.benchmarks.evaluator.color_suggestions import is_hit, rows_of
from tests.benchmarks.evaluator.networks import make_networks
from tests.benchmarks.evaluator.suggestion_methods import METHODS, OF_PALETTE, Question, available
from tests.evaluator.service import fakes

cie = st.floats(-60, 60, width=32)


@pytest.mark.slow
def test_methods_are_compared(photos: Path, report_of: Callable, tmp_path: Path):
    colorizer, guide = make_networks(tmp_path, (4, 6, 8), (4, 6, 8))
    networks = ("--colorizer", colorizer, "--guide", guide, "--threads", 1)
    asked = ("--count", 2, "--size", 32, "--clicks", 0, 2, "--places", 2, "--methods", "ring", "cover photo")
    rows = report_of("color_suggestions", "--photos", photos, *networks, *asked)["rows"]
    assert {row["method"] for row in rows} == {"ring", "cover photo"}
    assert all(0 <= row["2 clicks, %"] <= 100 for row in rows)


def test_an_unknown_method_is_told_with_the_known_ones(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["color_suggestions", "--photos", "photos", "--methods", "guess"])
    assert ended.value.code == 2
    assert "guess" in capsys.readouterr().err


@given(cie, cie, cie, cie)
def test_a_hit_is_what_scikit_image_calls_alike(a_1: float, b_1: float, a_2: float, b_2: float):
    apart = float(deltaE_ciede2000(np.array([40, a_1, b_1]), np.array([40, a_2, b_2])))
    if abs(apart - 10) > 1e-2:
        far = [1.0, -1.0]
        proposed = torch.tensor([far, [a_1 / 128, b_1 / 128], far])
        assert is_hit(0.4, proposed, torch.tensor([a_2 / 128, b_2 / 128])) == (apart < 10)


def test_rates_are_means_over_photos_with_the_best_method_first():
    rates = np.array([[[0.0, 1.0], [1.0, 1.0]], [[0.5, 0.0], [0.5, 1.0]]])  # photos, methods, clicks
    best, other = rows_of(rates, ["first", "second"], [0, 3])
    columns = ("method", "0 clicks, %", "3 clicks, %", "all, %")
    assert [best[column] for column in columns] == ["second", 75, 100, 87.5]
    assert [other[column] for column in columns] == ["first", 25, 50, 37.5]
    assert best["3 clicks, 95 %"] == "100.0 to 100.0"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 5])
def test_every_method_proposes_colors_that_can_be_shown(method: str, count: int):
    lightness = torch.rand(1, 1, 32, 48, generator=torch.Generator().manual_seed(0))
    lightness[0, 0, 7, 9] = 0.55
    clicks = torch.zeros(1, 3, 32, 48)
    clicks[0, :, 3, 5] = torch.tensor([1.0, 0.3, 0.2])

    async def propose() -> list[tuple[float, float]]:
        networks = (fakes.Split(), fakes.Head()) if method in OF_PALETTE else (fakes.spread, fakes.detail)
        engine = Engine.from_networks(*networks)
        assert method in available(engine)
        now = await engine.look(lightness, clicks)
        asked = Question(lightness, clicks, now.ab, 7, 9, engine, now.features)
        found = await METHODS[method](asked, count)
        assert found == await METHODS[method](asked, count)
        await engine.close()
        return found

    found = asyncio.run(propose())
    assert 1 <= len(found) <= count
    light = lightness[:, :, 7:8, 9:10]
    for a, b in found:
        back, back_ab = rgb_to_lab(lab_to_rgb(light, torch.tensor([a, b]).view(1, 2, 1, 1)))
        assert (100 * (back - light)).abs() <= 1.5
        assert (128 * (back_ab.flatten() - torch.tensor([a, b]))).abs().max() <= 2.5  # clipped twice
