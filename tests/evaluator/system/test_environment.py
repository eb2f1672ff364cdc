"""How many cores a container's limit leaves."""

import os
from pathlib import Path

import pytest

from evaluator.system import environment


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        pytest.param({}, 8, id="no groups"),
        pytest.param({"cpu.max": "max 100000\n"}, 8, id="no limit"),
        pytest.param({"cpu.max": "250000 100000\n"}, 3, id="two and a half cores' time"),
        pytest.param({"cpu.max": "5000 100000\n"}, 1, id="a part of a core"),
        pytest.param({"cpu.max": "6400000 100000\n"}, 8, id="more than there are"),
        pytest.param({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8, id="1: no limit"),
        pytest.param({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4, id="1: four"),
    ],
)
def test_a_container_s_limit_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    assert environment.usable_cores(tmp_path) == cores
