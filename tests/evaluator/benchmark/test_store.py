import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evaluator.benchmark.store import (
    ROWS_FILE,
    Coverage,
    coverage_of,
    merge,
    parts_of,
    remove_parts,
    schema,
    to_table,
    write_part,
)
from evaluator.protocol.finished import read_table
from evaluator.protocol.results import Protocol, Results
from tests.evaluator.made_up_results import made_up_results

METRICS = ["ab_psnr", "delta_e"]
NAMES = [f"photo {index}" for index in range(20)]
PROTOCOL = Protocol(clicks=(0, 2, 3))


def results_of(first: int, count: int) -> Results:
    generator = np.random.default_rng(first)
    values = {p: {m: generator.normal(25, 3, (count, 3)) for m in METRICS} for p in ("random", "grid")}
    values["grid"]["ab_psnr"][0] = [np.nan, np.inf, 25.0]
    positions = {policy: generator.integers(0, 35, (count, 3)) for policy in values}
    return made_up_results(values, PROTOCOL, size=(5, 7), first_index=first, positions=positions)


def write(folder: Path, first: int, count: int) -> Results:
    results = results_of(first, count)
    write_part(folder, to_table(results, NAMES), covered(first, count))
    return results


def covered(first: int, count: int) -> Coverage:
    return Coverage({index: f"sha of {index}" for index in range(first, first + count)}, {}, enlarged=1)


def test_every_row_says_what_was_measured_and_where_the_clicks_went(tmp_path: Path):
    results = write(tmp_path, 4, 3)
    rows = pd.read_parquet(parts_of(tmp_path)[0])
    assert len(rows) == 3 * 2 * 3
    at = rows[(rows["photo"] == "photo 5") & (rows["policy"] == "grid") & (rows["clicks"] == 2)].iloc[0]
    assert (at["index"], at["height"], at["width"], at["seconds_per_click"]) == (5, 5, 7, 0.5)
    assert at["delta_e"] == results.values("grid", "delta_e")[1, 1]
    assert np.array_equal(np.stack([at["click_rows"], at["click_cols"]], axis=1), results.positions("grid")[1, :2])
    assert list(rows.columns[:6]) == ["photo", "index", "height", "width", "policy", "clicks"]


def test_parts_in_any_order_become_one_file_sorted_by_photo(tmp_path: Path):
    late, early = write(tmp_path, 10, 2), write(tmp_path, 0, 3)
    write_part(tmp_path, schema(METRICS).empty_table(), Coverage({}, {5: "grey"}))
    coverage = merge(tmp_path, METRICS)
    assert coverage.indices == {0, 1, 2, 5, 10, 11}
    assert coverage.left_out == {5: "grey"}
    assert coverage.enlarged == 2
    remove_parts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [ROWS_FILE]
    assert coverage_of(tmp_path) == coverage
    back = Results(protocol=PROTOCOL, frame=read_table(tmp_path / ROWS_FILE))
    whole = Results.merge([late, early])
    assert (back.policies, back.metrics, back.size) == (whole.policies, METRICS, (5, 7))
    stored = back.frame.reindex(columns=whole.frame.columns)
    pd.testing.assert_frame_equal(stored, whole.frame, check_exact=True, check_dtype=False)
    assert back.photos["photo"].tolist() == [f"photo {index}" for index in (0, 1, 2, 10, 11)]


def test_a_merge_that_was_interrupted_is_not_repeated_with_fewer_parts(tmp_path: Path):
    write(tmp_path, 0, 2)
    write(tmp_path, 2, 2)
    merge(tmp_path, METRICS)
    parts_of(tmp_path)[0].unlink()  # killed while it removed the parts
    assert merge(tmp_path, METRICS).indices == {0, 1, 2, 3}
    assert len(pd.read_parquet(tmp_path / ROWS_FILE)) == 4 * 2 * 3


def test_a_half_written_part_is_no_part(tmp_path: Path):
    write(tmp_path, 0, 2)
    (tmp_path / ".photos-00000002.parquet.x1").write_bytes(b"PAR1 half")
    assert coverage_of(tmp_path).indices == {0, 1}
    remove_parts(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_other_parquet_files_are_refused(tmp_path: Path):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "photos-1.parquet")
    with pytest.raises(ValueError, match="was not written by this benchmark"):
        coverage_of(tmp_path)


def test_coverage_survives_json():
    coverage = Coverage({3: "aa", 1: "bb"}, {2: "tiny: 2 x 2"}, 1)
    assert Coverage.from_json(coverage.to_json()) == coverage
    assert json.loads(coverage.to_json())["enlarged"] == 1
