"""DeepSpeed's ZeRO 0 to 3, one DeepSpeed engine per network, driven between backward and step by our loop."""

import copy
import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from accelerate import Accelerator
from deepspeed.runtime.utils import combine_grad_norm_groups
from deepspeed.utils import logger, safe_get_full_fp32_param, safe_get_full_optimizer_state
from torch import Tensor, nn
from typing_extensions import override

from trainer.config import EngineConfig
from trainer.engines.base import Engine, load_optimizer, make_optimizer
from trainer.engines.zero_config import ZeroSettings
from trainer.recipes.base import Optimizer

_MOMENTS = ("exp_avg", "exp_avg_sq")
_NEVER = 10**9


class ZeroEngine(Engine):
    """Engine around a DeepSpeed engine.

    DeepSpeed gets float32 parameters and plain torch AdamW; bf16 is autocast inside the network's forward, as with
    DDP, so that weights, batch-norm statistics and checkpoints are the same with every engine.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        optimizer: Optimizer,
        config: EngineConfig,
        settings: ZeroSettings,
        accelerator: Accelerator,
    ) -> None:
        logger.setLevel(logging.ERROR)  # it would warn of every step that our loop leaves out and reports
        world_size = accelerator.num_processes
        # The copy comes first: what follows hooks into the network.
        self._whole = copy.deepcopy(network).eval().requires_grad_(False) if settings.stage == 3 else None
        super().__init__(name, network, world_size)
        self._stage = settings.stage
        self._clip = optimizer.clip
        for one in (network, self._whole):
            if one is not None:
                accelerator.prepare_model(one, evaluation_mode=True)  # autocast alone: this leaves out DDP
        if accelerator.device.type == "cpu":
            # Its shared-memory all-reduce is compiled on first use, for minutes; gloo does without.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        if not dist.is_initialized():  # one process
            deepspeed.init_distributed("nccl" if accelerator.device.type == "cuda" else "gloo")
        self._engine = deepspeed.initialize(
            model=network,
            optimizer=make_optimizer(network, optimizer),
            config=_deepspeed_config(settings, optimizer, config, world_size),
        )[0]

    @property
    @override
    def scales_loss(self) -> bool:
        return False  # the cluster refuses fp16

    @property
    @override
    def can_share_a_loss(self) -> bool:
        return False  # a DeepSpeed engine's backward reduces its own network's gradients only

    @property
    @override
    def whole(self) -> nn.Module:
        return self.module if self._whole is None else self._whole

    @override
    @torch.no_grad()
    def collect(self) -> None:
        """With ZeRO 3, gather the weights from all ranks: a forward of the module itself is a collective call."""
        if self._whole is not None:
            self._whole.load_state_dict(self._weights())

    @override
    def clip(self) -> float:
        if self._stage == 0:
            return float(nn.utils.clip_grad_norm_(self.module.parameters(), self._clip))
        return float(self._norm())

    @override
    def share_gradients(self, wanted: bool) -> AbstractContextManager[Any]:
        self._engine.set_gradient_accumulation_boundary(wanted)
        return nullcontext()

    @override
    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss, scale_wrt_gas=False)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"network": self._weights(), "optimizer": self._optimizer_state()}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        parameters = list(self.module.parameters()) if self._stage == 3 else []
        with deepspeed.zero.GatheredParameters(parameters, modifier_rank=0):
            self.module.load_state_dict(state["network"])
        if self._stage:
            self._zero.refresh_fp32_params()
            self._load_moments(state["optimizer"]["state"])
        else:
            load_optimizer(self._zero, state["optimizer"])

    @override
    def _run(self, *inputs: Any, **options: Any) -> Any:
        return self._engine(*inputs, **options)

    @override
    def _step(self, lr: float) -> None:
        for group in self._zero.param_groups:
            group["lr"] = lr
        self._engine.step()
        assert not self._skipped, f"DeepSpeed left out a step of {self.name} that all ranks had agreed on"

    @override
    def _forget_gradients(self, *, clipped: bool) -> None:
        """Drop the gradients; with ZeRO by its own handling of non-finite ones, which clears all buffers."""
        if self._stage == 0:
            self._engine.zero_grad()
            return
        parts = [part for parts in self._zero.averaged_gradients.values() for part in parts]
        for part in parts:
            part.fill_(float("nan"))
        self._engine.step()
        for part in parts:  # ZeRO 3 keeps these tensors, and never writes to what only fills them up
            part.zero_()
        assert self._skipped, f"DeepSpeed stepped {self.name} on gradients that are not finite"

    @property
    def _zero(self) -> Any:
        """DeepSpeed's optimizer around AdamW; at stage 0 AdamW itself."""
        return self._engine.optimizer

    @property
    def _skipped(self) -> bool:
        return bool(getattr(self._zero, "overflow", False))

    def _norm(self) -> Tensor:
        """L2 norm of the averaged gradient over all ranks' parts; infinite where a part of it is not finite."""
        if self._stage == 3:
            return combine_grad_norm_groups(self._zero._get_norm_groups())
        return self._zero.scaled_global_norm()

    def _weights(self) -> dict[str, Tensor]:
        state = self.module.state_dict()
        if self._stage == 3:  # parts, or nothing
            state |= {name: _whole_weight(parameter) for name, parameter in self.module.named_parameters()}
        return state

    def _optimizer_state(self) -> dict[str, Any]:
        """AdamW's state for the whole network, as torch would give it."""
        if self._stage == 0:
            return self._zero.state_dict()
        parameters = list(self.module.parameters())
        settings = {name: value for name, value in self._zero.param_groups[0].items() if name != "params"}
        groups = [{**settings, "params": list(range(len(parameters)))}]
        steps = [state["step"] for state in self._adamw.state.values()]
        if not steps:  # before the first step
            return {"state": {}, "param_groups": groups}
        return {
            "state": {
                index: {
                    "step": steps[0].clone(),
                    **{key: _moment(parameter, key) for key in _MOMENTS},
                }
                for index, parameter in enumerate(parameters)
            },
            "param_groups": groups,
        }

    def _load_moments(self, saved: dict[int, dict[str, Tensor]]) -> None:
        """Load this rank's partition of AdamW's state."""
        self._adamw.state.clear()
        if not saved:
            return
        step = saved[0]["step"]
        for part in self._parts:
            self._adamw.state[part] = {
                "step": step.to(part.device, copy=True),
                **{key: torch.zeros_like(part) for key in _MOMENTS},
            }
        if self._stage < 3:
            self._zero._hp_optimizer_states_linked = False
            self._zero._lazy_init_hp_params_optimizer_state()
        for index, parameter in enumerate(self.module.parameters()):
            for key in _MOMENTS:
                _set_moment(parameter, saved[index][key].to(parameter.device), key)

    @property
    def _adamw(self) -> torch.optim.Optimizer:
        return self._zero.optimizer

    @property
    def _parts(self) -> list[Tensor]:
        """Flat float32 weights that this rank updates."""
        if self._stage == 3:
            return self._zero.fp32_partitioned_groups_flat
        return self._zero.single_partition_of_fp32_groups


def _whole_weight(parameter: nn.Parameter) -> Tensor:
    """A weight gathered without `GatheredParameters`, which refuses to release what a borrowing phase has used."""
    value = safe_get_full_fp32_param(parameter)
    assert value is not None, "every parameter is in DeepSpeed's optimizer"
    return value.clone()


def _moment(parameter: nn.Parameter, key: str) -> Tensor:
    """One of AdamW's moments for the whole weight."""
    value = safe_get_full_optimizer_state(parameter, key)
    assert value is not None, "every parameter is in DeepSpeed's optimizer"
    return value.clone()


def _set_moment(parameter: Any, value: Tensor, key: str) -> None:
    """`safe_set_full_optimizer_state`, also for sizes that the ranks do not divide (at stage 3)."""
    if not hasattr(parameter, "ds_id"):
        deepspeed.utils.safe_set_full_optimizer_state(parameter, value, key)
        return
    size, rank = parameter.partition_numel(), dist.get_rank()
    flat = value.flatten()[rank * size : (rank + 1) * size]
    padded = nn.functional.pad(flat, (0, size - flat.numel()))
    deepspeed.utils.safe_set_local_optimizer_state(parameter, padded, key)


def _deepspeed_config(
    settings: ZeroSettings, optimizer: Optimizer, config: EngineConfig, world_size: int
) -> dict[str, Any]:
    bucket = config.bucket_mb * 2**20 // 4  # in float32 elements
    return {
        "steps_per_print": _NEVER,
        **settings.reports,
        # Our loop counts photos and micro-batches; these only have to fit each other.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": world_size,
        "gradient_clipping": optimizer.clip if settings.stage else 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            **settings.options,
            "stage": settings.stage,
        },
    }
