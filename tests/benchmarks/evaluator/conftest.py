"""What the evaluator's benchmarks are tried on."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def photos(tmp_path: Path, jpeg: Callable[..., bytes]) -> Path:
    """A folder with three photos of 96 x 64 px."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        (folder / f"{seed}.jpg").write_bytes(jpeg(seed, 96, 64))
    return folder
