"""The one module that owns accelerate: processes, devices, precision, and the step of each trained network.

Ranks come from torch.distributed through accelerate's state, once. A recipe sees `Engine`s: callable while
trained, borrowed as bare modules otherwise.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list, parse_flag_from_env
from torch import Tensor, nn

from evaluator.threads import use_threads
from trainer.config import EngineConfig, OptimizerConfig

Precision = Literal["fp32", "bf16", "fp16"]
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
    """The processes of this job and what they do together."""

    def __init__(self, config: EngineConfig) -> None:
        _refuse_other_engines()
        # accelerate reads this variable in Accelerator() but not in PartialState(), which must come first here.
        state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
        _refuse_strangers(state.num_processes)
        self.rank: int = state.process_index
        self.world_size: int = state.num_processes
        self.is_main: bool = state.is_main_process
        assert state.device is not None, "PartialState() sets it"
        self.device: torch.device = state.device
        self.threads = use_threads(config.threads)
        self.precision = resolve_precision(config.precision, self.device)
        # accelerate keeps one precision per process; a second cluster (a benchmark's) may have another.
        AcceleratorState._reset_state()
        self._accelerator = Accelerator(
            mixed_precision=_MIXED_PRECISION[self.precision],
            kwargs_handlers=[
                # Batch-norm statistics are averaged after each step instead (`Engine.update`): broadcasting them
                # at every forward would overwrite buffers that an earlier interaction's backward still needs.
                DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
            ],
        )

    def engine(self, name: str, network: nn.Module, optimizer: OptimizerConfig, config: EngineConfig) -> "Engine":
        """Prepare one network for training on this cluster's device and processes."""
        return Engine(name, network, optimizer, config, self._accelerator)

    def agree(self, *, finite: bool, stop: bool, skipped: int = 0) -> Verdict:
        """Share what each rank knows; every rank gets the same verdict."""
        if self.world_size == 1:
            return Verdict(finite, stop, skipped)
        counts = torch.tensor([int(not finite), int(stop), skipped], device=self.device)
        dist.all_reduce(counts)
        broken, stopping, replaced = counts.tolist()
        return Verdict(finite=not broken, stop=bool(stopping), skipped=replaced)

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Mean of each value over the ranks; all ranks must pass the same names."""
        if self.world_size == 1 or not values:
            return values
        stacked = torch.tensor(list(values.values()), dtype=torch.float32, device=self.device)
        dist.all_reduce(stacked)
        return dict(zip(values, (stacked / self.world_size).tolist(), strict=True))

    def share(self, value: Any) -> Any:
        """The main process's value, on every rank."""
        return broadcast_object_list([value])[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value in rank order, on every rank."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered

    def close(self) -> None:
        """Leave the process group; without it gloo may abort at exit."""
        self._accelerator.end_training()


class Engine:
    """One trained network with its optimizer."""

    def __init__(
        self,
        name: str,
        network: nn.Module,
        optimizer: OptimizerConfig,
        config: EngineConfig,
        accelerator: Accelerator,
    ) -> None:
        self.name = name
        self.module = network.to(accelerator.device)
        """The bare network, for borrowing, validation and export."""
        if config.channels_last:
            self.module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]: missing overload
        if config.compile:
            self.module.compile()
        self._clip = optimizer.clip
        self._accelerator = accelerator
        self._optimizer = accelerator.prepare(
            torch.optim.AdamW(self.module.parameters(), lr=1.0, weight_decay=optimizer.weight_decay, fused=True)
        )
        with warnings.catch_warnings():
            # torch 2.15 renames the option; accelerate 1.15 only knows the old name.
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            self._model = accelerator.prepare(self.module)

    @property
    def scales_loss(self) -> bool:
        """Whether fp16's loss scaler is at work, which skips steps whose gradient overflows."""
        return self._accelerator.scaler is not None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run the network as the one being trained; gradients are averaged over ranks in the backward."""
        return self._model(*inputs)

    def clip(self) -> float:
        """Clip the gradients that a backward has left; returns their L2 norm before, the same on every rank."""
        gradient = self._accelerator.clip_grad_norm_(self.module.parameters(), self._clip)
        assert gradient is not None, "accelerate clips inside the optimizer only with FSDP or DeepSpeed"
        return float(gradient)

    def step(self, lr: float) -> None:
        """Step on the clipped gradients, and average batch-norm statistics over ranks."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._average_statistics()

    def undo(self, statistics: Sequence[Tensor], *, clipped: bool) -> None:
        """Leave a broken step out: put back what `statistics` gave before it, and forget its gradients."""
        if clipped and self.scales_loss:
            self._optimizer.step()  # the loss scaler skips it, and learns to scale less
        self._optimizer.zero_grad(set_to_none=True)
        for buffer, before in zip(self.module.buffers(), statistics, strict=True):
            buffer.copy_(before)

    def statistics(self) -> list[Tensor]:
        """A copy of the batch-norm statistics, which a forward in training mode changes."""
        return [buffer.clone() for buffer in self.module.buffers()]

    def state_dict(self) -> dict[str, Any]:
        """Weights, statistics and optimizer state; the same on every rank."""
        state = {"network": self.module.state_dict(), "optimizer": self._optimizer.state_dict()}
        if self._accelerator.scaler is not None:
            state["scaler"] = self._accelerator.scaler.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the optimizer's settings stay this config's."""
        self.module.load_state_dict(state["network"])
        weight_decay = self._optimizer.param_groups[0]["weight_decay"]
        self._optimizer.load_state_dict(state["optimizer"])
        for group in self._optimizer.param_groups:
            group["weight_decay"] = weight_decay
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])

    def _average_statistics(self) -> None:
        """Average batch-norm statistics over ranks, so that every rank holds, saves and validates one network."""
        if self._accelerator.num_processes == 1:
            return
        buffers = [buffer for buffer in self.module.buffers() if buffer.is_floating_point()]
        flat = torch.cat([buffer.flatten() for buffer in buffers])
        dist.all_reduce(flat)
        flat /= self._accelerator.num_processes
        for buffer, mean in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(mean.view_as(buffer))


def backward(loss: Tensor, engines: Sequence[Engine]) -> None:
    """Backpropagate one summed loss into the engines that a phase trains."""
    engines[0]._accelerator.backward(loss)


@contextmanager
def train(engines: Sequence[Engine]) -> Iterator[None]:
    """Put the trained networks into training mode for a step, and back into eval mode after it."""
    for engine in engines:
        engine.module.train()
    try:
        yield
    finally:
        for engine in engines:
            engine.module.eval()


@contextmanager
def borrow(engines: Sequence[Engine]) -> Iterator[tuple[nn.Module, ...]]:
    """Lend networks that a phase uses but does not train: bare, frozen, in eval mode.

    Bare *and* frozen: with DDP or ZeRO any other combination raises or is silently off (a frozen engine called as
    the engine by 6e-2 at ZeRO 3, a bare module that is not frozen by 1.3e-2 at ZeRO 0 and 1).
    tests/trainer/test_distributed.py compares with a single process.
    """
    for engine in engines:
        engine.module.eval()
        engine.module.requires_grad_(False)
    try:
        yield tuple(engine.module for engine in engines)
    finally:
        for engine in engines:
            engine.module.requires_grad_(True)


def resolve_precision(wanted: str, device: torch.device) -> Precision:
    """The autocast type for this device.

    Raises:
        ValueError: fp16 on a CPU, which has neither the speed nor a loss scaler there.
    """
    if wanted == "fp16" and device.type == "cpu":
        raise ValueError("engine.precision is fp16 on a CPU; use bf16, fp32 or auto")
    if wanted != "auto":
        return wanted  # pyright: ignore[reportReturnType]: the config's Literal
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"


def _refuse_other_engines() -> None:
    """Refuse what accelerate would do behind the loop's back."""
    for name in ("DEEPSPEED", "FSDP", "MEGATRON_LM"):
        if parse_flag_from_env(f"ACCELERATE_USE_{name}"):
            raise ValueError(
                f"this launch asks for {name}, which is not wired in yet; use launch/ddp.yaml instead"
            )
    if os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1") != "1":
        raise ValueError(
            "this launch asks for gradient accumulation, which would only scale the loss; leave it at 1"
        )


def _refuse_strangers(world_size: int) -> None:
    """Processes that were launched together but do not see each other would each train alone, all as rank 0."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != world_size:
        raise ValueError(
            f"{launched} processes were launched but accelerate sees {world_size}; for CPU processes use "
            f"ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes {launched}"
        )
