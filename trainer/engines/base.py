"""Interface of the engines: a trained network is called through its engine, a borrowed one as its bare module."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainer.engines.batch_norm import Statistics
from trainer.recipes.base import Optimizer

Role = Literal["idle", "trained", "borrowed"]


class Engine(ABC):
    """A trained network with its optimizer.

    Every other way of calling it is refused, for with DDP or ZeRO it would be an error at best and silently wrong
    at worst (tests/trainer/test_engines.py has the table). Under `torch.no_grad` its module may always be called.
    """

    def __init__(self, name: str, network: nn.Module, world_size: int) -> None:
        frozen = [key for key, parameter in network.named_parameters() if not parameter.requires_grad]
        if frozen:
            raise ValueError(
                f"network {name} comes with frozen parameters ({frozen[0]} ...), which no engine would ever "
                "train; give it unfrozen: `borrow` freezes it where a phase does not train it"
            )
        self.name = name
        self.module = network
        """The bare network. For borrowing; with ZeRO 3 every process must call it equally often."""
        self.role: Role = "idle"
        self._world_size = world_size
        self._called_as_engine = False
        self._statistics: Statistics | None = None
        network.register_forward_pre_hook(self._refuse_stray_gradients)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Run the network as the one being trained; gradients are averaged over ranks in the backward.

        Raises:
            RuntimeError: it is not being trained.
        """
        if self.role != "trained":
            raise RuntimeError(
                f"{self.name} is {self.role} here but was called as an engine; call the module that `borrow` "
                "gives, or name it in the phase's `trains`"
            )
        self._called_as_engine = True
        try:
            return self._run(*inputs, **options)
        finally:
            self._called_as_engine = False

    @property
    @abstractmethod
    def scales_loss(self) -> bool:
        """Whether fp16's loss scaler is active, which skips steps whose gradient overflows."""

    @property
    def loss_scale(self) -> float | None:
        """Current fp16 loss scale; None without a scaler."""
        return None

    @property
    def whole(self) -> nn.Module:
        """The network with all of its weights on this process, for validation and export; see `collect`."""
        return self.module

    def collect(self) -> None:  # noqa: B027  most engines have all weights at hand
        """Update `whole`; a collective call."""

    @property
    def can_share_a_loss(self) -> bool:
        """Whether one loss may train this network together with others."""
        return True

    def begin(self) -> None:
        """Begin a step: save the batch-norm statistics that it starts from."""
        self._statistics = Statistics(self.module)

    def end_of_micro_batch(self) -> None:
        """Mark the end of a micro-batch that is not the last of its step, after its backward pass."""
        self._step_statistics().end_of_micro_batch()

    @abstractmethod
    def clip(self) -> float:
        """Clip the accumulated gradients; returns their L2 norm before clipping, the same on every rank.

        With ZeRO the clipping itself comes with the step. The norm of gradients that are not finite is not either.
        """

    def step(self, lr: float) -> None:
        """Step on the clipped gradients; averages batch-norm statistics over micro-batches and ranks."""
        self._step(lr)
        self._step_statistics().average(self._world_size)
        self._statistics = None

    def undo(self, *, clipped: bool) -> None:
        """Skip a broken step on all ranks: drop its gradients and restore the statistics."""
        self._forget_gradients(clipped=clipped)
        self._step_statistics().restore()
        self._statistics = None

    @abstractmethod
    def share_gradients(self, wanted: bool) -> AbstractContextManager[Any]:
        """Context of forward and backward passes: whether this backward all-reduces the accumulated gradients."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Backpropagate into this network and others that the loss depends on."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Full weights, statistics and optimizer state, the same from every engine; a collective call."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the `state_dict` of any engine; the optimizer keeps this config's settings."""

    @abstractmethod
    def _run(self, *inputs: Any, **options: Any) -> Any: ...

    @abstractmethod
    def _step(self, lr: float) -> None: ...

    @abstractmethod
    def _forget_gradients(self, *, clipped: bool) -> None: ...

    def _step_statistics(self) -> Statistics:
        assert self._statistics is not None, "begin() comes first"
        return self._statistics

    def _refuse_stray_gradients(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Forward hook that refuses calls of the module whose gradients no engine would see."""
        if not torch.is_grad_enabled() or self._called_as_engine:
            return
        frozen = not any(parameter.requires_grad for parameter in module.parameters())
        if self.role == "borrowed" and frozen:
            return
        advice = {
            "idle": "name it in the phase's `borrows`, or call it under torch.no_grad()",
            "borrowed": "it was unfrozen while borrowed: leave requires_grad to `borrow`",
            "trained": "it is being trained: call the engine",
        }
        raise RuntimeError(
            f"the bare module of {self.name} was called with gradients, which no process would average; "
            f"{advice[self.role]}"
        )


def backward(loss: Tensor, engines: Sequence[Engine]) -> None:
    """Backpropagate one summed loss into the engines that a phase trains."""
    engines[0].backward(loss)


@contextmanager
def share_gradients(engines: Sequence[Engine], wanted: bool) -> Iterator[None]:
    """Context of a micro-batch's forward and backward passes; `wanted` for the last of a step."""
    with ExitStack() as stack:
        for engine in engines:
            stack.enter_context(engine.share_gradients(wanted))
        yield


@contextmanager
def train(engines: Sequence[Engine]) -> Iterator[None]:
    """Put the trained networks into training mode for a step, and into eval mode after it."""
    for engine in engines:
        engine.role = "trained"
        engine.module.train()
    try:
        yield
    finally:
        for engine in engines:
            engine.module.eval()
            engine.role = "idle"


def make_optimizer(network: nn.Module, optimizer: Optimizer) -> torch.optim.Optimizer:
    """Torch's own, in its fused form; the learning rate is set before every step."""
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[optimizer.kind]
    return kind(
        network.parameters(), lr=1.0, betas=optimizer.betas, weight_decay=optimizer.weight_decay, fused=True
    )


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore its moments, in the memory layout of their weights; its settings stay this config's.

    The fused step goes through memory from end to end: moments that were saved with another layout (by DeepSpeed,
    or without channels_last) would meet other weights than their own.
    """
    settings = {name: optimizer.param_groups[0][name] for name in ("weight_decay", "betas")}
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group.update(settings)
        for parameter in group["params"]:
            moments = optimizer.state.get(parameter, {})
            for name, value in moments.items():
                if value.shape == parameter.shape:
                    moments[name] = torch.empty_like(parameter.detach(), dtype=value.dtype).copy_(value)


@contextmanager
def borrow(engines: Sequence[Engine]) -> Iterator[tuple[nn.Module, ...]]:
    """Context that lends networks which a phase uses but does not train: bare, frozen, in eval mode.

    Bare *and* frozen: with DDP or ZeRO any other combination raises or is silently off (a frozen engine called as
    the engine by 6e-2 at ZeRO 3, a bare module that is not frozen by 1.3e-2 at ZeRO 0 and 1).
    """
    for engine in engines:
        engine.role = "borrowed"
        engine.module.eval()
        engine.module.requires_grad_(False)
    try:
        yield tuple(engine.module for engine in engines)
    finally:
        for engine in engines:
            engine.module.requires_grad_(True)
            engine.role = "idle"
