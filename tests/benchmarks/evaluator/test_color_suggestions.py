"""The benchmark of colour suggestions: what a hit is, and that a run prints its table."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import deltaE_ciede2000

from tests.benchmarks.evaluator import color_suggestions
from tests.benchmarks.evaluator.color_suggestions import Arguments, is_hit, read_photo, rows_of
from tests.evaluator.split_run import write_split_run

cie = st.floats(-60, 60, width=32)


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
    assert (best["method"], best["0 clicks, %"], best["3 clicks, %"], best["all, %"]) == ("second", 75, 100, 87.5)
    assert (other["method"], other["0 clicks, %"], other["3 clicks, %"], other["all, %"]) == (
        "first",
        25,
        50,
        37.5,
    )
    assert best["3 clicks, 95 %"] == "100.0 to 100.0"


def test_a_photo_is_read_at_the_working_size(picture: Callable[..., bytes]):
    photo = read_photo(picture(width=96, height=64), 48)
    assert photo.lightness.shape == (1, 1, 32, 48)
    assert read_photo(picture(width=40, height=20), 48).truth_ab.shape == (1, 2, 20, 40)


@pytest.mark.slow
def test_a_run_prints_and_writes_its_table(
    registry, picture: Callable[..., bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(2):
        (photos / f"{seed}.jpg").write_bytes(picture(seed, 48, 32))
    folders = [str(registry.work / "run" / f"{name}-0") for name in ("colornet", "editnet-blind")]
    words = f"--photos {photos} --colorizer {folders[0]} --guide {folders[1]} --size 32 --threads 1"
    words += f" --clicks 0 2 --places 2 --methods ring diverse --json {tmp_path / 'report.json'}"
    color_suggestions.main(words.split())
    assert "true colour within Delta E 2000 of 10 of one of 5, 2 photos" in capsys.readouterr().out
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert {row["method"] for row in rows} == {"ring", "diverse"}
    assert all(0 <= row["2 clicks, %"] <= 100 for row in rows)


@pytest.mark.slow
def test_a_split_colorizers_palette_takes_part(tmp_path: Path, picture: Callable[..., bytes]):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "0.jpg").write_bytes(picture(0, 48, 32))
    folders = [write_split_run(tmp_path) / "networks" / name for name in ("colornet", "editnet-blind")]
    words = f"--photos {tmp_path / 'photos'} --colorizer {folders[0]} --guide {folders[1]} --size 48 --threads 1"
    words += f" --clicks 0 --places 1 --methods distribution ring --json {tmp_path / 'report.json'}"
    color_suggestions.main(words.split())
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert {row["method"] for row in rows} == {"ring", "distribution"}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"methods": ("guess",)}, r"--methods has \['guess'\]"),
        ({"count": 0}, "--count is 0"),
        ({"clicks": (-1,)}, "--clicks"),
    ],
)
def test_what_cannot_be_measured_is_named(option: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Arguments(photos=Path("photos"), **option)
