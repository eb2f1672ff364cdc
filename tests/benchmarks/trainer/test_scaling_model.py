"""The model of many processes against simulation by hand, PyTorch's own bucketing, and the kept document."""

import json
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import ROOT
from tests.benchmarks.harness import put
from tests.benchmarks.trainer.scaling_model import (
    MIB,
    Bucket,
    Fabric,
    Gpu,
    Link,
    Sharing,
    all_reduce_seconds,
    buckets,
    efficiency,
    exposed_seconds,
    measured_section,
    model_section,
    ring_seconds,
    stage_time,
    step_time,
    tree_seconds,
)
from tests.benchmarks.trainer.step_costs import Gradient, PhaseCost, RecipeCost

LINK = Link(bandwidth=1e9, latency=1e-5)
FABRIC = Fabric(name="test", node=8, inside=Link(bandwidth=1e11, latency=1e-6), between=LINK)
GPU = Gpu(name="test", peak=1e12, mfu=0.5, launch=0.0)
COST = PhaseCost(
    phase="test",
    forward_flops=1e9,
    backward_flops=2e9,
    operators=1000,
    gradients=tuple(Gradient(size=size * MIB, left=left * 1e9) for size, left in ((2, 1.5), (30, 1.0), (4, 0.0))),
    statistics=0,
)


def ring_by_hand(size: float, ranks: int, link: Link) -> float:
    """Every rank sends one n-th of the bytes to its neighbor, 2 (n - 1) times, all at once."""
    return sum(link.latency + size / ranks / link.bandwidth for _ in range(2 * (ranks - 1)))


@settings(deadline=None, max_examples=40)
@given(size=st.floats(0, 1e9), ranks=st.integers(1, 300))
def test_a_ring_takes_what_its_messages_take(size: float, ranks: int):
    assert ring_seconds(size, ranks, LINK) == pytest.approx(ring_by_hand(size, ranks, LINK))


def test_one_process_shares_nothing():
    assert all_reduce_seconds(1e9, 1, FABRIC) == 0
    assert step_time(COST, 0.5, 1, FABRIC, Sharing()).seconds == 0.5


def test_one_machine_is_a_ring_and_several_share_an_eighth_each():
    assert all_reduce_seconds(8e6, 8, FABRIC) == pytest.approx(ring_by_hand(8e6, 8, FABRIC.inside))
    two = ring_by_hand(8e6, 8, FABRIC.inside) + ring_by_hand(1e6, 2, LINK)
    assert all_reduce_seconds(8e6, 16, FABRIC) == pytest.approx(two)


def test_small_messages_over_many_machines_take_the_tree():
    assert tree_seconds(4, 32, LINK) < ring_seconds(4, 32, LINK)
    assert all_reduce_seconds(32, 256, FABRIC) == pytest.approx(
        ring_seconds(32, 8, FABRIC.inside) + tree_seconds(4, 32, LINK)
    )


def test_machines_that_are_not_full_are_refused():
    with pytest.raises(ValueError, match="12 processes on machines of 8; give a multiple of 8"):
        all_reduce_seconds(1, 12, FABRIC)


def test_a_link_without_speed_is_refused():
    with pytest.raises(ValueError, match="give a speed above 0"):
        Link(bandwidth=0.0, latency=0.0)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 12 * MIB // 4), min_size=1, max_size=40))
def test_buckets_are_those_of_ddp(elements: list[int]):
    gradients = tuple(Gradient(size=4 * count, left=0.0) for count in elements)
    tensors = [torch.empty(count, device="meta") for count in elements]
    found = buckets(replace(COST, gradients=gradients), Sharing())
    assign = dist._compute_bucket_assignment_by_size  # pyright: ignore[reportPrivateImportUsage]: DDP's own
    indices, _ = assign(tensors, [MIB, 25 * MIB], [False] * len(tensors))
    assert [part.size for part in found] == [sum(4 * elements[index] for index in part) for part in indices]


def test_a_bucket_is_ready_with_its_last_gradient():
    found = buckets(COST, Sharing())
    assert [part.size for part in found] == [2 * MIB, 30 * MIB, 4 * MIB]
    assert [part.left for part in found] == pytest.approx([1 / 2, 1 / 3, 0])
    assert buckets(COST, Sharing(bucket=40 * MIB))[-1] == Bucket(size=34 * MIB, left=0.0)


@pytest.mark.parametrize(
    ("each", "exposed"),
    [
        (1.0, 0.0),  # 5 to 6 and 8 to 9, of 10
        (4.0, 3.0),  # 5 to 9 and 9 to 13
        (2.0, 0.0),  # 5 to 7 and 8 to 10
    ],
)
def test_what_ends_after_the_backward_is_exposed(each: float, exposed: float):
    parts = [Bucket(size=1, left=0.5), Bucket(size=1, left=0.2)]
    assert exposed_seconds(parts, 10.0, lambda size: each) == pytest.approx(exposed)
    assert exposed_seconds(parts, 10.0, lambda size: each, overlap=False) == 2 * each


@settings(deadline=None, max_examples=40)
@given(ranks=st.sampled_from([8, 16, 64, 256]), photos=st.integers(1, 64))
def test_what_helps_helps(ranks: int, photos: int):
    def of(sharing: Sharing) -> float:
        return efficiency([COST], photos, ranks, GPU, FABRIC, sharing)

    assert of(Sharing(overlap=False)) <= of(Sharing()) <= of(Sharing(item_share=0.5)) <= 1
    assert of(Sharing(overlap=False)) < of(Sharing(every=32)) < of(Sharing(every=64)) < 1


def test_launches_bound_small_batches():
    slow = replace(GPU, launch=1e-3)
    assert slow.compute_seconds(COST, 1) == 1.0
    assert slow.compute_seconds(COST, 1000) == GPU.compute_seconds(COST, 1000) == 6.0


def test_a_stage_is_the_sum_of_its_updates():
    one = stage_time([COST], 8, 64, GPU, FABRIC, Sharing())
    two = stage_time([COST, COST], 8, 64, GPU, FABRIC, Sharing())
    assert two.seconds == pytest.approx(2 * one.seconds)
    assert two.communication_share == pytest.approx(one.exposed / one.seconds)


def test_the_document_has_the_tables_that_the_command_makes():
    docs = ROOT / "docs"
    document = (docs / "scaling.md").read_text()
    counted = RecipeCost.read(docs / "results" / "step_costs_paper.json")
    assert put(document, "model", model_section(counted)) == document
    report = json.loads((docs / "results" / "bench_scaling_cpu.json").read_text())
    assert put(document, "measured", measured_section(report)) == document
