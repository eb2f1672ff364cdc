import json
from pathlib import Path

import numpy as np
import pytest

from evaluator.protocol.bootstrap import defined_means
from evaluator.protocol.finished import Finished
from tests.evaluator.made_up_run import made_up_rows, write_run


def test_values_come_back_by_policy_metric_photo_and_budget(tmp_path: Path):
    rows = made_up_rows()
    shuffled = rows.sample(frac=1, random_state=3)
    finished = Finished.read(write_run(tmp_path, shuffled))
    assert sorted(finished.policies) == ["guide-blind", "max-error", "random"]
    assert finished.budgets == [0, 1, 5, 20]
    assert finished.names == [f"photo{i:02}.png" for i in range(40)]
    assert finished.sizes.tolist() == [[32, 48]] * 40
    for policy in finished.policies:
        for metric in finished.metrics:
            expected = rows[rows["policy"] == policy].pivot(index="index", columns="clicks", values=metric)
            np.testing.assert_array_equal(finished.values(policy, metric), expected)


def test_means_come_with_their_intervals_whatever_is_undefined(tmp_path: Path):
    rows = made_up_rows()
    rows.loc[(rows["index"] < 5) & (rows["clicks"] == 1), "ab_ssim"] = np.nan
    finished = Finished.read(write_run(tmp_path, rows))
    for record in finished.records:
        values = finished.values(record.policy, record.metric)[:, [finished.budgets.index(record.clicks)]]
        alone = defined_means(values, seed=0)
        assert (record.value, record.low) == (pytest.approx(alone.mean[0]), pytest.approx(alone.low[0]))
        assert record.photos == alone.photos[0]


def test_positions_come_in_the_order_of_the_photos(tmp_path: Path):
    rows = made_up_rows()
    finished = Finished.read(write_run(tmp_path, rows.sample(frac=1, random_state=3)))
    for policy in finished.policies:
        expected = rows[(rows["policy"] == policy) & (rows["clicks"] == 5)]
        lists = zip(expected.click_rows, expected.click_cols, strict=True)
        np.testing.assert_array_equal(finished.positions(policy, 5), [np.stack(pair, 1) for pair in lists])
    assert finished.positions("random", 0).shape == (40, 0, 2)


def test_an_infinite_psnr_counts_as_its_ceiling(tmp_path: Path):
    rows = made_up_rows()
    rows.loc[0, "ab_psnr"] = np.inf
    assert Finished.read(write_run(tmp_path, rows)).values("random", "ab_psnr")[0, 0] == 100.0


def test_the_digest_depends_on_the_protocol_and_not_on_the_batch_size(tmp_path: Path):
    one = Finished.read(write_run(tmp_path / "one"))
    protocol = one.about["protocol"]
    other_batch = Finished.read(write_run(tmp_path / "batch", protocol=protocol | {"batch_size": 1}))
    other_hint = Finished.read(write_run(tmp_path / "hint", protocol=protocol | {"hint_size": 1}))
    assert one.digest() == other_batch.digest() != other_hint.digest()
    assert len(one.digest()) == 12


def test_a_folder_without_a_finished_benchmark_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"results\.json is missing; give the --out folder"):
        Finished.read(tmp_path)
    write_run(tmp_path)
    (tmp_path / "results.parquet").unlink()
    with pytest.raises(ValueError, match=r"results\.parquet is missing; finish the benchmark with --resume"):
        Finished.read(tmp_path)


def test_another_layout_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="has schema 7"):
        Finished.read(write_run(tmp_path / "schema", schema=7))
    with pytest.raises(ValueError, match="lacks protocol, colorizer"):
        Finished.read(write_run(tmp_path / "empty", protocol=None, colorizer={}))
    write_run(tmp_path / "cut")
    (tmp_path / "cut" / "results.json").write_text('{"schema": 1, ')
    with pytest.raises(ValueError, match="is not JSON"):
        Finished.read(tmp_path / "cut")
    unknown = made_up_rows().assign(sparkle=1.0)
    with pytest.raises(ValueError, match="no metric here: sparkle"):
        Finished.read(write_run(tmp_path / "metric", unknown))
    with pytest.raises(ValueError, match="lacks the columns click_rows"):
        Finished.read(write_run(tmp_path / "clicks", made_up_rows().drop(columns="click_rows")))


def test_missing_and_repeated_rows_are_named(tmp_path: Path):
    rows = made_up_rows()
    write_run(tmp_path, rows)
    rows.drop(index=5).to_parquet(tmp_path / "results.parquet", index=False)
    with pytest.raises(ValueError, match=r"0 rows for photo 'photo00\.png', policy 'guide-blind', 1 clicks"):
        Finished.read(tmp_path)
    rows.loc[[*rows.index, 5]].to_parquet(tmp_path / "results.parquet", index=False)
    with pytest.raises(ValueError, match=r"2 rows for photo 'photo00\.png', policy 'guide-blind', 1 clicks"):
        Finished.read(tmp_path)


def test_rows_without_their_positions_are_refused(tmp_path: Path):
    rows = made_up_rows()
    at = rows.index[rows["clicks"] == 20][0]
    rows.at[at, "click_rows"] = rows.at[at, "click_rows"][:-1]
    with pytest.raises(ValueError, match="20 clicks without 20 positions"):
        Finished.read(write_run(tmp_path, rows))


def test_means_of_another_run_are_refused(tmp_path: Path):
    write_run(tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    content["rows"][2]["ab_psnr"] += 0.01
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"ab_psnr of 'random' after 5 clicks is .* different runs"):
        Finished.read(tmp_path)
