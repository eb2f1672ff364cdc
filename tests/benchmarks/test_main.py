"""The command finds every benchmark, and says what it does not have."""

import subprocess
import sys

import pytest

from tests import ROOT
from tests.benchmarks import harness
from tests.benchmarks.__main__ import BENCHMARKS, main
from tests.benchmarks.kernels import color


@pytest.mark.parametrize("args", [[], ["--help"]])
def test_every_benchmark_is_listed_with_a_line(args: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(args) == 0
    listed = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[0] for line in listed] == list(BENCHMARKS)
    assert all(len(line.split()) > 4 for line in listed)


def test_an_unknown_name_is_told_with_the_known_ones(capsys: pytest.CaptureFixture[str]):
    assert main(["speed"]) == 2
    assert "there is no benchmark 'speed'; take one of choose_click, color, " in capsys.readouterr().err


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_explains_itself_and_its_json(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert f"python -m tests.benchmarks {name}" in said
    assert "--json" in said


@pytest.mark.parametrize(
    ("error", "code"), [(harness.Refused("1 % off"), 1), (ValueError("bad"), 2), (FileNotFoundError("none"), 2)]
)
def test_a_refusal_ends_with_code_1_and_bad_input_with_2(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def fail(args: list[str]) -> int:
        raise error

    monkeypatch.setattr(color, "main", fail)
    assert main(["color"]) == code
    assert str(error) in capsys.readouterr().err


@pytest.mark.training
def test_kernels_are_measured_with_little_more_than_torch():
    """As on a bare machine with a GPU."""
    block = "import sys; sys.modules |= dict.fromkeys(['tyro', 'PIL', 'skimage', 'scipy', 'mlflow', 'pandas'])"
    for name in ("choose_click", "color"):
        program = f"{block}; from tests.benchmarks.__main__ import main; main(['{name}', '--help'])"
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "--json" in done.stdout
