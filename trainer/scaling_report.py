"""The tables of `docs/scaling.md`: predictions for many GPUs, and the prediction beside a measurement."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.scaling import Fabric, Gpu, Link, Sharing, efficiency, stage_time
from trainer.step_costs import PhaseCost, RecipeCost

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


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def model_section(counted: RecipeCost) -> str:
    """Inputs, costs, and every table of predictions."""
    costs = counted.at(INTERACTIONS)
    parts = [
        "### Inputs",
        table(("input", "value", "where from"), INPUTS),
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
    return table(
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
    return table(("stage", "between machines", *_gpus(), f"photos/s of {RANKS[-1]}"), rows)


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
    return table(("stage (InfiniBand)", "launches", *photos), rows)


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
    return table((f"{RANKS[-1]} GPUs, {PHOTOS} photos each", *header), rows)


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
    return table((f"{RANKS[-1]} GPUs, {PHOTOS} photos each", *(fabric.name for fabric in FABRICS)), rows)


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
    return table(("MFU (pretrain-color)", *header), rows)


def _gpus() -> list[str]:
    return [f"{ranks} GPUs" for ranks in RANKS]


def measured_section(report: Mapping[str, Any]) -> str:
    """The prediction beside a measurement of `python -m trainer.bench_scaling --json FILE`."""
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
    return f"{about}\n\n{table(('stage', *columns.values()), shown)}"


def _cell(name: str, value: float | int | None) -> str:
    if value is None:
        return "-"
    if name.endswith(("efficiency", "share")):
        return f"{value:.0%}"
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def put(text: str, name: str, body: str) -> str:
    """`text` with `body` between its markers of this name.

    Raises:
        ValueError: the markers are not there, once each.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"the document has no place for {name!r}; put {begin} and {end} where it belongs")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n\n{body}\n\n{end}{rest.partition(end)[2]}"


def update(document: Path, sections: Mapping[str, str]) -> None:
    """Write these sections between the document's markers.

    Raises:
        ValueError: it has no such markers.
        OSError: it cannot be read or written.
    """
    text = document.read_text()
    for name, body in sections.items():
        text = put(text, name, body)
    document.write_text(text)
