"""What `accelerate launch --mixed_precision ... --dynamo_backend ...` leaves in the environment."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.trainer.small_training import small_config
from trainer.config import EngineConfig
from trainer.engines import Cluster, as_launched
from trainer.main import main
from trainer.session import Session

NOTHING = {
    "MIXED_PRECISION": "no",
    "DYNAMO_BACKEND": "NO",
    "DYNAMO_MODE": "default",
    "DYNAMO_USE_FULLGRAPH": "False",
    "DYNAMO_USE_DYNAMIC": "False",
    "DYNAMO_USE_REGIONAL_COMPILATION": "False",
}
"""What a launch without these options sets."""


def launched(monkeypatch: pytest.MonkeyPatch, **more: str) -> None:
    for name, value in (NOTHING | more).items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_launch_that_asks_for_nothing_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, precision: str, compiled: bool
):
    config = replace(EngineConfig(), precision=precision, compile=compiled)
    assert as_launched(config) == config
    launched(monkeypatch)
    assert as_launched(config) == config


@pytest.mark.parametrize("given", ["auto", "bf16"])
def test_the_launch_s_precision_is_the_training_s(monkeypatch: pytest.MonkeyPatch, given: str):
    launched(monkeypatch, MIXED_PRECISION="bf16")
    config = replace(EngineConfig(threads=1), precision=given)
    assert as_launched(config).precision == "bf16"
    assert as_launched(as_launched(config)) == as_launched(config)
    cluster = Cluster(config)
    assert cluster.precision == "bf16"
    cluster.close()


def test_inductor_compiles_as_the_training_s_own_option_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    launched(monkeypatch, DYNAMO_BACKEND="INDUCTOR")
    with Session.open(small_config(tmp_path), resume=False) as session:
        assert session.training.config.engine.compile
        assert (session.folder.path / "config.json").read_text().count('"engine.compile": true') == 1


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        (
            ["--engine.precision", "fp32"],
            {"MIXED_PRECISION": "bf16"},
            "engine.precision is fp32 and the launch asks for --mixed_precision bf16",
        ),
        ([], {"MIXED_PRECISION": "fp8"}, "--mixed_precision fp8, which is not done here"),
        ([], {"MIXED_PRECISION": "fp16"}, "fp16 on a CPU, as the launch's --mixed_precision asks"),
        ([], {"DYNAMO_BACKEND": "EAGER"}, "--dynamo_backend eager; only inductor"),
        ([], {"DYNAMO_BACKEND": "INDUCTOR", "DYNAMO_MODE": "max-autotune"}, "--dynamo_mode (max-autotune)"),
        ([], {"DYNAMO_BACKEND": "INDUCTOR", "DYNAMO_USE_FULLGRAPH": "True"}, "--dynamo_use_fullgraph (true)"),
    ],
)
def test_what_cannot_be_done_is_refused_with_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    environment: dict[str, str],
    message: str,
):
    launched(monkeypatch, **environment)
    assert main(["--run.work", str(tmp_path / "runs"), "--recipe.loss.perceptual", "off", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
