import json
from pathlib import Path

import pytest

from evaluator.benchmark.presets import cycles_of


def write_run(folder: Path, cycles: int, validations: int) -> Path:
    """A finished training as the trainer leaves it: one validation after each stage."""
    curve = [
        {
            "stage": stage,
            "images_seen": 100 * (stage + 1),
            "policy": policy,
            "metric": "ab_psnr",
            "clicks": clicks,
            "value": 21.0 + stage + clicks / 100,
        }
        for stage in range(validations)
        for policy in ("random", "o")
        for clicks in (1, 10)
    ]
    (folder / "config.json").write_text(json.dumps({"recipe.rounds.cycles": cycles}))
    (folder / "results.json").write_text(json.dumps({"curve": curve}))
    return folder


def test_a_cycle_ends_with_its_second_stage(tmp_path: Path):
    """Two stages of pretraining, then ping and pong for each cycle."""
    rows = cycles_of(write_run(tmp_path, cycles=2, validations=6), clicks=10)
    assert [(row["cycle"], row["policy"], row["images_seen"]) for row in rows] == [
        (1, "random", 400),
        (1, "o", 400),
        (2, "random", 600),
        (2, "o", 600),
    ]
    assert rows[0]["ab_psnr"] == pytest.approx(24.1)
    assert rows[3]["ab_psnr"] == pytest.approx(26.1)


def test_a_training_that_is_no_answer_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"config\.json is missing; --run takes the folder"):
        cycles_of(tmp_path, 10)
    with pytest.raises(ValueError, match="has 0 cycles"):
        cycles_of(write_run(tmp_path, cycles=0, validations=2), 10)
    with pytest.raises(ValueError, match="was not validated at 20 clicks"):
        cycles_of(write_run(tmp_path, cycles=1, validations=4), 20)
    (tmp_path / "results.json").write_text(json.dumps({"curve": [{"validation/random/ab_psnr@20": 30.0}] * 4}))
    with pytest.raises(ValueError, match="of an earlier version"):
        cycles_of(tmp_path, 20)
