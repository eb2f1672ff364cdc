"""Processes of a job, their device and precision; the only place that reads ranks from torch.distributed."""

import os
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, Literal

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list, parse_flag_from_env
from torch import nn

from evaluator.system.threads import use_threads
from trainer.config import EngineConfig
from trainer.engines.base import Engine
from trainer.engines.ddp import ReplicatedEngine
from trainer.engines.launcher import MIXED_PRECISION, as_launched
from trainer.engines.zero_config import ON_A_CPU, hidden_from_accelerate, zero_settings
from trainer.recipes.base import Optimizer

Precision = Literal["fp32", "bf16", "fp16"]
_SECOND_TIMEOUT = timedelta(minutes=30)
"""By which torch's timeout is longer than ours."""
_MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True)
class Verdict:
    """What all ranks agreed on before a step."""

    finite: bool
    """Every rank's loss is finite."""
    stop: bool
    """Some rank was asked to stop (SIGTERM, Ctrl-C)."""
    skipped: int
    """Photos that all ranks' readers have replaced."""


class Cluster:
    """The processes of this job and their collective operations."""

    def __init__(self, config: EngineConfig) -> None:
        config = as_launched(config)
        self.zero = zero_settings()
        """What the launch asks of DeepSpeed; None: one process, or DDP."""
        # accelerate reads this variable in Accelerator() but not in PartialState(), which must come first here.
        cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or (
            self.zero is not None and os.environ.get(ON_A_CPU) == "cpu"
        )
        with hidden_from_accelerate():
            # `trainer.monitoring.watchdog` names a rank that does not answer; torch's timeout is for what it does
            # not see.
            patience = timedelta(seconds=config.timeout) + _SECOND_TIMEOUT
            state = PartialState(cpu=cpu, timeout=patience)
            _refuse_strangers(state.num_processes)
            self.rank: int = state.process_index
            self.world_size: int = state.num_processes
            self.is_main: bool = state.is_main_process
            assert state.device is not None, "PartialState() sets it"
            self.device: torch.device = state.device
            self.threads = use_threads(config.threads)
            self.precision = resolve_precision(config.precision, self.device)
            if self.zero:
                _refuse_with_deepspeed(self.zero.stage, self.precision, config)
            # accelerate keeps one precision per process; a second cluster (a benchmark's) may have another.
            AcceleratorState._reset_state()
            self._accelerator = Accelerator(
                cpu=cpu,
                mixed_precision=_MIXED_PRECISION[self.precision],
                dynamo_backend="no",  # `engine` compiles; where the launch asks for it, accelerate would once more
                kwargs_handlers=[
                    # Batch-norm statistics are averaged after each step instead (`Statistics`): broadcasting them
                    # at every forward would overwrite buffers that an earlier interaction's backward still needs.
                    DistributedDataParallelKwargs(
                        broadcast_buffers=False, gradient_as_bucket_view=True, bucket_cap_mb=config.bucket_mb
                    )
                ],
            )

    @property
    def engine_name(self) -> str:
        """Short name of the way in which the networks are trained."""
        if self.zero:
            return f"ZeRO {self.zero.stage}"
        return "DDP" if self.world_size > 1 else "one process"

    def without_effect(self, config: EngineConfig) -> list[str]:
        """A sentence for each setting that has no effect with this engine."""
        if self.zero and config.channels_last:
            return ["engine.channels_last has no effect: DeepSpeed keeps weights in one flat piece of memory"]
        return []

    def engine(self, name: str, network: nn.Module, optimizer: Optimizer, config: EngineConfig) -> Engine:
        """Prepare one network for training on this cluster's device and processes.

        Raises:
            ValueError: it comes with frozen parameters.
        """
        network.to(self.device)
        if config.channels_last and not self.zero:
            network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]: missing overload
        if config.compile:
            network.compile()
        if self.zero:
            from trainer.engines.zero import ZeroEngine  # a slow import that few need

            return ZeroEngine(name, network, optimizer, config, self.zero, self._accelerator)
        return ReplicatedEngine(name, network, optimizer, self._accelerator)

    def agree(self, *, finite: bool, stop: bool, skipped: int = 0) -> Verdict:
        """Combine what each rank knows into one verdict, the same on every rank."""
        if self.world_size == 1:
            return Verdict(finite, stop, skipped)
        counts = torch.tensor([int(not finite), int(stop), skipped], device=self.device)
        dist.all_reduce(counts)
        broken, stopping, replaced = counts.tolist()
        return Verdict(finite=not broken, stop=bool(stopping), skipped=replaced)

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Mean of each value over the ranks, all of which must pass the same names."""
        if self.world_size == 1 or not values:
            return values
        stacked = torch.tensor(list(values.values()), dtype=torch.float32, device=self.device)
        dist.all_reduce(stacked)
        return dict(zip(values, (stacked / self.world_size).tolist(), strict=True))

    def share(self, value: Any) -> Any:
        """The main process's value, on every rank (broadcast)."""
        return broadcast_object_list([value])[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value in rank order, on every rank (all-gather)."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered

    def close(self) -> None:
        """Destroy the process group; without this, gloo may abort at exit."""
        self._accelerator.end_training()


def resolve_precision(wanted: str, device: torch.device) -> Precision:
    """Autocast type of a precision setting on this device.

    Raises:
        ValueError: fp16 on a CPU, which has neither the speed nor a loss scaler there.
    """
    if wanted == "fp16" and device.type == "cpu":
        asked = ", as the launch's --mixed_precision asks" if os.environ.get(MIXED_PRECISION) == "fp16" else ""
        raise ValueError(f"engine.precision is fp16 on a CPU{asked}; use bf16, fp32 or auto")
    if wanted != "auto":
        return wanted  # pyright: ignore[reportReturnType]: the config's Literal
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"


def _refuse_with_deepspeed(stage: int, precision: Precision, config: EngineConfig) -> None:
    """Refuse settings that are not supported with DeepSpeed."""
    if find_spec("deepspeed") is None:
        raise ValueError("this launch asks for DeepSpeed; pip install 'chromaclick[cluster]'")
    if precision == "fp16":
        raise ValueError(
            "engine.precision is fp16 with DeepSpeed, whose loss scaler is not used here; give bf16 or fp32"
        )
    if config.compile and stage == 3:
        raise ValueError("engine.compile is on with ZeRO 3, which hides the weights from it; use ZeRO 2 or DDP")


def _refuse_strangers(world_size: int) -> None:
    """Refuse processes that were launched together but have no process group: each would train alone as rank 0."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != world_size:
        raise ValueError(
            f"{launched} processes were launched but accelerate sees {world_size}; for CPU processes use "
            f"ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes {launched}"
        )
