"""Each engine on two gloo processes against one process with plain torch, the wrong ways, and what is refused."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import ROOT
from tests.trainer.engine_table import RESUME_AT, STEPS, build, reference, take, weights, wrong_ways
from tests.trainer.small_training import build as build_training
from tests.trainer.small_training import small_config
from tests.trainer.test_loop import COLORIZER_A, OneConv, phase
from trainer.config import EngineConfig
from trainer.engines import Cluster, Engine
from trainer.engines.zero_config import ZeroSettings, zero_settings
from trainer.monitoring.console import Screen
from trainer.recipes.base import Recipe, Stage

pytestmark = pytest.mark.launch

TABLE = Path(__file__).with_name("engine_table.py")
SAYS = {
    "borrowed_unfrozen": "it was unfrozen while borrowed: leave requires_grad to `borrow`",
    "borrowed_as_engine": "b is borrowed here but was called as an engine; call the module that `borrow` gives",
    "module_not_borrowed": "name it in the phase's `borrows`, or call it under torch.no_grad()",
    "trained_as_module": "it is being trained: call the engine",
    "frozen_before": "network c comes with frozen parameters (first.weight ...)",
}
ON_A_CPU = {"ACCELERATE_USE_CPU": "true", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


def launch(*words: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Start a program as `accelerate launch` with one of the house's files would, on CPU processes."""
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)),
        *("--main_process_port", "0", *words),
    ]
    environment = {**os.environ, **ON_A_CPU}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=600, cwd=ROOT
    )


def largest_difference(found: dict[str, Any], expected: dict[str, Any]) -> float:
    return max(
        float((found[name][key] - tensor).abs().max())
        for name, tensors in expected.items()
        for key, tensor in tensors.items()
    )


ASKED = {
    "DDP": ("--config_file", "launch/ddp.yaml"),
    "ZeRO 0": ("--use_deepspeed", "--zero_stage", "0"),
    "ZeRO 1": ("--config_file", "launch/zero1.yaml"),
    "ZeRO 2": ("--config_file", "launch/zero2.yaml"),
    "ZeRO 3": ("--use_deepspeed", "--deepspeed_config_file", "ALL_IN_PARTS"),
}
# At stage 3 DeepSpeed leaves small parameters whole, unless it is told not to.
ALL_IN_PARTS = '{"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}'


@pytest.mark.launch
@pytest.mark.parametrize(
    "engine",
    ["DDP", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ZeRO 0", "ZeRO 1", "ZeRO 2")), "ZeRO 3"],
)
def test_every_engine_trains_two_networks_in_turn_like_one_process(tmp_path: Path, engine: str):
    """Micro-batches, several calls before a backward, steps left out, a checkpoint in the middle, wrong ways."""
    file = tmp_path / "zero3.json"
    file.write_text(ALL_IN_PARTS)
    asked = (str(file) if word == "ALL_IN_PARTS" else word for word in ASKED[engine])
    done = launch(*asked, str(TABLE), str(tmp_path / "found.pt"))
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    expected = reference()
    assert found["engine"] == engine
    assert largest_difference(found["networks"], expected["networks"]) <= 1e-6
    assert found["norms"] == pytest.approx(expected["norms"], rel=1e-6)
    for name, tensors in found["networks"].items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, found["resumed"][name][key]), f"{name}.{key} differs after a checkpoint"
    for way, words in SAYS.items():
        assert words in found["messages"][way], way
    # Its checkpoint is any engine's: one process goes on with it.
    cluster = Cluster(EngineConfig(precision="fp32", threads=1))
    engines = build(cluster)
    for name, state in found["states"].items():
        engines[name].load_state_dict(state)
    take(cluster, engines, range(RESUME_AT, STEPS))
    assert largest_difference(weights(engines), expected["networks"]) <= 1e-6


def test_the_reference_is_moved_by_its_training():
    start = {name: engine.module.state_dict() for name, engine in build(Cluster(EngineConfig(threads=1))).items()}
    assert largest_difference(reference()["networks"], start) > 1e-3


def test_the_wrong_ways_are_refused_in_one_process_too():
    cluster = Cluster(EngineConfig(precision="fp32", threads=1))
    messages = wrong_ways(cluster, build(cluster))
    assert {way for way, words in SAYS.items() if words in messages[way]} == set(SAYS)


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_checkpoint_goes_on_whatever_its_memory_layout_was(channels_last: bool):
    """The fused AdamW walks through memory: moments in another layout would meet other weights."""
    cluster = Cluster(EngineConfig(precision="fp32", threads=1))
    straight, first = build(cluster), build(cluster, EngineConfig(precision="fp32", channels_last=channels_last))
    take(cluster, straight, range(STEPS))
    take(cluster, first, range(RESUME_AT))
    resumed = build(cluster)
    for name, engine in first.items():
        resumed[name].load_state_dict(copy.deepcopy(engine.state_dict()))
    take(cluster, resumed, range(RESUME_AT, STEPS))
    assert largest_difference(weights(resumed), weights(straight)) <= 1e-6


@pytest.mark.slow
@pytest.mark.launch
@pytest.mark.parametrize("file", ["zero1.yaml", "zero2.yaml", "zero3.yaml"])
def test_the_whole_command_runs_with_deepspeed_and_its_run_is_published(tmp_path: Path, file: str):
    from tests.trainer.test_main import SMALL

    words = (
        "trainer/main.py",
        "--run.work",
        str(tmp_path),
        "--run.name",
        "zero",
        *SMALL,
        "--validation.photos",
        "3",
    )
    done = launch("--config_file", f"launch/{file}", *words)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "zero" / "results.json").read_text())
    assert {row["photos"] for row in results["results"]} == {3}
    assert results["skipped_steps"] == 0
    assert done.stdout.count("Registered colornet version 1") == 1
    assert "engine.channels_last has no effect" in done.stdout + done.stderr


def test_one_loss_for_several_networks_is_refused_where_the_engine_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stage = Stage(name="s", phases=(phase("joint", ("a", "b"), (), lambda step: {}),), rounds=1.0)
    recipe = Recipe(name="test", networks={"a": OneConv, "b": OneConv}, stages=[stage], published=COLORIZER_A)
    monkeypatch.setattr(Engine, "can_share_a_loss", False)
    with pytest.raises(ValueError, match="phase joint trains several networks with one loss"):
        build_training(small_config(tmp_path), tmp_path, recipe=recipe)


@pytest.fixture
def deepspeed_launch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of an accelerate launch with DeepSpeed, behind the test switch."""
    for name, value in {"ACCELERATE_USE_DEEPSPEED": "true", "DS_ACCELERATOR": "cpu"}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_deepspeed_without_a_gpu_is_refused(deepspeed_launch: pytest.MonkeyPatch):
    deepspeed_launch.delenv("DS_ACCELERATOR")
    deepspeed_launch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="asks for DeepSpeed, which is for GPUs, and there is none here"):
        Cluster(EngineConfig())


def test_a_launch_without_deepspeed_asks_for_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED", raising=False)
    assert zero_settings() is None


@pytest.mark.parametrize("name", ["OFFLOAD_OPTIMIZER", "OFFLOAD_PARAM"])
def test_offloading_is_refused(deepspeed_launch: pytest.MonkeyPatch, name: str):
    deepspeed_launch.setenv(f"ACCELERATE_DEEPSPEED_{name}_DEVICE", "cpu")
    with pytest.raises(ValueError, match=f"{name.lower()} is cpu"):
        zero_settings()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"gradient_clipping": 1.0, "bf16": {"enabled": true}}',
            "sets bf16, gradient_clipping, which the trainer",
        ),
        ('{"zero_optimization": {"stage": 4}}', "ZeRO stage 4; choose one of"),
        (
            '{"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}',
            "offload_optimizer is cpu",
        ),
        ("{", "cannot be read"),
    ],
)
def test_a_deepspeed_file_that_decides_too_much_is_refused(
    deepspeed_launch: pytest.MonkeyPatch, tmp_path: Path, content: str, message: str
):
    (tmp_path / "zero.json").write_text(content)
    deepspeed_launch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "zero.json"))
    with pytest.raises(ValueError, match=message):
        zero_settings()


def test_a_deepspeed_file_may_set_how_zero_works(deepspeed_launch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "zero.json").write_text(
        '{"train_batch_size": "auto", "zero_optimization": {"stage": 2, "overlap_comm": true}}'
    )
    deepspeed_launch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "zero.json"))
    assert zero_settings() == ZeroSettings(stage=2, options={"overlap_comm": True})


@pytest.mark.parametrize(
    ("stage", "config", "message"),
    [
        ("3", EngineConfig(compile=True), "engine.compile is on with ZeRO 3"),
        ("2", EngineConfig(precision="fp16"), "fp16 on a CPU"),
    ],
)
def test_settings_that_do_not_go_with_deepspeed_are_refused(
    deepspeed_launch: pytest.MonkeyPatch, stage: str, config: EngineConfig, message: str
):
    deepspeed_launch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", stage)
    with pytest.raises(ValueError, match=message):
        Cluster(config)


def test_a_micro_batch_that_does_not_divide_the_batch_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"engine\.micro_batch is 3 and data\.batch_size 8; give a divisor"):
        small_config(tmp_path, engine__micro_batch=3)


def test_a_micro_batch_that_does_not_divide_a_process_share_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    training = build_training(small_config(tmp_path, engine__micro_batch=8), tmp_path)
    monkeypatch.setattr(training.cluster, "world_size", 2)
    with pytest.raises(ValueError, match="micro_batch is 8, but each process has 4 photos of a batch"):
        training.__post_init__()


def test_a_continuation_with_another_batch_norm_group_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    monkeypatch.setattr(Screen, "warn", lambda screen, text: said.append(text))
    build_training(small_config(tmp_path), tmp_path).save()
    build_training(small_config(tmp_path), tmp_path)
    assert not said
    build_training(small_config(tmp_path, engine__micro_batch=2), tmp_path)
    assert said == [
        "batch norm sees groups of 2 photos from now on, and saw 8 before; "
        "--engine.micro-batch 8 would go on as before"
    ]
