from pathlib import Path

import pytest

from evaluator.benchmark.store import prepare

IDENTITY = {"clicks": (0, 1), "size": 64, "colorizer": "aa", "photos": "bb", "robot": {"position_sigma": 0.0}}


def test_a_new_folder_begins_with_nothing_done(tmp_path: Path):
    assert prepare(tmp_path / "out", IDENTITY, resume=False) == set()


def test_resume_begins_where_nothing_is_and_continues_what_is_the_same(tmp_path: Path):
    assert prepare(tmp_path, IDENTITY, resume=True) == set()
    assert prepare(tmp_path, dict(IDENTITY), resume=True) == set()


def test_a_benchmark_is_never_overwritten(tmp_path: Path):
    prepare(tmp_path, IDENTITY, resume=False)
    with pytest.raises(ValueError, match="holds a benchmark; add --resume"):
        prepare(tmp_path, IDENTITY, resume=False)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"clicks": (0, 2)}, r"clicks was \[0, 1\] and is \[0, 2\]"),
        ({"colorizer": "cc"}, 'colorizer was "aa" and is "cc"'),
        ({"photos": "cc"}, 'photos was "bb" and is "cc"'),
        ({"robot": {"position_sigma": 1.0}}, "robot was"),
        ({"more": 1}, "more was null and is 1"),
    ],
)
def test_another_measurement_is_refused_by_the_name_of_the_setting(tmp_path: Path, change: dict, named: str):
    prepare(tmp_path, IDENTITY, resume=False)
    with pytest.raises(ValueError, match=f"begun with other settings: {named}"):
        prepare(tmp_path, IDENTITY | change, resume=True)


def test_results_of_unknown_origin_are_left_alone(tmp_path: Path):
    (tmp_path / "results.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="give another --out"):
        prepare(tmp_path, IDENTITY, resume=False)
