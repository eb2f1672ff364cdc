"""How long a step takes on many processes, from counted calls and bytes, and the tables of `docs/scaling.md`."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import markdown, put
from tests.benchmarks.trainer.step_costs import PhaseCost, RecipeCost, count_recipe
from trainer.config.presets import PRESETS

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Link:
    """What connects two neighbors of a ring."""

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
    """All-reduces of a few numbers in each update, that nothing hides: verdict and metrics (`trainer.step`)."""
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


Costs = Mapping[str, tuple[PhaseCost, ...]]

PHOTOS = 32
"""Photos per GPU in the tables of weak scaling; its eightfold is the global batch of strong scaling."""
INTERACTIONS = 5
"""K of the paper preset."""
RANKS = (8, 64, 256)
REACHED = 0.8
"""Share of a link's data-sheet speed that an all-reduce reaches."""
EAGER = 5e-6
"""Seconds per operator without CUDA graphs."""
H200 = Gpu(name="H200", peak=989e12, mfu=0.35, launch=1e-6)
NVLINK = Link(bandwidth=450e9 * REACHED, latency=3e-6)
INFINIBAND = Fabric(name="InfiniBand", node=8, inside=NVLINK, between=Link(bandwidth=50e9 * REACHED, latency=5e-6))
ETHERNET = Fabric(
    name="Ethernet", node=8, inside=NVLINK, between=Link(bandwidth=12.5e9 / 8 * REACHED, latency=20e-6)
)
FABRICS = (INFINIBAND, ETHERNET)
DDP = Sharing()
BF16 = Sharing(item_share=0.5)
LOCAL_STEPS = 32

INPUTS = (
    ("operations, operator calls, gradient bytes and their order, statistics", "table below", "counted"),
    ("all-reduces per update that nothing hides", "1 of statistics, 2 of a few numbers", "counted in the code"),
    ("DDP's buckets", "first 1 MiB, then 25 MiB", "torch's default"),
    ("peak of an H200, bf16 without sparsity", f"{H200.peak / 1e12:.0f} TFLOP/s", "data sheet"),
    ("NVLink, one direction, per GPU", "450 GB/s", "data sheet"),
    ("InfiniBand NDR, one direction, per GPU", "50 GB/s (400 Gb/s)", "data sheet"),
    ("Ethernet, one direction, per machine of 8 GPUs", "12.5 GB/s (100 Gb/s)", "data sheet"),
    ("share of the peak that a step reaches (MFU)", f"{H200.mfu:.0%}", "**assumption**: the goal"),
    ("share of a link's speed that an all-reduce reaches", f"{REACHED:.0%}", "**assumption**"),
    (
        "seconds per message: NVLink, InfiniBand, Ethernet",
        ", ".join(f"{link.latency * 1e6:.0f}" for link in (NVLINK, INFINIBAND.between, ETHERNET.between)) + " µs",
        "**assumption**",
    ),
    (
        "least time per operator: CUDA graphs, eager",
        f"{H200.launch * 1e6:.0f}, {EAGER * 1e6:.0f} µs",
        "**assumption**",
    ),
)


def model_section(counted: RecipeCost) -> str:
    """Inputs, costs, and every table of predictions."""
    costs = counted.at(INTERACTIONS)
    parts = [
        "### Inputs",
        markdown(("input", "value", "where from"), INPUTS),
        "### What a step costs (paper preset, 256 px, K = 5)",
        cost_table(costs),
        f"### Weak scaling: {PHOTOS} photos per GPU",
        weak_table(costs),
        f"### Strong scaling: {8 * PHOTOS} photos over all GPUs",
        strong_table(costs),
        "### What stops first, and what helps",
        first_to_stop(costs),
        remedies_table(costs),
        larger_k_table(counted),
        "### How much depends on the assumed MFU",
        mfu_table(costs),
    ]
    return "\n\n".join(parts)


def cost_table(costs: Costs) -> str:
    """Counts per update, and what the assumed GPU makes of them."""
    rows = [
        (
            stage,
            phase.phase,
            f"{phase.forward_flops / 1e9:.1f}",
            f"{phase.backward_flops / 1e9:.1f}",
            f"{phase.operators:,}",
            f"{phase.gradient_bytes / 1e6:.2f}",
            f"{phase.statistics / 1e3:.0f}",
            f"{_when(phase):.0%}",
            f"{H200.compute_seconds(phase, PHOTOS) * 1e3:.1f}",
            f"{PHOTOS / H200.compute_seconds(phase, PHOTOS):,.0f}",
        )
        for stage, phases in costs.items()
        for phase in phases
    ]
    header = ("stage", "update", "GFLOP/photo forward", "backward", "operators", "gradients, MB float32")
    return markdown(
        (*header, "statistics, kB", "compute left at half of the bytes", "ms on one GPU", "photos/s"), rows
    )


def _when(phase: PhaseCost) -> float:
    """Share of the step's operations that are still to do when half of the gradients' bytes are ready."""
    seen = 0
    for gradient in phase.gradients:
        seen += gradient.size
        if 2 * seen >= phase.gradient_bytes:
            return gradient.left / phase.flops
    raise AssertionError("half of the bytes come before all of them")


def weak_table(costs: Costs) -> str:
    """Efficiency with the same photos per GPU, float32 gradients, overlapped."""
    rows = [
        (
            stage,
            fabric.name,
            *(f"{efficiency(phases, PHOTOS, ranks, H200, fabric, DDP):.1%}" for ranks in RANKS),
            f"{RANKS[-1] * _speed(phases, RANKS[-1], fabric, DDP):,.0f}",
        )
        for stage, phases in costs.items()
        for fabric in FABRICS
    ]
    return markdown(("stage", "between machines", *_gpus(), f"photos/s of {RANKS[-1]}"), rows)


def _speed(phases: Sequence[PhaseCost], ranks: int, fabric: Fabric, sharing: Sharing) -> float:
    """Photos/s of each GPU."""
    return PHOTOS / stage_time(phases, PHOTOS, ranks, H200, fabric, sharing).seconds


def strong_table(costs: Costs) -> str:
    """Efficiency with the same photos over all GPUs, with and without CUDA graphs."""
    rows = [
        (
            stage,
            name,
            *(f"{efficiency(phases, 8 * PHOTOS / ranks, ranks, gpu, INFINIBAND, DDP):.1%}" for ranks in RANKS),
        )
        for stage, phases in costs.items()
        for name, gpu in (("CUDA graphs", H200), ("eager", replace(H200, launch=EAGER)))
    ]
    photos = [f"{ranks} GPUs, {8 * PHOTOS // ranks} photos each" for ranks in RANKS]
    return markdown(("stage (InfiniBand)", "launches", *photos), rows)


def first_to_stop(costs: Costs) -> str:
    """One sentence: the stage with the lowest efficiency at the largest number of GPUs."""
    ranks = RANKS[-1]
    found = {
        stage: stage_time(phases, PHOTOS, ranks, H200, ETHERNET, DDP).communication_share
        for stage, phases in costs.items()
    }
    worst = max(found, key=lambda stage: found[stage])
    others = ", ".join(f"{stage} {share:.0%}" for stage, share in found.items() if stage != worst)
    return (
        f"**{worst}** stops scaling first: on {ranks} GPUs over Ethernet {found[worst]:.0%} of its step is "
        f"communication ({others})."
    )


def remedies_table(costs: Costs) -> str:
    """Efficiency at the largest number of GPUs, remedy by remedy."""
    sharing = {
        "float32 gradients after the backward": replace(DDP, overlap=False),
        "overlapped, in buckets (DDP)": DDP,
        "overlapped, bf16 on the wire": BF16,
        f"local SGD: float32 weights averaged every {LOCAL_STEPS} steps": replace(DDP, every=LOCAL_STEPS),
    }
    cells = [(stage, fabric) for fabric in FABRICS for stage in ("pretrain-color", "ping-1", "pong-1")]
    rows = [
        (
            name,
            *(f"{efficiency(costs[stage], PHOTOS, RANKS[-1], H200, fabric, how):.1%}" for stage, fabric in cells),
        )
        for name, how in sharing.items()
    ]
    header = [f"{stage}, {fabric.name}" for stage, fabric in cells]
    return markdown((f"{RANKS[-1]} GPUs, {PHOTOS} photos each", *header), rows)


def larger_k_table(counted: RecipeCost) -> str:
    """Efficiency of ping with more interactions per update."""
    rows = [
        (
            f"ping, K = {interactions}",
            *(
                f"{efficiency(counted.at(interactions)['ping-1'], PHOTOS, RANKS[-1], H200, fabric, DDP):.1%}"
                for fabric in FABRICS
            ),
        )
        for interactions in (1, 2, 5, 10)
    ]
    return markdown((f"{RANKS[-1]} GPUs, {PHOTOS} photos each", *(fabric.name for fabric in FABRICS)), rows)


def mfu_table(costs: Costs) -> str:
    """Efficiency of the first stage to stop, for other shares of the peak: slower GPUs scale better."""
    rows = [
        (
            f"{mfu:.0%}",
            *(
                f"{efficiency(costs['pretrain-color'], PHOTOS, ranks, replace(H200, mfu=mfu), fabric, DDP):.1%}"
                for fabric in FABRICS
                for ranks in RANKS
            ),
        )
        for mfu in (0.2, 0.35, 0.5)
    ]
    header = [f"{fabric.name}, {ranks}" for fabric in FABRICS for ranks in RANKS]
    return markdown(("MFU (pretrain-color)", *header), rows)


def _gpus() -> list[str]:
    return [f"{ranks} GPUs" for ranks in RANKS]


def measured_section(report: Mapping[str, Any]) -> str:
    """The prediction beside a measurement of `python -m tests.benchmarks scaling --json FILE`."""
    machine, rows = report["machine"], report["rows"]
    columns = {
        "processes": "processes",
        "weak photos/s": "weak: photos/s",
        "weak efficiency": "efficiency",
        "strong photos/s": "strong: photos/s",
        "strong efficiency": "efficiency",
        "communication share": "gradients' share of the step",
        "collectives share": "all collectives' share",
        "p50 ms": "ms per step",
        "predicted ms": "predicted, from one process alone",
        "predicted from no-sync ms": "predicted, from steps without all-reduce",
    }
    shown = [
        [str(row["phase"]), *(_cell(name, row.get(name)) for name in columns)] for row in rows if "p50 ms" in row
    ]
    where = machine["gpu"] or f"{machine['cores']} cores of {machine['cpu']}"
    versions = ", ".join(f"{name} {report['versions'][name]}" for name in ("python", "torch"))
    links = [
        f" All-reduce alone, {row['processes']} processes: {row['MB/s']:,.0f} MB/s, {row['latency, µs']:,.0f} µs."
        for row in rows
        if "MB/s" in row
    ]
    about = f"{where}, {versions}, commit {report['commit']}.{''.join(links)}"
    return f"{about}\n\n{markdown(('stage', *columns.values()), shown)}"


def _cell(name: str, value: float | int | None) -> str:
    if value is None:
        return "-"
    if name.endswith(("efficiency", "share")):
        return f"{value:.0%}"
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def show_model(costs: Path | None, document: Path | None, measured: Path | None) -> None:
    """Print the predictions; write them into a document when asked to, beside a measurement.

    Args:
        costs: counts of the paper preset; where this file does not exist they are counted and written to it.
        document: a file with lines `<!-- begin model -->`, `<!-- end model -->`, and for a measurement `measured`.
        measured: a report of `python -m tests.benchmarks scaling --json FILE`.

    Raises:
        ValueError: the document has no such lines.
        OSError: a file cannot be read or written.
    """
    if costs and costs.exists():
        counted = RecipeCost.read(costs)
    else:
        counted = count_recipe(PRESETS["paper"]())
        if costs:
            counted.write(costs)
    sections = {"model": model_section(counted)}
    if measured:
        sections["measured"] = measured_section(json.loads(measured.read_text()))
    print("\n\n".join(sections.values()))
    if document:
        text = document.read_text()
        for name, body in sections.items():
            text = put(text, name, body)
        document.write_text(text)
