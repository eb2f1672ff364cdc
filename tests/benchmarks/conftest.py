"""How a benchmark's smoke test runs it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.__main__ import main


@pytest.fixture
def report_of(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`report_of(name, *options)`: the report that the benchmark wrote."""

    def run(name: str, *options: object) -> dict[str, Any]:
        file = tmp_path / f"{name}.json"
        assert main([name, *map(str, options), "--json", str(file)]) == 0
        content = json.loads(file.read_text())
        assert set(content) == {"machine", "versions", "commit", "rows", "goals"}
        return content

    return run
