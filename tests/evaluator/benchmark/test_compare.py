import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from evaluator.benchmark.compare import compare, main
from tests.evaluator.made_up_run import made_up_rows, write_run


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """Two networks on the same photos; the second is better by 0.5 steps of every metric."""
    second = {"source": "models:/colornet/2", "name": "colornet", "version": "2"}
    return [
        write_run(tmp_path / "one", made_up_rows(seed=1)),
        write_run(tmp_path / "two", made_up_rows(seed=2, gain=0.5), colorizer=second),
    ]


def test_differences_are_those_of_pandas_on_the_joined_rows(two: list[Path]):
    first, second = (pd.read_parquet(folder / "results.parquet") for folder in two)
    joined = first.merge(second, on=["photo", "policy", "clicks"], suffixes=("_1", "_2"))
    differences = compare(two).differences
    assert len(differences) == 3 * 4 * 3
    for difference in differences:
        record = difference.record
        rows = joined[(joined["policy"] == record.policy) & (joined["clicks"] == record.clicks)]
        mine, base = rows[f"{record.metric}_2"], rows[f"{record.metric}_1"]
        assert record.gain == pytest.approx((mine - base).mean(), abs=1e-9)
        assert record.value == pytest.approx(mine.mean())
        assert difference.first_mean == pytest.approx(base.mean())
        assert record.photos == 40
        assert record.verdict == "better"


def test_intervals_agree_with_scipy_s_paired_bootstrap(two: list[Path]):
    first, second = (pd.read_parquet(folder / "results.parquet") for folder in two)
    joined = first.merge(second, on=["photo", "policy", "clicks"], suffixes=("_1", "_2"))
    for difference in compare(two).differences[::7]:
        record = difference.record
        rows = joined[(joined["policy"] == record.policy) & (joined["clicks"] == record.clicks)]
        expected = stats.bootstrap(
            (np.asarray(rows[f"{record.metric}_2"]), np.asarray(rows[f"{record.metric}_1"])),
            lambda x, y, axis: (x - y).mean(axis),
            paired=True,
            n_resamples=20_000,
            method="percentile",
            rng=np.random.default_rng(5),
        ).confidence_interval
        width = expected.high - expected.low
        assert record.gain_low == pytest.approx(expected.low, abs=0.06 * width)
        assert record.gain_high == pytest.approx(expected.high, abs=0.06 * width)


def test_lower_is_better_for_an_error(tmp_path: Path):
    folders = [
        write_run(tmp_path / str(gain), made_up_rows(metrics=["delta_e"], gain=gain, seed=int(gain * 10)))
        for gain in (0.0, 0.5)
    ]
    up, down = compare(folders), compare(folders[::-1])
    assert {difference.record.verdict for difference in up.differences} == {"better"}
    assert all(difference.record.gain < 0 for difference in up.differences if difference.record.gain)
    assert {difference.record.verdict for difference in down.differences} == {"worse"}


def test_runs_of_one_network_do_not_differ(tmp_path: Path):
    folders = [write_run(tmp_path / name) for name in ("one", "two")]
    assert {d.record.verdict for d in compare(folders).differences} == {"no different"}
    assert {d.record.gain for d in compare(folders).differences} == {0.0}


def test_undefined_values_are_left_out_and_counted(tmp_path: Path):
    holes = made_up_rows(seed=2)
    holes.loc[(holes["clicks"] == 0) | ((holes["clicks"] == 5) & (holes["index"] < 3)), "ab_ssim"] = np.nan
    folders = [write_run(tmp_path / "one", made_up_rows(seed=1)), write_run(tmp_path / "two", holes)]
    of = {(d.record.policy, d.record.clicks, d.record.metric): d for d in compare(folders).differences}
    undefined, some = of["random", 0, "ab_ssim"], of["random", 5, "ab_ssim"]
    assert undefined.record.photos == 0
    assert undefined.record.verdict == ""
    assert undefined.row("one")["difference"] is None
    assert some.record.photos == 37
    values = [pd.read_parquet(folder / "results.parquet") for folder in folders]
    one, two = (
        rows[(rows["policy"] == "random") & (rows["clicks"] == 5)].set_index("photo")["ab_ssim"] for rows in values
    )
    assert some.record.gain == pytest.approx((two - one).mean())
    assert some.first_mean == pytest.approx(one[two.notna()].mean())


@pytest.mark.parametrize(
    ("field", "value"), [("hint_size", 1), ("seed", 5), ("size", 128), ("robot", {"position_sigma": 2.0})]
)
def test_another_protocol_is_refused_by_the_name_of_its_field(two: list[Path], field: str, value: object):
    content = json.loads((two[1] / "results.json").read_text())
    content["protocol"][field] = value
    (two[1] / "results.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"{field} is .* in one and .* in two"):
        compare(two)


def test_the_batch_size_may_differ(two: list[Path]):
    content = json.loads((two[1] / "results.json").read_text())
    content["protocol"]["batch_size"] = 1
    (two[1] / "results.json").write_text(json.dumps(content))
    assert compare(two).warnings == []


def test_only_shared_photos_policies_and_metrics_are_compared(tmp_path: Path):
    fewer = made_up_rows(seed=2, policies=["random", "max-error"], metrics=["ab_psnr"])
    fewer = fewer.query("index >= 10")
    folders = [write_run(tmp_path / "one"), write_run(tmp_path / "two", fewer, photos={"sha256": "cd" * 32})]
    compared = compare(folders)
    assert compared.photos == [f"photo{i:02}.png" for i in range(10, 40)]
    assert (compared.policies, compared.metrics) == (["random", "max-error"], ["ab_psnr"])
    assert compared.warnings[0] == "photos differ: 40 in one, 30 in two; compared on the 30 that all have"
    assert len(compared.warnings) == 3
    first = pd.read_parquet(folders[0] / "results.parquet").query(
        "policy == 'random' and clicks == 5 and index >= 10"
    )
    difference = next(d for d in compared.differences if (d.record.policy, d.record.clicks) == ("random", 5))
    assert difference.first_mean == pytest.approx(first["ab_psnr"].mean())


def test_nothing_in_common_is_refused(tmp_path: Path):
    folders = [write_run(tmp_path / "one"), write_run(tmp_path / "two", made_up_rows(photos=["x.png", "y.png"]))]
    with pytest.raises(ValueError, match="one, two have no photos in common"):
        compare(folders)


def test_other_photos_under_the_same_names_are_refused(tmp_path: Path):
    one = write_run(tmp_path / "one")
    larger = write_run(tmp_path / "larger", made_up_rows(size=(48, 48)))
    with pytest.raises(ValueError, match=r"'photo00\.png' has \[32, 48\] .* \[48, 48\] in larger"):
        compare([one, larger])
    about = json.loads((one / "results.json").read_text())["photos"]
    edited = write_run(tmp_path / "edited", photos=about | {"sha256": "cd" * 32})
    with pytest.raises(ValueError, match="same names and other contents"):
        compare([one, edited])


def test_two_photos_of_one_name_are_refused(tmp_path: Path):
    rows = made_up_rows(photos=["a.png", "b.png", "a.png"])
    with pytest.raises(ValueError, match=r"1 names in one stand for two photos each \('a\.png'\)"):
        compare([write_run(tmp_path / name, rows) for name in ("one", "two")])


def test_one_folder_or_one_twice_is_refused(two: list[Path]):
    with pytest.raises(ValueError, match="give at least two"):
        compare(two[:1])
    with pytest.raises(ValueError, match="given twice"):
        compare([two[0], two[0]])


def test_three_runs_are_each_compared_with_the_first(two: list[Path], tmp_path: Path):
    third = write_run(tmp_path / "deeper" / "two", made_up_rows(seed=3, gain=-0.5))
    compared = compare([*two, third])
    assert [Path(name).name for name in compared.runs] == ["one", "two", "two"]
    verdicts = {d.run: d.record.verdict for d in compared.differences}
    assert [verdicts[name] for name in list(compared.runs)[1:]] == ["better", "worse"]


def test_the_command_prints_a_table_and_writes_json_and_csv(
    two: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "120")
    assert main(tuple(two), json_file=tmp_path / "out.json", csv_file=tmp_path / "out.csv") == 0
    text = capsys.readouterr().out
    assert "two (colornet/2) minus one (colornet/1): 40 photos" in text
    assert text.count("▲") == 3 * 4 * 3 + 1
    assert "ab PSNR (dB, range 2)" in text
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["runs"]["two"]["colorizer"]["version"] == "2"
    assert content["photos"] == 40
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["difference"]) for row in rows] == [row["difference"] for row in content["rows"]]
    assert rows[0]["verdict"] == "better"
