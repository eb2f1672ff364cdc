"""What only a CUDA device shows: many photos, determinism, several devices. Run with `pytest -m gpu`.

The other files' `gpu` tests compare the compiled kernels with the float64 chain.
"""

import pytest
import torch

from kernels.choose_click import cuda, implementation
from kernels.estimators import ESTIMATORS
from tests.kernels.choose_click.references import (
    DIFFERENTIABLE,
    Inputs,
    assert_as_exact_as_eager,
    counted_launches,
    evaluate,
    fused,
    make_inputs,
)

pytestmark = pytest.mark.gpu
GIB = 2**30


def needs_memory(gib: float, device: int = 0) -> None:
    free = torch.cuda.mem_get_info(device)[0] / GIB
    if free < gib:
        pytest.skip(f"{gib:.0f} GiB of GPU memory needed, {free:.0f} free")


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_cuda_runs_the_kernels_and_nothing_else(estimator: str):
    assert implementation("cuda") == "triton"
    with counted_launches() as launched:
        evaluate(fused(estimator=estimator), make_inputs(2, 256, 256, device="cuda"))
    passes = {"reduce_split": 1, "combine": 1, "sums": 1, "gradient_split": 1}
    soft = {"weights": 1, "spread": 1} if estimator == "gumbel_softmax_soft" else {}
    if estimator == "reinforce":
        del passes["sums"]
    assert launched == passes | soft


@pytest.mark.parametrize("shape", [(4, 64, 64), (4, 256, 256)])
@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_two_runs_give_the_same_bits(estimator: str, shape: tuple[int, int, int]):
    inputs = make_inputs(*shape, device="cuda")
    first, second = (evaluate(fused(estimator=estimator, hint_size=3), inputs) for _ in range(2))
    for name in ("choice", *DIFFERENTIABLE):
        assert torch.equal(getattr(first.click, name), getattr(second.click, name)), name
    assert torch.equal(first.gradient, second.gradient)


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_clicks_do_not_depend_on_the_device(estimator: str):
    inputs = make_inputs(16, 64, 64)
    on_gpu = Inputs(*(None if x is None else x.cuda() for x in inputs))  # pyright: ignore[reportArgumentType]: only the target may be None
    found, expected = evaluate(fused(estimator=estimator), on_gpu), evaluate(fused(estimator=estimator), inputs)
    assert torch.equal(found.click.choice.cpu(), expected.click.choice)
    torch.testing.assert_close(found.click.clicks.cpu(), expected.click.clicks, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.gradient.cpu(), expected.gradient, rtol=1e-3, atol=1e-4)


def check_large_batch(batch: int, side: int, estimator: str) -> None:
    """Some photos of a large batch against the same photos alone: addresses beyond 32 bits, and many programs."""
    few = make_inputs(4, side, side, device="cuda")
    places = torch.tensor([0, 1, batch // 2, batch - 1], device="cuda")
    large = Inputs(
        few.logits.new_zeros(batch, side, side).index_copy_(0, places, few.logits),
        few.clicks.new_zeros(batch, 3, side, side).index_copy_(0, places, few.clicks),
        few.truth_ab.new_zeros(batch, 2, side, side).index_copy_(0, places, few.truth_ab),
        few.keys.new_zeros(batch).index_copy_(0, places, few.keys),
        None,
    )
    leaf = large.logits.requires_grad_()
    click = fused(estimator=estimator, with_heatmap=False)(large)
    (click.clicks.sum() + click.entropy.sum()).backward()
    alone = few._replace(logits=few.logits.requires_grad_(), target=None)
    expected = fused(estimator=estimator, with_heatmap=False)(alone)
    (expected.clicks.sum() + expected.entropy.sum()).backward()
    assert torch.equal(click.choice[places], expected.choice)
    torch.testing.assert_close(click.clicks[places], expected.clicks, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(click.entropy[places], expected.entropy, rtol=1e-4, atol=1e-5)
    assert leaf.grad is not None
    assert alone.logits.grad is not None
    # Photos alone may be cut into other tiles, so the sums' order and last digits differ.
    floor = 1e-6 * alone.logits.grad.abs().max().item()
    torch.testing.assert_close(leaf.grad[places], alone.logits.grad, rtol=1e-3, atol=floor)


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_a_thousand_photos(estimator: str):
    needs_memory(8)
    check_large_batch(1024, 256, estimator)


@pytest.mark.parametrize("estimator", ["argmax_ste", "gumbel_softmax_soft", "gumbel_rao"])
def test_a_thousand_photos_of_a_million_pixels(estimator: str):
    needs_memory(80)
    check_large_batch(1024, 1024, estimator)


def test_kernels_run_on_the_tensors_device():
    if torch.cuda.device_count() < 2:
        pytest.skip("two CUDA devices needed")
    assert torch.cuda.current_device() == 0
    for estimator in ESTIMATORS:
        inputs = make_inputs(2, 100, 130, device="cuda:1")
        assert_as_exact_as_eager(
            fused(estimator=estimator, hint_size=2),
            inputs,
            cuda.gumbel,
            estimator=estimator,
            hint_size=2,
        )
    assert torch.cuda.current_device() == 0


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_the_operation_is_registered_correctly():
    inputs = make_inputs(2, 64, 64, device="cuda")
    temperatures = (torch.tensor(1.3).double(), torch.tensor(0.7).double())
    arguments = (inputs.logits.requires_grad_(), *inputs[1:], "gumbel_softmax", *temperatures, 5, 2, 3, 2)
    torch.library.opcheck(torch.ops.chromaclick.choose_click.default, arguments)
