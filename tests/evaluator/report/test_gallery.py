from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as parquet
import pytest
import torch
from torch import Tensor

from evaluator.baselines import Kernel
from evaluator.benchmark.store import to_table
from evaluator.metrics import METRICS
from evaluator.policies import RandomPolicy, RegionCenterPolicy
from evaluator.protocol.evaluate import Protocol, evaluate
from evaluator.protocol.finished import Finished
from evaluator.protocol.no_network import measure_ruler
from evaluator.protocol.simulated_user import SimulatedUser
from evaluator.report import choose, render
from evaluator.report.gallery import shown_budgets, shown_policies
from tests.evaluator.made_up_run import made_up_rows, write_run

NAMES = [f"photo{i}.png" for i in range(9)]


def measured(folder: Path, colorizer, photos: Tensor, protocol: Protocol) -> Finished:
    """A folder with what the protocol really measures."""
    policies = {"random": RandomPolicy(), "region-centre": RegionCenterPolicy()}
    metrics = ["ab_psnr", "ab_ssim", "rgb_psnr"]
    results = evaluate(colorizer, policies, photos, protocol, metrics=metrics)
    folder.mkdir()
    write_run(folder, to_table(results, NAMES).to_pandas(), protocol=asdict(protocol))
    parquet.write_table(to_table(results, NAMES), folder / "results.parquet")
    return Finished.read(folder)


@pytest.mark.parametrize(
    ("robot", "hint_size"),
    [(SimulatedUser(), 1), (SimulatedUser(), 3), (SimulatedUser(position_sigma=2.0, colour_sigma=8.0), 3)],
)
@pytest.mark.training
def test_photos_are_colored_again_as_they_were_measured(tmp_path, colorizer, photos, robot, hint_size):
    """The RGB PSNR under each thumbnail is the one in the Parquet file, for a noisy robot too."""
    protocol = Protocol(clicks=(0, 2, 7), robot=robot, hint_size=hint_size, seed=3)
    finished = measured(tmp_path / "run", colorizer, photos, protocol)
    picks = choose(finished)
    gallery = render(finished, picks, {pick.photo: photos[NAMES.index(pick.photo)] for pick in picks}, colorizer)
    assert gallery.budgets == [0, 2, 7]
    rows: Any = pd.read_parquet(tmp_path / "run" / "results.parquet").set_index(["photo", "policy", "clicks"])
    shots = 0
    for exhibit in gallery.exhibits:
        for policy, row in exhibit.rows.items():
            for clicks, shot in zip(gallery.budgets, row, strict=True):
                stored = rows["rgb_psnr"][exhibit.pick.photo, policy, clicks]
                assert shot.caption == f"RGB PSNR {stored:.2f} dB"
                assert shot.alt.startswith(f"{exhibit.pick.photo} after {clicks} clicks of {policy}")
                shots += 1
    assert shots == len(picks) * 2 * 3


def test_the_ruler_is_colored_by_itself_or_left_out(tmp_path, colorizer, photos):
    protocol = Protocol(clicks=(0, 7), hint_size=3)
    results = evaluate(colorizer, {"random": RandomPolicy()}, photos, protocol, metrics=["rgb_psnr"])
    table = to_table(results.beside(measure_ruler(photos, protocol, metrics=["rgb_psnr"])), NAMES)
    write_run(tmp_path / "run", table.to_pandas(), protocol=asdict(protocol))
    finished = Finished.read(tmp_path / "run")
    picks = choose(finished)
    given = {pick.photo: photos[NAMES.index(pick.photo)] for pick in picks}
    rows: Any = table.to_pandas().set_index(["photo", "policy", "clicks"])["rgb_psnr"]
    for exhibit in render(finished, picks, given, colorizer, ruler=Kernel()).exhibits:
        for policy in ("random", "no network"):
            stored = [f"RGB PSNR {rows[exhibit.pick.photo, policy, clicks]:.2f} dB" for clicks in (0, 7)]
            assert [shot.caption for shot in exhibit.rows[policy]] == stored
    assert all([*exhibit.rows] == ["random"] for exhibit in render(finished, picks, given, colorizer).exhibits)


def test_the_ruler_does_not_choose_the_photos(tmp_path: Path):
    rows = made_up_rows(policies=["random", "no network"])
    rows.loc[rows["policy"] == "no network", "ab_psnr"] = rows["index"] * 1.0
    with_it = choose(Finished.read(write_run(tmp_path / "with", rows)))
    without = rows[rows["policy"] == "random"].reset_index(drop=True)
    assert choose(Finished.read(write_run(tmp_path / "without", without))) == with_it


def test_worst_and_best_by_each_metric_are_those_that_pandas_finds(tmp_path: Path):
    rows = made_up_rows(metrics=["ab_psnr", "delta_e"], clicks=[0, 1, 8, 30])
    picks = choose(Finished.read(write_run(tmp_path, rows)))
    found = {reason.rpartition(" ")[0]: pick for pick in picks for reason in pick.reasons}
    at = rows[rows["clicks"] == 8].groupby("photo")[["ab_psnr", "delta_e"]].mean()
    decibel, delta = at["ab_psnr"], at["delta_e"]
    worst, best = (next(p for p in picks if any(w in r for r in p.reasons)) for w in ("worst ab", "best ab"))
    assert (worst.photo, best.photo) == (decibel.idxmin(), decibel.idxmax())
    assert f"worst ab PSNR {decibel.min():.2f} dB" in worst.reasons
    assert found["worst Delta E 2000"].photo == delta.idxmax()
    assert found["best Delta E 2000"].photo == delta.idxmin()
    assert all(rows[rows["index"] == pick.index]["photo"].iloc[0] == pick.photo for pick in picks)


def test_a_photo_is_shown_once_and_undefined_values_are_never_the_worst(tmp_path: Path):
    rows = made_up_rows(photos=["a.png", "b.png", "c.png"], clicks=[0, 10])
    rows["ab_ssim"] = np.nan
    rows.loc[rows["photo"] == "a.png", "rgb_psnr"] = np.nan
    picks = choose(Finished.read(write_run(tmp_path, rows)))
    assert len({pick.photo for pick in picks}) == len(picks)
    reasons = {reason.split(" RGB")[0] for p in picks for reason in p.reasons if "RGB" in reason}
    assert reasons == {"worst", "best"}
    assert not any("RGB" in reason for pick in picks if pick.photo == "a.png" for reason in pick.reasons)
    assert not any("SSIM" in reason for pick in picks for reason in pick.reasons)


def test_a_metric_without_a_better_side_has_a_lowest_and_a_highest(tmp_path: Path):
    assert METRICS["colourfulness"].higher_is_better is None
    rows = made_up_rows().assign(colourfulness=lambda frame: frame["index"] % 7 + 1.0)
    reasons = [reason for pick in choose(Finished.read(write_run(tmp_path, rows))) for reason in pick.reasons]
    assert [reason for reason in reasons if "Colourfulness" in reason] == [
        "lowest Colourfulness 1.0",
        "highest Colourfulness 7.0",
    ]


def test_the_choice_does_not_depend_on_the_order_of_rows(tmp_path: Path):
    rows = made_up_rows()
    rows["ab_ssim"] = 0.5  # all alike: the first photo is both
    once = choose(Finished.read(write_run(tmp_path / "once", rows)))
    again = choose(Finished.read(write_run(tmp_path / "again", rows.sample(frac=1, random_state=1))))
    assert {pick.photo: set(pick.reasons) for pick in once} == {pick.photo: set(pick.reasons) for pick in again}
    assert next(pick for pick in once if any("SSIM" in r for r in pick.reasons)).photo == "photo00.png"


def test_a_few_policies_and_budgets_are_shown():
    assert shown_policies(["grid", "max-error", "guide-blind", "random", "greedy", "guide-oracle"]) == [
        "random",
        "guide-blind",
        "guide-oracle",
        "grid",
    ]
    assert shown_policies(["grid"]) == ["grid"]
    shown = ["random", "guide-blind", "no network", "grid"]
    assert shown_policies(["random", "grid", "max-error", "guide-blind", "no network"]) == shown
    assert shown_budgets([0, 1, 2, 5, 10, 20, 30, 50, 100]) == [0, 1, 2, 10, 20]
    assert shown_budgets([5, 10]) == [5, 10]
    assert shown_budgets([50, 100]) == [50]


def test_a_missing_photo_or_one_of_another_size_is_named(tmp_path, colorizer, photos):
    finished = measured(tmp_path / "run", colorizer, photos, Protocol(clicks=(1,)))
    picks = choose(finished)
    with pytest.raises(
        ValueError, match=f"photo '{picks[0].photo}' is picked for the gallery and not among the 0"
    ):
        render(finished, picks, {}, colorizer)
    cut = {name: photo[:, :, :20] for name, photo in zip(NAMES, photos, strict=True)}
    with pytest.raises(ValueError, match=r"has \[24, 20\] pixels .* measured at \[24, 24\]"):
        render(finished, picks, cut, colorizer)


@pytest.mark.parametrize(
    ("size", "shown"), [((24, 24), (192, 192)), ((300, 400), (144, 192)), ((3, 2), (192, 128))]
)
def test_thumbnails_have_one_size_whatever_the_photos_have(tmp_path, size, shown):
    rows = made_up_rows(photos=["a.png", "b.png"], size=size, clicks=[0, 2], metrics=["ab_psnr"])
    finished = Finished.read(write_run(tmp_path, rows))
    photos = {name: torch.zeros(3, *size, dtype=torch.uint8) for name in ("a.png", "b.png")}
    gallery = render(finished, choose(finished), photos, lambda lightness, clicks: clicks[:, 1:])
    for exhibit in gallery.exhibits:
        for shot in (exhibit.grey, exhibit.truth, *exhibit.rows["random"]):
            assert shot.picture.size == shown[::-1]
