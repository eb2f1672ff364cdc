"""Replicated training: the whole network on every process, alone or under DDP."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from trainer.engines.base import Engine, load_optimizer, make_optimizer
from trainer.recipes.base import Optimizer


class ReplicatedEngine(Engine):
    """Engine around accelerate's model and optimizer."""

    def __init__(self, name: str, network: nn.Module, optimizer: Optimizer, accelerator: Accelerator) -> None:
        super().__init__(name, network, accelerator.num_processes)
        self._clip = optimizer.clip
        self._accelerator = accelerator
        self._optimizer = accelerator.prepare(make_optimizer(network, optimizer))
        with warnings.catch_warnings():
            # torch 2.15 renames the option; accelerate 1.15 only knows the old name.
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
            self._model = accelerator.prepare(network)

    @property
    @override
    def scales_loss(self) -> bool:
        return self._accelerator.scaler is not None

    @property
    @override
    def loss_scale(self) -> float | None:
        return None if self._accelerator.scaler is None else float(self._accelerator.scaler.get_scale())

    @override
    def clip(self) -> float:
        gradient = self._accelerator.clip_grad_norm_(self.module.parameters(), self._clip)
        assert gradient is not None, "accelerate clips inside the optimizer only with FSDP or DeepSpeed"
        return float(gradient)

    @override
    def share_gradients(self, wanted: bool) -> AbstractContextManager[Any]:
        if wanted or not isinstance(self._model, DistributedDataParallel):
            return nullcontext()
        return self._model.no_sync()

    @override
    def backward(self, loss: Tensor) -> None:
        self._accelerator.backward(loss)

    @override
    def state_dict(self) -> dict[str, Any]:
        state = {"network": self.module.state_dict(), "optimizer": self._optimizer.state_dict()}
        if self._accelerator.scaler is not None:
            state["scaler"] = self._accelerator.scaler.state_dict()
        return state

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.load_state_dict(state["network"])
        load_optimizer(self._optimizer, state["optimizer"])
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])

    @override
    def _run(self, *inputs: Any, **options: Any) -> Any:
        return self._model(*inputs, **options)

    @override
    def _step(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    @override
    def _forget_gradients(self, *, clipped: bool) -> None:
        if clipped and self.scales_loss:
            self._optimizer.step()  # the loss scaler skips it, and learns to scale less
        self._optimizer.zero_grad(set_to_none=True)
