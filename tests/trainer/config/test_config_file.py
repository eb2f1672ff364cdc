"""Settings from a file: what a run or a sweep wrote is accepted, and what a person got wrong is named."""

import json
from pathlib import Path

import pytest

from tests.trainer.test_main import SMALL
from trainer.config import flatten, override
from trainer.config.overrides import annotations, checked, read_config, read_mapping
from trainer.config.presets import PRESETS, small, tiny
from trainer.main import main, parse
from trainer.run_folder import as_json


@pytest.fixture
def write(tmp_path: Path):
    """`write(text, suffix)`: a file."""

    def make(text: str, suffix: str = ".yaml") -> Path:
        path = tmp_path / f"settings{suffix}"
        path.write_text(text)
        return path

    return make


@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_run_s_own_config_is_read_back(write, preset: str):
    config = override(PRESETS[preset](), {"data.train": ("a.tar", "b.tar"), "recipe.choice.tau.shape": "constant"})
    assert read_config(write(json.dumps(as_json(config)), ".json")) == config


def test_names_may_be_dotted_or_nested_and_the_rest_is_the_preset(write):
    nested = "recipe:\n  choice:\n    temperature: {shape: exponential, end: 1e-1}\n"
    path = write(f"preset: small\nrecipe.loss.entropy: 0.5\n{nested}")
    found, before = flatten(read_config(path)), flatten(small())
    assert {name: value for name, value in found.items() if value != before[name]} == {
        "recipe.loss.entropy": 0.5, "recipe.choice.temperature.shape": "exponential",
        "recipe.choice.temperature.end": 0.1
    }  # fmt: skip


def test_yaml_is_read_as_version_1_2(write):
    content = read_mapping(write("a: off\nb: no\nc: 1e-4\nd: 2E3\ne: true\nf: 3\ng: '1'\nh: -.5\ni: 1.\n"))
    assert content == {
        "a": "off", "b": "no", "c": 1e-4, "d": 2000.0, "e": True, "f": 3, "g": "1", "h": -0.5, "i": 1.0
    }  # fmt: skip


def test_yaml_numbers_are_as_they_look_and_nothing_is_a_date(write):
    content = read_mapping(write("a: 1_000\nb: 010\nc: 1:30\nd: 2020-01-01\ne: -7\nf: 0\n"))
    assert content == {"a": "1_000", "b": "010", "c": "1:30", "d": "2020-01-01", "e": -7, "f": 0}


def test_options_win_over_the_file_and_a_preset_before_it_is_what_it_fills_up(write):
    path = str(write("preset: small\nrecipe.loss.entropy: 0.5\nseed: 3\n"))
    assert parse(["--config", path]).config == override(small(), {"recipe.loss.entropy": 0.5, "seed": 3})
    assert parse([f"--config={path}", "--seed", "4", "--resume"]).config.seed == 4
    assert parse(["tiny", "--config", path]).config == override(tiny(), {"recipe.loss.entropy": 0.5, "seed": 3})


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (
            "recipe.loss.entropi: 1",
            ["there is no setting 'recipe.loss.entropi'; did you mean recipe.loss.entropy?"],
        ),
        ("recipe:\n  loss:\n    entropy: high", ["recipe.loss.entropy cannot be 'high'; it is a number"]),
        ("recipe.loss.target: reggion", ["recipe.loss.target cannot be 'reggion'", "did you mean region?"]),
        (
            "recipe.color_widths: [8, 8.5]",
            ["recipe.color_widths cannot be [8, 8.5]; it is a list, each a whole number"],
        ),
        ("recipe.choice.hint_size: [1]", ["it is a list of 2, each a whole number"]),
        ("seed: true", ["seed cannot be True; it is a whole number"]),
        ("seed: x\nengine.compile: 1", ["seed cannot be 'x'", "engine.compile cannot be 1; it is true or false"]),
        ("recipe.loss.entropy: -1", ["entropy is -1"]),
        ("preset: tine", ["its preset is 'tine'; did you mean tiny?"]),
        ("- a list", ["must map settings to values"]),
        ("a: [", ["cannot be read"]),
    ],
)
def test_what_is_wrong_in_a_file_is_one_message_and_exit_code_2(
    write, capsys: pytest.CaptureFixture[str], text: str, messages: list[str]
):
    path = write(text if text.startswith(("preset", "- ")) else f"preset: tiny\n{text}")
    assert main(["--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert all(message in error for message in (str(path), *messages))
    assert error.count("\n") < 12


def test_a_file_without_a_preset_needs_one_before_it(write, capsys: pytest.CaptureFixture[str]):
    path = str(write("seed: 3"))
    assert main(["--config", path]) == 2
    assert "it names no preset; choose one of tiny, small, serving, paper" in capsys.readouterr().err
    assert parse(["paper", "--config", path]).config.seed == 3


def test_a_missing_file_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--config", str(tmp_path / "none.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_every_setting_has_a_type_that_its_own_default_fits():
    assert set(annotations(tiny())) == set(flatten(tiny()))
    for preset in PRESETS.values():
        assert override(preset(), checked(as_json(preset()), preset())) == preset()


@pytest.mark.training
def test_a_run_is_repeated_and_resumed_by_its_config_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Resuming finds the run that the file belongs to; this one is finished."""
    short = (*SMALL, "--recipe.rounds.pretrain-edit", "0", "--recipe.rounds.cycles", "0", "--run.no-publish")
    assert main(["--run.work", str(tmp_path), "--run.name", "first", *short]) == 0
    config = str(tmp_path / "first" / "config.json")
    assert main(["--config", config, "--run.name", "again"]) == 0
    first, again = (json.loads((tmp_path / n / "results.json").read_text()) for n in ("first", "again"))
    assert first["results"] == again["results"]
    capsys.readouterr()
    assert main(["--config", config, "--resume"]) == 2
    assert "first: finished" in capsys.readouterr().err
