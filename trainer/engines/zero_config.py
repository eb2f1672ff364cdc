"""DeepSpeed settings of a launch, read from the environment that `accelerate launch` sets."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env

STAGES = (0, 1, 2, 3)
ON_A_CPU = "DS_ACCELERATOR"
"""DeepSpeed's own switch; `cpu` lets tests run its engines without a GPU, over gloo."""
_ASKED = "ACCELERATE_USE_DEEPSPEED"
_PREFIX = "ACCELERATE_DEEPSPEED_"
# What a JSON file may say beside zero_optimization: how DeepSpeed reports, not what is computed.
_FREE = {
    "comms_logger",
    "flops_profiler",
    "wall_clock_breakdown",
    "steps_per_print",
    "dump_state",
    "memory_breakdown",
}


@dataclass(frozen=True, kw_only=True)
class ZeroSettings:
    """Settings of a launch with DeepSpeed."""

    stage: int
    """0: all replicated. 1: optimizer state in parts, 2: gradients too, 3: weights too."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The JSON file's `zero_optimization`, such as overlap_comm."""
    reports: Mapping[str, Any] = field(default_factory=dict)
    """The JSON file's settings of what DeepSpeed prints."""

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"the launch asks for ZeRO stage {self.stage}; choose one of {STAGES}")


def zero_settings() -> ZeroSettings | None:
    """DeepSpeed settings of this launch; None without DeepSpeed.

    Raises:
        ValueError: it asks for something that the trainer decides or does not have, or there is no GPU.
    """
    if not parse_flag_from_env(_ASKED):
        return None
    _refuse_offload(
        {
            name: os.environ.get(f"{_PREFIX}{name.upper()}_DEVICE", "none")
            for name in ("offload_optimizer", "offload_param")
        }
    )
    if not torch.cuda.is_available() and os.environ.get(ON_A_CPU) != "cpu":
        raise ValueError(
            "this launch asks for DeepSpeed, which is for GPUs, and there is none here; for CPU processes use "
            "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N"
        )
    file = os.environ.get(f"{_PREFIX}CONFIG_FILE", "none")
    if file != "none":
        return _from_file(Path(file))
    return ZeroSettings(stage=int(os.environ.get(f"{_PREFIX}ZERO_STAGE", "2")))


@contextmanager
def hidden_from_accelerate() -> Iterator[None]:
    """Context in which accelerate starts the processes as for DDP.

    Its own way with DeepSpeed does not fit this loop: `backward` is the optimizer step there, so that nothing
    could be clipped, looked at or left out in between; and without a GPU all of its ranks believe to be rank 0.
    """
    asked = os.environ.pop(_ASKED, None)
    try:
        yield
    finally:
        if asked is not None:
            os.environ[_ASKED] = asked


def _from_file(path: Path) -> ZeroSettings:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"the launch's deepspeed_config_file {path} cannot be read: {error}") from error
    options = dict(content.pop("zero_optimization", {}))
    stage = int(options.pop("stage", 0))
    _refuse_offload(
        {name: options.get(name, {}).get("device", "none") for name in ("offload_optimizer", "offload_param")}
    )
    decided = sorted(name for name, value in content.items() if name not in _FREE and value != "auto")
    if decided:
        raise ValueError(
            f"{path} sets {', '.join(decided)}, which the trainer's own settings decide (data.batch_size, "
            'engine.micro_batch, engine.precision, optimizer.*); remove it there or write "auto"'
        )
    return ZeroSettings(stage=stage, options=options, reports={k: v for k, v in content.items() if k in _FREE})


def _refuse_offload(devices: Mapping[str, str]) -> None:
    for name, device in devices.items():
        if device not in ("none", None):
            raise ValueError(
                f"the launch's {name} is {device}; these networks fit on one GPU many times: set it to none"
            )
