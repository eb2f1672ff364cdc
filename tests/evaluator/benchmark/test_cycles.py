import json
from pathlib import Path
from typing import Any

import pytest

from evaluator.benchmark.presets import cycles_of


def write_run(folder: Path, cycles: int, validations: int) -> Path:
    """A finished training as the trainer leaves it: one validation after each stage."""

    def entry(stage: int) -> dict[str, Any]:
        means = {f"validation/{p}/ab_psnr@{c}": 20.0 + stage + c / 100 for p in ("random", "o") for c in (1, 10)}
        return {**means, "images_seen": 100.0 * stage}

    (folder / "config.json").write_text(json.dumps({"recipe.rounds.cycles": cycles}))
    (folder / "results.json").write_text(json.dumps({"curve": [entry(s) for s in range(1, validations + 1)]}))
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
