"""The whole command: what it writes, that it resumes to the same numbers, and how it refuses."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from evaluator.__main__ import main
from evaluator.policies import RandomPolicy
from evaluator.protocol.evaluate import evaluate
from evaluator.protocol.finished import Finished
from evaluator.protocol.no_network import measure_ruler
from evaluator.protocol.results import Protocol
from evaluator.registry.mlflow_registry import load_colorizer
from kernels.color import lab_to_rgb, rgb_to_lab, to_uint8
from tests import ROOT
from tests.evaluator.benchmark.conftest import Bench
from trainer.data.loader import photos_from

pytestmark = pytest.mark.training

GOOD = [f"p{number:02d}.jpg" for number in range(11)]
KILLED = Path(__file__).with_name("killed.py")


@pytest.fixture(scope="session")
def good(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """The good photos as the trainer would validate on them, in the order of GOOD."""
    folder = tmp_path_factory.mktemp("good")
    for name in GOOD:
        (folder / name).write_bytes((bench.photos / name).read_bytes())
    return photos_from(str(folder), 24)[0]


@pytest.fixture(scope="session")
def finished(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    assert main(bench.words(out, "--batch-size", "4")) == 0
    return out


def rows_of(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "results.parquet").drop(columns="seconds_per_click")


def assert_same_numbers(one: pd.DataFrame, other: pd.DataFrame) -> None:
    assert list(one.columns) == list(other.columns)
    for name in one.columns:
        if one[name].dtype == np.float64:
            np.testing.assert_array_equal(one[name], other[name], name)
        else:
            assert [str(value) for value in one[name]] == [str(value) for value in other[name]], name


def test_one_row_per_photo_policy_and_budget(finished: Path):
    rows = rows_of(finished)
    policies = ["random", "grid", "max-error", "guide-blind", "guide-oracle", "no network"]
    assert list(rows["policy"].unique()) == policies
    assert list(rows["photo"].unique()) == GOOD
    assert len(rows) == len(GOOD) * len(policies) * 3
    assert [len(cells) for cells in rows["click_rows"]] == list(rows["clicks"])
    assert sorted(path.name for path in finished.iterdir()) == [
        "benchmark.json",
        "report.html",
        "results.json",
        "results.parquet",
    ]


def test_the_automatic_coloring_s_psnr_is_scikit_image_s(bench: Bench, finished: Path, good: torch.Tensor):
    colorizer = load_colorizer(bench.networks / "colornet")
    rows = rows_of(finished).query("policy == 'random' and clicks == 0").set_index("photo")
    for rgb, name in zip(good, GOOD, strict=True):
        lightness, ab = rgb_to_lab(rgb[None])
        predicted = colorizer(lightness.expand(2, -1, -1, -1), torch.zeros(2, 3, 24, 24))[:1]
        colored = to_uint8(lab_to_rgb(lightness, predicted))[0]
        expected = peak_signal_noise_ratio(rgb.numpy(), colored.numpy(), data_range=255)
        assert rows.loc[name, "rgb_psnr"] == pytest.approx(expected, abs=1e-4)
        assert rows.loc[name, "ab_psnr"] == pytest.approx(
            peak_signal_noise_ratio(ab[0].double().numpy(), predicted[0].double().numpy(), data_range=2), abs=1e-4
        )


def test_photos_are_cut_and_measured_as_the_trainer_validates(bench: Bench, finished: Path, good: torch.Tensor):
    indices = rows_of(finished).drop_duplicates("photo")["index"].tolist()
    assert indices == [0, 1, 2, 4, 5, 7, 8, 9, 10, 11, 12]  # those left out keep their places
    colorizer = load_colorizer(bench.networks / "colornet")
    protocol = Protocol(clicks=(0, 1, 4))
    results = evaluate(
        colorizer, {"random": RandomPolicy()}, good[3:5], protocol, first_index=4, metrics=["ab_psnr"]
    )
    rows = rows_of(finished).query("policy == 'random' and photo in ['p03.jpg', 'p04.jpg']")
    np.testing.assert_allclose(
        rows["ab_psnr"].to_numpy().reshape(2, 3), results.values("random", "ab_psnr"), atol=1e-6
    )


def test_the_summary_states_protocol_photos_and_what_was_left_out(finished: Path):
    about = json.loads((finished / "results.json").read_text())
    assert about["schema"] == 1
    assert about["protocol"]["clicks"] == [0, 1, 4]
    assert about["protocol"]["robot"] == {"position_sigma": 0.0, "colour_sigma": 0.0}
    assert about["photos"]["count"] == 11
    skipped = {one["photo"]: one["reason"].partition(":")[0] for one in about["photos"]["skipped"]}
    assert skipped == {"p03-broken.jpg": "unreadable", "p05-grey.png": "grey", "p99-tiny.png": "tiny"}
    assert about["guides"]["guide-oracle"]["name"] == "editnet-oracle"
    assert {row["policy"] for row in about["rows"]} == set(Finished.read(finished).policies)
    assert {(row["metric"], row["level"]) for row in about["nri"]} == {("ab_psnr", 30.0), ("rgb_psnr", 25.0)}
    assert set(about) >= {"machine", "versions", "commit", "colorizer", "fid", "papers"}


def test_means_and_intervals_are_those_of_the_rows(finished: Path):
    about = json.loads((finished / "results.json").read_text())
    rows = rows_of(finished)
    for row in about["rows"]:
        mine = rows[(rows["policy"] == row["policy"]) & (rows["clicks"] == row["clicks"])]
        assert row["delta_e"] == pytest.approx(mine["delta_e"].mean(), abs=1e-9)
        if row["policy"] != "random" and row["clicks"]:
            assert row["delta_e_gain_low"] <= row["delta_e_gain"] <= row["delta_e_gain_high"]


def test_the_ruler_is_the_kernel_under_random_clicks_in_every_output(finished: Path, good: torch.Tensor):
    rows = rows_of(finished).query("policy == 'no network' and photo in ['p03.jpg', 'p04.jpg']")
    ruler = measure_ruler(good[3:5], Protocol(clicks=(0, 1, 4)), first_index=4)
    for metric in ("ab_psnr", "ab_ssim", "rgb_psnr"):
        expected = ruler.values("no network", metric).ravel()
        np.testing.assert_allclose(rows[metric], expected, atol=1e-9)
    about = json.loads((finished / "results.json").read_text())
    assert about["ruler"] == {
        "source": "kernel",
        "name": "kernel",
        "version": None,
        "sha256": load_colorizer("kernel").fingerprint,
        "hint_size": 3,
        "commit": "unknown",
        "estimator": None,
    }
    assert {row["policy"] for row in about["nri"]} >= {"random", "no network"}
    assert "no network: the colors of the same random clicks" in (finished / "report.html").read_text()


@pytest.mark.parametrize("name", ["kernel", "levin"])
def test_a_baseline_is_benchmarked_and_resumed_like_a_network(bench: Bench, tmp_path: Path, name: str, capsys):
    words = ["benchmark", "--colorizer", name, "--photos", str(bench.photos), "--out", str(tmp_path / "out")]
    words += ["--size", "24", "--clicks", "0,1,4", "--hint-size", "3", "--policies", "farthest", "--threads", "1"]
    words += ["--metrics", "ab_psnr,worse_clicks", "--device", "cpu", "--mlflow", "off"]
    assert main(words) == 0
    assert "no network" in capsys.readouterr().out
    rows = rows_of(tmp_path / "out")
    random, ruler = (rows.query("policy == @policy")["ab_psnr"].to_numpy() for policy in ("random", "no network"))
    assert np.array_equal(random, ruler) == (name == "kernel")
    assert random.reshape(-1, 3).mean(0)[-1] > random.reshape(-1, 3).mean(0)[0]
    assert json.loads((tmp_path / "out" / "results.json").read_text())["colorizer"]["source"] == name
    assert main([*words, "--resume"]) == 0
    words[2] = "levin" if name == "kernel" else "kernel"
    assert main([*words, "--resume"]) == 2
    assert "colorizer was" in capsys.readouterr().err


def test_a_killed_benchmark_resumes_to_the_same_numbers(bench: Bench, finished: Path, tmp_path: Path):
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, str(KILLED), "2", *bench.words(out, "--batch-size", "3")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    parts = {path.name: path.stat().st_mtime_ns for path in out.glob("photos-*.parquet")}
    assert len(parts) == 2
    assert main(bench.words(out, "--batch-size", "5", "--resume")) == 0
    assert_same_numbers(rows_of(out), rows_of(finished))
    one, other = (json.loads((folder / "results.json").read_text()) for folder in (out, finished))
    assert one["photos"] == other["photos"]
    np.testing.assert_allclose(
        [row["ab_psnr"] for row in one["rows"]], [row["ab_psnr"] for row in other["rows"]], atol=1e-6
    )


def test_resuming_what_is_finished_measures_nothing_again(bench: Bench, finished: Path, monkeypatch):
    before = (finished / "results.parquet").stat().st_mtime_ns
    monkeypatch.setattr("evaluator.benchmark.measure.evaluate", None)
    (finished / "report.html").unlink()
    assert main(bench.words(finished, "--resume")) == 0
    assert (finished / "results.parquet").stat().st_mtime_ns == before
    assert (finished / "report.html").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--seed", "1"], "seed was 0 and is 1"),
        (["--hint-size", "2"], "hint_size was 1 and is 2"),
        (["--grey"], "grey was false and is true"),
        (["--robot.colour-sigma", "3"], "robot was"),
        (["--precision", "bf16"], 'precision was "fp32" and is "bf16"'),
        (["--no-ruler"], "ruler was"),
    ],
)
def test_another_protocol_is_not_resumed(bench: Bench, finished: Path, change, named: str, capsys):
    assert main(bench.words(finished, "--resume", *change)) == 2
    assert named in capsys.readouterr().err


def test_other_photos_or_networks_are_not_resumed(bench: Bench, finished: Path, tmp_path: Path, capsys):
    words = bench.words(finished, "--resume")
    words[words.index("--photos") + 1] = str(bench.photos / "p00.jpg")
    assert main(words) == 2
    assert "photos was" in capsys.readouterr().err
    words = bench.words(finished, "--resume")
    words.remove(str(bench.networks / "editnet-oracle"))
    assert main(words) == 2
    assert "guides was" in capsys.readouterr().err
    assert main(bench.words(finished)) == 2
    assert "add --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policies", "clever"], "unknown policies clever; choose from random"),
        (["--metrics", "beauty"], "unknown metrics beauty"),
        (["--clicks", "0,900"], "900 clicks of 1 x 1 pixels do not fit into 24 x 24"),
        (["--photos", "/nowhere"], "/nowhere does not exist"),
        (["--colorizer", "/nowhere/model.pt2"], "/nowhere/model.pt2 has no exported graph"),
        (["--colorizer", "kernle"], "kernle has no exported graph"),
        (["--colorizer", "kernle"], "--colorizer takes kernel and levin"),
        (["--guide", "kernel"], "kernel has no exported graph"),
        (["--policies", "no network"], "unknown policies no network"),
        (["--device", "cuda:97"], "device is 'cuda:97'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(bench: Bench, tmp_path: Path, words, message: str, capsys):
    assert main(bench.words(tmp_path / "out", *words)) == 2
    found = capsys.readouterr().err.strip()
    assert found.startswith("error: ")
    assert message in found
    assert "\n" not in found
    assert not (tmp_path / "out").exists()


def test_a_contract_that_does_not_fit_is_named(bench: Bench, tmp_path: Path, capsys):
    copied = tmp_path / "network"
    copied.mkdir()
    for file in ("contract.json", "data/model.pt2"):
        (copied / Path(file).name).write_bytes((bench.networks / "colornet" / file).read_bytes())
    contract = json.loads((copied / "contract.json").read_text())
    contract["multiple"] = 0
    (copied / "contract.json").write_text(json.dumps(contract))
    assert main(bench.words(tmp_path / "out", "--colorizer", str(copied / "model.pt2"))) == 2
    assert "contract field 'multiple' is 0" in capsys.readouterr().err


def test_a_pickled_model_is_refused(bench: Bench, tmp_path: Path, capsys):
    torch.save(torch.nn.Linear(1, 1), tmp_path / "model.pth")
    assert main(bench.words(tmp_path / "out", "--colorizer", str(tmp_path / "model.pth"))) == 2
    assert "pickles are never loaded" in capsys.readouterr().err


def test_only_bad_photos_are_one_clear_line_too(bench: Bench, tmp_path: Path, capsys):
    words = bench.words(tmp_path / "out", "--photos", str(bench.photos / "p99-tiny.png"))
    assert main(words) == 2
    assert "none of 1 photos can be measured: p99-tiny.png: tiny: 2 x 2 pixels" in capsys.readouterr().err


def test_an_unknown_command_lists_the_commands(capsys):
    assert main(["measure"]) == 2
    assert "unknown command 'measure'" in capsys.readouterr().err
    assert main(["--help"]) == 0
