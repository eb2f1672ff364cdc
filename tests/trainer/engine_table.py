"""Two networks trained in turn on two processes, in the right way and in every wrong one.

Program: `python tests/trainer/engine_table.py FILE` writes to FILE, from rank 0, what `main` gathers. The same
steps in one process, with plain torch, are `reference`.
"""

import copy
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import EngineConfig
from trainer.engines import Cluster, Engine, backward, borrow, share_gradients, train
from trainer.recipes.base import Optimizer

RANKS, MICRO_BATCHES, PHOTOS, CALLS, STEPS, RESUME_AT = 2, 2, 2, 2, 6, 3
OPTIMIZER = Optimizer(lr=1.0, clip=0.05)
CONFIG = EngineConfig(precision="fp32", threads=1)
LR = 1e-3


class Net(nn.Module):
    """Batch norm, and sizes that two ranks do not divide."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(3, 5, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(5)
        self.last = nn.Conv2d(5, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.norm(self.first(x))))


def photos(step: int, group: int) -> Tensor:
    """The micro-batch `group` of a step, counted over all ranks."""
    generator = torch.Generator().manual_seed(1000 * step + group)
    return torch.rand(PHOTOS, 3, 6, 6, generator=generator)


def loss_of(trained: Callable[[Tensor], Tensor], lent: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Several calls of the trained network before one backward, which also goes through the borrowed network."""
    losses = []
    y = x
    for _ in range(CALLS):
        y = lent(trained(y))
        losses.append(F.mse_loss(y, x.roll(1, -1)))
    return torch.stack(losses).mean()


def reference() -> dict[str, Any]:
    """The same training in one process; weights, statistics, and the norm of each step's gradient."""
    networks = {"a": Net(0).eval(), "b": Net(1).eval()}
    optimizers = {
        name: torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=OPTIMIZER.weight_decay)
        for name, network in networks.items()
    }
    norms = []
    for step in range(STEPS):
        name, other = turn(step)
        trained, groups = networks[name], RANKS * MICRO_BATCHES
        before = copy.deepcopy(dict(trained.named_buffers()))
        left = []
        optimizers[name].zero_grad()
        trained.train()
        for group in range(groups):
            trained.load_state_dict(before, strict=False)
            loss = loss_of(trained, networks[other], photos(step, group)) / groups
            loss.backward(inputs=list(trained.parameters()))
            left.append(copy.deepcopy(dict(trained.named_buffers())))
        trained.eval()
        for key, buffer in trained.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.stack([one[key] for one in left]).mean(0))
        norms.append(float(nn.utils.clip_grad_norm_(trained.parameters(), OPTIMIZER.clip)))
        optimizers[name].step()
    return {"networks": {name: network.state_dict() for name, network in networks.items()}, "norms": norms}


def build(cluster: Cluster, config: EngineConfig = CONFIG) -> dict[str, Engine]:
    """Both networks before any step."""
    return {name: cluster.engine(name, Net(seed), OPTIMIZER, config) for name, seed in (("a", 0), ("b", 1))}


def weights(engines: Mapping[str, Engine]) -> dict[str, dict[str, Tensor]]:
    """Weights and statistics of both; every rank must call it."""
    for engine in engines.values():
        engine.collect()
    return {name: copy.deepcopy(engine.whole.state_dict()) for name, engine in engines.items()}


def turn(step: int) -> tuple[str, str]:
    """Who is trained and who is borrowed."""
    return ("a", "b") if step % 2 == 0 else ("b", "a")


def accumulate(
    cluster: Cluster, engine: Engine, lent: Callable[[Tensor], Tensor], step: int, spoil: float
) -> None:
    """Forwards and backwards of a step."""
    engine.begin()
    parts = RANKS * MICRO_BATCHES // cluster.world_size
    for part in range(parts):
        last = part == parts - 1
        with share_gradients([engine], last):
            loss = loss_of(engine, lent, photos(step, cluster.rank * parts + part))
            backward(loss * spoil / parts, [engine])
        if not last:
            engine.end_of_micro_batch()


def take(cluster: Cluster, engines: Mapping[str, Engine], steps: Sequence[int]) -> list[float]:
    """Right steps; before each, one that is NaN on one rank only, and one that is finite but left out."""
    norms = []
    for step in steps:
        name, other = turn(step)
        with train([engines[name]]), borrow([engines[other]]) as (lent,):
            accumulate(
                cluster, engines[name], lent, step, float("nan") if cluster.rank == cluster.world_size - 1 else 1.0
            )
            assert not math.isfinite(engines[name].clip())  # on every rank
            engines[name].undo(clipped=True)
            accumulate(cluster, engines[name], lent, step, 2.0)
            engines[name].undo(clipped=False)
            accumulate(cluster, engines[name], lent, step, 1.0)
            norms.append(engines[name].clip())
            engines[name].step(LR)
    return norms


def wrong_ways(cluster: Cluster, engines: Mapping[str, Engine]) -> dict[str, str]:
    """What each says; an empty string where it was allowed."""
    a, b = engines["a"], engines["b"]
    x = photos(0, cluster.rank)

    def borrowed_unfrozen() -> None:
        with train([a]), borrow([b]) as (lent,):
            lent.requires_grad_(True)
            loss_of(a, lent, x)

    def borrowed_as_engine() -> None:
        with train([a]), borrow([b]):
            loss_of(a, b, x)

    def module_not_borrowed() -> None:
        with train([a]):
            loss_of(a, b.module, x)

    def trained_as_module() -> None:
        with train([a]), borrow([b]) as (lent,):
            loss_of(a.module, lent, x)

    def frozen_before() -> None:
        cluster.engine("c", Net(2).requires_grad_(False), OPTIMIZER, CONFIG)

    ways = (borrowed_unfrozen, borrowed_as_engine, module_not_borrowed, trained_as_module, frozen_before)
    return {way.__name__: said(way) for way in ways}


def said(way: Callable[[], None]) -> str:
    try:
        way()
    except (RuntimeError, ValueError) as error:
        return str(error)
    return ""


def main(file: Path) -> None:
    """Six steps, of which the last three again from a checkpoint, then the wrong ways."""
    cluster = Cluster(CONFIG)
    engines = build(cluster)
    norms = take(cluster, engines, range(RESUME_AT))
    states = {name: copy.deepcopy(engine.state_dict()) for name, engine in engines.items()}
    norms += take(cluster, engines, range(RESUME_AT, STEPS))
    resumed = build(cluster)
    for name, engine in resumed.items():
        engine.load_state_dict(copy.deepcopy(states[name]))  # an optimizer goes on with the tensors it is given
    take(cluster, resumed, range(RESUME_AT, STEPS))
    found = {
        "engine": cluster.engine_name,
        "norms": norms,
        "networks": weights(engines),
        "resumed": weights(resumed),
        "states": states,
        "messages": wrong_ways(cluster, engines),  # which may leave statistics behind
    }
    if cluster.is_main:
        torch.save(found, file)
    cluster.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
