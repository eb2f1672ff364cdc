from pathlib import Path

import numpy as np
import pytest

from evaluator.protocol.finished import Finished
from evaluator.report.figures import click_density, gain_curves, heat_map, looks, mean_curves, nri_bars
from tests.evaluator.made_up_run import made_up_rows, write_run


def test_clicks_are_counted_in_shares_of_each_photo_s_sides():
    """Brute force over photos of two sizes."""
    generator = np.random.default_rng(0)
    sizes = np.array([[30, 60], [50, 20]] * 20)
    clicks = np.stack([generator.integers(0, size, (25, 2)) for size in sizes])
    cells = click_density(clicks, sizes)
    assert cells is not None
    bins = len(cells)
    expected = np.zeros((bins, bins))
    for size, photo in zip(sizes, clicks, strict=True):
        for row, col in photo:
            expected[int((row + 0.5) / size[0] * bins), int((col + 0.5) / size[1] * bins)] += 1
    np.testing.assert_allclose(cells, expected / expected.sum() * bins * bins)
    assert cells.mean() == pytest.approx(1.0)


def test_one_click_on_every_pixel_is_a_flat_map():
    every = np.stack(np.meshgrid(np.arange(24), np.arange(24), indexing="ij"), axis=-1).reshape(1, -1, 2)
    cells = click_density(np.repeat(every, 3, axis=0), np.full((3, 2), 24))
    assert cells is not None
    np.testing.assert_allclose(cells, 1.0)
    assert click_density(np.empty((3, 0, 2), dtype=np.int64), np.full((3, 2), 24)) is None


def test_the_words_of_a_heat_map_say_where_it_is_densest():
    cells = np.full((9, 9), 0.5)
    cells[0, 8] = 6.0
    assert "at most 6.0 times the uniform density, at the top right" in heat_map(cells, "grid").alt


def test_curves_carry_their_last_values_as_words(tmp_path: Path):
    rows = made_up_rows()
    finished = Finished.read(write_run(tmp_path, rows))
    means, gains = (
        mean_curves(finished, "ab_psnr"),
        gain_curves(finished, "ab_psnr"),
    )
    assert means
    assert gains
    at = rows[rows["clicks"] == 20].groupby("policy")["ab_psnr"].mean()
    assert f"At 20 clicks: random {at['random']:.2f}, guide-blind {at['guide-blind']:.2f}" in means.alt
    assert f"max-error {at['max-error'] - at['random']:+.2f}" in gains.alt
    lines = means.figure.axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["random", "guide-blind", "max-error"]
    drawn = rows.groupby(["policy", "clicks"])["ab_psnr"].mean()["max-error"]
    np.testing.assert_allclose(np.asarray(lines[2].get_ydata()), drawn)


def test_a_metric_that_is_nowhere_defined_has_no_curves(tmp_path: Path):
    finished = Finished.read(write_run(tmp_path, made_up_rows().assign(ab_ssim=np.nan)))
    assert mean_curves(finished, "ab_ssim") is None
    assert gain_curves(finished, "ab_ssim") is None


def test_bars_state_the_share_that_never_reaches_the_level():
    entry = {"policy": "grid", "metric": "ab_psnr", "level": 30.0, "mean": 7.25, "failures": 0.4}
    words = nri_bars(
        [entry | {"low": 5.0, "high": 9.0}, entry | {"low": None, "high": None}], ["grid"], "30 dB"
    ).alt
    assert words.count("grid 7.2 (40 % fail)") == 2


def test_sixteen_policies_can_be_told_apart():
    """By color, marker and dash together; the first six by color alone."""
    names = ["random", *(f"policy{i}" for i in range(16))]
    found = looks(names)
    assert len(set(found.values())) == len(names)
    assert len({look.color for look in list(found.values())[:7]}) == 7
