import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.benchmarks.evaluator import upsampling
from tests.benchmarks.evaluator.upsampling import Arguments, check, main


@pytest.fixture
def photos(tmp_path: Path, jpeg: Callable[..., bytes]) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        (folder / f"{seed}.jpg").write_bytes(jpeg(seed, 96, 64))
    return folder


def test_the_report_has_every_way_at_every_size(photos: Path, tmp_path: Path, capsys):
    main(Arguments(photos=photos, working=(48, 24), limit=2, json=tmp_path / "report.json"))
    report = json.loads((tmp_path / "report.json").read_text())
    assert {(row["working"], row["method"]) for row in report["rows"]} == {
        (working, method) for working in (48, 24) for method in ("detail", "guided", "bilinear")
    }
    assert {row["photos"] for row in report["rows"]} == {2}
    assert all(0 < row["delta E 2000"] < 50 for row in report["rows"])
    assert len(report["goals"]) == 4
    assert "bleeding" in capsys.readouterr().out


def test_a_wrong_way_is_not_measured(monkeypatch):
    right = upsampling.upsample_ab
    monkeypatch.setattr(upsampling, "upsample_ab", lambda *given: right(*given) + 0.01)
    with pytest.raises(SystemExit, match=r"bilinear is 1\.28 CIE units off"):
        check()


def test_photos_that_are_small_already_are_told(photos: Path):
    with pytest.raises(SystemExit, match="no photo of"):
        main(Arguments(photos=photos, working=(96,)))


def test_a_working_size_of_nothing_is_told(photos: Path):
    with pytest.raises(ValueError, match="--working"):
        Arguments(photos=photos, working=())


def test_the_check_passes_as_things_are():
    check()
    assert torch.is_grad_enabled()
