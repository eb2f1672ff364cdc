"""How long a step takes on many processes: compute, and what it does not hide of the gradients' all-reduce.

Pure functions over plain numbers: seconds, bytes, bytes per second. `docs/scaling.md` explains the model and says
where its inputs come from.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainer.step_costs import PhaseCost

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Link:
    """What connects two neighbours of a ring."""

    bandwidth: float
    """Bytes per second that one process sends while it receives as many."""
    latency: float
    """Seconds until a small message has arrived."""

    def __post_init__(self) -> None:
        if not self.bandwidth > 0 or not self.latency >= 0:
            raise ValueError(f"a link of {self.bandwidth} bytes/s and {self.latency} s; give a speed above 0")


@dataclass(frozen=True, kw_only=True)
class Fabric:
    """How the processes are connected."""

    name: str
    node: int
    """Processes on one machine."""
    inside: Link
    """Between processes of one machine."""
    between: Link
    """Between machines: one process's share of it."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What computes."""

    name: str
    peak: float
    """Operations per second of the data sheet, bf16 without sparsity."""
    mfu: float
    """Share of the peak that a step's counted operations reach."""
    launch: float
    """Seconds that one operator takes at least."""

    def compute_seconds(self, cost: PhaseCost, photos: float | int) -> float:
        """One step on this GPU alone."""
        return max(photos * cost.flops / (self.peak * self.mfu), cost.operators * self.launch)


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """What is shared, and when."""

    overlap: bool = True
    """A bucket is reduced while the backward goes on."""
    item_share: float = 1.0
    """Bytes on the wire of one gradient element, as a share of float32's: 0.5 for bf16."""
    bucket: int = 25 * MIB
    """A bucket is full with so many bytes of float32 (DDP's bucket_cap_mb)."""
    first_bucket: int = MIB
    """The same for the first one, which starts early."""
    small_collectives: int = 2
    """All-reduces of a few numbers in each update, that nothing hides: verdict and metrics (`trainer.update`)."""
    every: int = 1
    """Steps between averages. Above 1 it is local SGD: weights are averaged instead of gradients, unhidden."""


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Gradients that are reduced together."""

    size: int
    """Bytes in float32."""
    left: float
    """Share of the step's compute that is still to do when its last gradient is ready."""


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Where a step's seconds go."""

    compute: float
    exposed: float
    """All-reduces that the compute does not hide."""

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.compute + self.exposed

    @property
    def communication_share(self) -> float:
        """Of the step, in [0, 1)."""
        return self.exposed / self.seconds


def ring_seconds(size: float | int, ranks: int, link: Link) -> float:
    """All-reduce of `size` bytes in a ring: each process sends 2 (n - 1) / n of them in 2 (n - 1) messages."""
    return 2 * (ranks - 1) / ranks * size / link.bandwidth + 2 * (ranks - 1) * link.latency


def tree_seconds(size: float | int, ranks: int, link: Link) -> float:
    """All-reduce in two binary trees, half of the bytes in each: fewer messages in a row, more bytes."""
    if ranks == 1:
        return 0.0
    return 2 * size / link.bandwidth + 2 * math.ceil(math.log2(ranks)) * link.latency


def all_reduce_seconds(size: float | int, ranks: int, fabric: Fabric) -> float:
    """Hierarchical: a ring inside each machine, and between machines each process reduces its part of the bytes.

    Between machines the better of ring and tree is taken, as NCCL does.

    Raises:
        ValueError: the ranks do not fill whole machines.
    """
    inside = min(ranks, fabric.node)
    if ranks < 1 or ranks % inside:
        raise ValueError(f"{ranks} processes on machines of {fabric.node}; give a multiple of {fabric.node}")
    nodes, part = ranks // inside, size / inside
    outside = min(ring_seconds(part, nodes, fabric.between), tree_seconds(part, nodes, fabric.between))
    return ring_seconds(size, inside, fabric.inside) + outside


def buckets(cost: PhaseCost, sharing: Sharing) -> list[Bucket]:
    """The gradients as DDP groups them, in the order in which they become ready."""
    found: list[Bucket] = []
    size = 0
    for place, gradient in enumerate(cost.gradients):
        size += gradient.size
        limit = sharing.bucket if found else sharing.first_bucket
        if size >= limit or place == len(cost.gradients) - 1:
            found.append(Bucket(size=size, left=gradient.left / cost.flops))
            size = 0
    return found


def exposed_seconds(
    parts: Sequence[Bucket], compute: float, reduce: Callable[[float], float], *, overlap: bool = True
) -> float:
    """How much longer than `compute` a step takes when its buckets are reduced one after another.

    Args:
        parts: in the order in which they become ready.
        compute: seconds of the step without any reduction.
        reduce: seconds that the all-reduce of so many bytes takes.
        overlap: whether computing goes on meanwhile.
    """
    if not overlap:
        return sum(reduce(part.size) for part in parts)
    end = 0.0
    for part in parts:
        end = max(end, compute * (1 - part.left)) + reduce(part.size)
    return max(0.0, end - compute)


def step_time(cost: PhaseCost, compute: float, ranks: int, fabric: Fabric, sharing: Sharing) -> StepTime:
    """One update of a phase on `ranks` processes that each compute for `compute` seconds."""
    if ranks == 1:
        return StepTime(compute=compute, exposed=0.0)

    def reduce(size: float | int) -> float:
        return all_reduce_seconds(size * sharing.item_share, ranks, fabric)

    after = all_reduce_seconds(cost.statistics, ranks, fabric)
    small = sharing.small_collectives * all_reduce_seconds(16, ranks, fabric)
    if sharing.every > 1:
        weights = all_reduce_seconds(cost.gradient_bytes * sharing.item_share, ranks, fabric)
        return StepTime(compute=compute, exposed=(weights + after + small) / sharing.every)
    hidden = exposed_seconds(buckets(cost, sharing), compute, reduce, overlap=sharing.overlap)
    return StepTime(compute=compute, exposed=hidden + after + small)


def stage_time(
    costs: Sequence[PhaseCost], photos: float | int, ranks: int, gpu: Gpu, fabric: Fabric, sharing: Sharing
) -> StepTime:
    """One step of a stage: an update of each of its phases, on `photos` photos per process."""
    times = [step_time(cost, gpu.compute_seconds(cost, photos), ranks, fabric, sharing) for cost in costs]
    return StepTime(compute=sum(time.compute for time in times), exposed=sum(time.exposed for time in times))


def efficiency(
    costs: Sequence[PhaseCost], photos: float | int, ranks: int, gpu: Gpu, fabric: Fabric, sharing: Sharing
) -> float:
    """Photos/s of `ranks` processes over `ranks` times those of one that computes at the GPU's full MFU.

    With few photos per process it is the operators' launches that cost, so that strong scaling has this in it.
    """
    ideal = sum(photos * cost.flops / (gpu.peak * gpu.mfu) for cost in costs)
    return ideal / stage_time(costs, photos, ranks, gpu, fabric, sharing).seconds
