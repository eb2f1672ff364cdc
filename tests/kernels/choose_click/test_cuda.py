"""The Triton kernels against the float64 chain with their own noise: interpreted, or compiled with `-m gpu`."""

from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.choose_click import choose_click, cuda
from kernels.clicks import clicked, place_clicks
from kernels.estimators import ESTIMATORS
from tests.benchmarks.harness import peak_memory
from tests.kernels.choose_click.positions import DEVICES, LARGE, SMALL, places, triton_on
from tests.kernels.choose_click.references import (
    DIFFERENTIABLE,
    Inputs,
    Run,
    assert_as_exact_as_eager,
    chain,
    counted_launches,
    evaluate,
    fused,
    grid,
    make_inputs,
    roomy,
)

pytestmark = pytest.mark.usefixtures("poisoned")
# NumPy's warnings under the interpreter, some of them with Triton 3.6 only.
nan_warns = pytest.mark.filterwarnings("ignore:(All-NaN|invalid value encountered):RuntimeWarning")
KINDS = ["argmax_ste", "gumbel_softmax_soft", "reinmax", "gumbel_rao"]
"""The estimators whose kernels differ."""


def check(inputs: Inputs, block: int | None = None, only: str | None = None, **settings: Any) -> None:
    with triton_on(inputs.logits.device.type, block):
        assert_as_exact_as_eager(fused(**settings), inputs, cuda.gumbel, only, **settings)


@pytest.mark.parametrize(("device", "shape"), places(SMALL, LARGE))
@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_outputs_and_gradients_are_exact(estimator: str, device: str, shape: tuple[int, int, int]):
    check(make_inputs(*shape, device=device), estimator=estimator)


@pytest.mark.parametrize(
    ("device", "case"),
    places(
        [((2, 5, 6), 16), ((1, 9, 11), 64)],
        [((7, 63, 100), 64), ((16, 256, 256), 1024), ((1, 1024, 1024), 4096), ((2, 64, 64), 512)],
    ),
)
@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_split_photos_give_the_same(estimator: str, device: str, case: tuple[tuple[int, int, int], int]):
    shape, block = case
    check(make_inputs(*shape, device=device), block, estimator=estimator)


@pytest.mark.parametrize(
    ("device", "case"),
    places(
        grid(shape=[(1, 5, 6)], block=[None, 16], hint_size=[2])
        + grid(shape=[(1, 5, 6)], block=[16], hint_size=[4]),
        grid(shape=[(3, 64, 64), (3, 100, 130)], block=[None, 1024], hint_size=[2, 5, 9]),
    ),
)
@pytest.mark.parametrize("estimator", ["argmax_ste", "gumbel_softmax_soft"])
def test_stamps(estimator: str, device: str, case: dict[str, Any]):
    check(
        make_inputs(*case["shape"], device=device), case["block"], estimator=estimator, hint_size=case["hint_size"]
    )


@pytest.mark.parametrize(("device", "block"), places([None, 16], [None, 64, 1024]))
@pytest.mark.parametrize("hint_size", [2, 5])
def test_a_stamp_is_cut_off_at_borders_and_corners(hint_size: int, device: str, block: int | None):
    height, width = 6, 7
    corners = torch.tensor([0, width - 1, (height - 1) * width, height * width - 1, 3, 2 * width, 3 * width + 3])
    logits = torch.zeros(len(corners), height * width).scatter_(1, corners[:, None], 50.0)
    inputs = make_inputs(len(corners), height, width, device=device)
    mask = torch.zeros_like(inputs.clicks[:, :1])
    mask[:, 0, 1, 1] = 1.0
    clicks = torch.cat([mask, mask * 0.25, mask * -0.5], dim=1)
    with triton_on(device, block):
        click = choose_click(
            logits.view(-1, height, width).to(device), clicks, inputs.truth_ab, hint_size=hint_size
        )
    assert torch.equal(click.choice.cpu(), corners)
    torch.testing.assert_close(
        click.clicks, place_clicks(clicks, inputs.truth_ab, click.choice, hint_size), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize(("device", "block"), places([16], [None, 64]))
@pytest.mark.parametrize("only", DIFFERENTIABLE)
def test_each_output_has_its_own_gradient(only: str, device: str, block: int | None):
    check(make_inputs(2, 5, 6, device=device), block, only, estimator="gumbel_softmax")


@pytest.mark.parametrize(("device", "block"), places([16], [None, 64]))
def test_the_target_may_be_absent(device: str, block: int | None):
    check(make_inputs(2, 5, 6, device=device)._replace(target=None), block, estimator="reinmax")


@pytest.mark.parametrize(("device", "block"), places([None, 16], [None, 64, 1024]))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits(dtype: torch.dtype, device: str, block: int | None):
    side = 5 if device == "cpu" else 70
    check(make_inputs(2, side, side, device=device, dtype=dtype), block, estimator="gumbel_softmax_soft")


def channels_last(x: Tensor) -> Tensor:
    if x.ndim == 3:
        return x[:, None].repeat(1, 3, 1, 1).contiguous(memory_format=torch.channels_last)[:, 1]
    return x.contiguous(memory_format=torch.channels_last)


def transposed(x: Tensor) -> Tensor:
    return x.transpose(-1, -2).contiguous().transpose(-1, -2)


def sliced(x: Tensor) -> Tensor:
    wide = torch.nn.functional.pad(x, (1, 2, 3, 1), value=torch.nan)
    return wide[..., 3:-1, 1:-2]


def stepped(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=-1)[..., ::2]


def photo_last(x: Tensor) -> Tensor:
    return x.movedim(0, -1).contiguous().movedim(-1, 0)


def expanded(x: Tensor) -> Tensor:
    return x[:1].expand_as(x)


LAYOUTS = [channels_last, transposed, sliced, stepped, photo_last, expanded]


@pytest.mark.parametrize(("device", "block"), places([16], [None, 64, 1024]))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_of_inputs_and_gradients(layout: Any, device: str, block: int | None):
    side = 4 if device == "cpu" else 75
    plain = make_inputs(2, side, side + 2, device=device)
    if layout is expanded:
        plain = plain.rows([0, 0])
    odd = plain._replace(
        logits=layout(plain.logits),
        clicks=layout(plain.clicks),
        truth_ab=layout(plain.truth_ab),
        target=layout(plain.target),
    )
    for before, after in zip(plain[:3], odd[:3], strict=True):
        assert torch.equal(before, after)
    g = layout(torch.randn(1, 3, side, side + 2).repeat(2, 1, 1, 1).to(device))
    with triton_on(device, block):
        for settings in ({"estimator": "argmax_ste"}, {"estimator": "gumbel_softmax_soft", "hint_size": 2}):
            expected, found = (
                gradient_of_clicks(fused(**settings), inputs, grad)
                for inputs, grad in ((plain, g.contiguous()), (odd, g))
            )
            for a, b in zip(found, expected, strict=True):
                # A GPU's threads hold other pixels in another layout, and add them up in another order.
                floor = 0.0 if device == "cpu" else 1e-6 * b.abs().max().item()
                torch.testing.assert_close(a, b, rtol=0.0 if device == "cpu" else 1e-4, atol=floor)


@roomy
def gradient_of_clicks(run: Run, inputs: Inputs, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The new map, some statistics, and the gradient for a given gradient of the map."""
    leaf = inputs.logits.detach().requires_grad_()
    click = run(inputs._replace(logits=leaf))
    (gradient,) = torch.autograd.grad([click.clicks, click.entropy], leaf, [g, torch.ones_like(click.entropy)])
    return click.clicks.detach(), click.entropy.detach(), gradient


@pytest.mark.parametrize(("device", "block"), places([16], [None, 64]))
@pytest.mark.parametrize(
    ("temperature", "scale", "offset"), [(1e-3, 1e4, 0.0), (1.0, 1e4, 0.0), (1e3, 1e4, 0.0), (1.0, 3.0, -1e4)]
)
@pytest.mark.parametrize("estimator", KINDS)
def test_extreme_temperatures_and_logits_cost_no_precision(
    estimator: str, temperature: float, scale: float, offset: float, device: str, block: int | None
):
    """A softmax does not feel an offset, although in float32 log sum exp is then exact to 1e-3 only."""
    inputs = make_inputs(1, 5, 6, device=device, scale=scale)
    inputs = inputs._replace(logits=inputs.logits + offset)
    check(inputs, block, estimator=estimator, temperature=temperature)


@pytest.mark.parametrize(("device", "block"), places([16], [None, 64]))
@pytest.mark.parametrize("tau", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("estimator", KINDS[1:])
def test_extreme_tau(estimator: str, tau: float, device: str, block: int | None):
    check(make_inputs(1, 5, 6, device=device), block, estimator=estimator, tau=tau)


@pytest.mark.parametrize(("device", "block"), places([16], [None, 64]))
@pytest.mark.parametrize("estimator", KINDS)
def test_minus_infinity(estimator: str, device: str, block: int | None):
    """In some pixels, in whole tiles, and in all free pixels, which are then equally likely."""
    inputs = make_inputs(3, 5, 6, device=device)
    lost = torch.zeros(3, 5, 6, dtype=torch.bool, device=device)
    lost[0, 1::2], lost[1, :3], lost[2] = True, True, True
    target = inputs.target
    assert target is not None
    target = target.masked_fill(lost & ~lost.flatten(1).all(1)[:, None, None], 0.0)
    target = target / target.sum((1, 2), keepdim=True)
    inputs = inputs._replace(logits=inputs.logits.masked_fill(lost, -torch.inf), target=target)
    check(inputs, block, estimator=estimator)
    with triton_on(device, block):
        found = evaluate(fused(estimator=estimator), inputs)
    assert not found.gradient[lost].any()
    assert found.click.heatmap is not None
    torch.testing.assert_close(found.click.heatmap.sum((1, 2)), torch.ones(3, device=device))


@pytest.mark.parametrize(("device", "block"), places([None, 16], [None, 64]))
@pytest.mark.parametrize("estimator", KINDS)
def test_one_free_pixel(estimator: str, device: str, block: int | None):
    inputs = make_inputs(2, 5, 6, device=device)
    clicks = torch.full_like(inputs.clicks, 0.5)
    clicks[:, 0] = 1.0
    clicks[0, :, 0, 0] = clicks[1, :, 4, 5] = 0.0
    inputs = inputs._replace(clicks=clicks, target=None)
    with triton_on(device, block):
        click, gradient = evaluate(fused(estimator=estimator), inputs)
    assert click.choice.tolist() == [0, 29]
    assert not click.log_probability.any()
    assert not click.entropy.any()
    assert not gradient[:, 2].any()
    torch.testing.assert_close(click.log_sum_exp, inputs.logits[[0, 1], [0, 4], [0, 5]] / 1.3)


@nan_warns
@pytest.mark.parametrize(("device", "block"), places([None, 16], [None, 64]))
@pytest.mark.parametrize("estimator", KINDS)
def test_a_photo_without_a_free_pixel(estimator: str, device: str, block: int | None):
    inputs = make_inputs(3, 5, 6, device=device)
    assert inputs.target is not None
    sound = inputs.rows([0, 2])
    inputs.clicks[1, 0] = 1.0
    inputs.target[1] = 0.0
    settings = {"estimator": estimator, "hint_size": 2}
    with triton_on(device, block):
        with pytest.raises(ValueError, match="all pixels of 1 of 3 photos are clicked"):
            fused(**settings)(inputs)
        click, gradient = evaluate(fused(**settings, check=False), inputs)
        others = fused(**settings)(sound)
    assert click.choice[1] == -1
    assert torch.equal(click.clicks[1], inputs.clicks[1])
    assert all(torch.isnan(getattr(click, name)[1]) for name in DIFFERENTIABLE[1:5])
    for name in ("choice", *DIFFERENTIABLE):
        assert torch.equal(getattr(click, name)[[0, 2]], getattr(others, name)), name
    assert torch.isfinite(gradient[[0, 2]]).all()


@nan_warns
@pytest.mark.parametrize(("device", "block"), places([16], [None, 64]))
@pytest.mark.parametrize("broken", ["one", "tile", "all"])
@pytest.mark.parametrize("estimator", KINDS)
def test_nan_logits_are_passed_on_and_write_nowhere_else(
    estimator: str, broken: str, device: str, block: int | None
):
    inputs = make_inputs(3, 5, 6, device=device)
    sound = evaluate(fused(estimator=estimator, hint_size=2), inputs)
    which = {"one": slice(20, 21), "tile": slice(16, None), "all": slice(None)}[broken]
    inputs.clicks[1, :, 3, 2] = 0.0  # pixel 20 is free
    inputs.logits.flatten(1)[1, which] = torch.nan
    with triton_on(device, block):
        click, gradient = evaluate(fused(estimator=estimator, hint_size=2), inputs)
    assert all(torch.isnan(getattr(click, name)[1]) for name in DIFFERENTIABLE[1:5])
    free = ~clicked(inputs.clicks)
    assert free.flatten(1).gather(1, click.choice[:, None]).all()
    assert torch.isnan(gradient[1][free[1]]).all()
    rest = gradient[1][~free[1]]
    assert (torch.isnan(rest) | (rest == 0)).all()
    assert torch.equal(click.choice[[0, 2]], sound.click.choice[[0, 2]])
    torch.testing.assert_close(click.clicks[[0, 2]], sound.click.clicks[[0, 2]])
    torch.testing.assert_close(gradient[[0, 2]], sound.gradient[[0, 2]], rtol=1e-4, atol=1e-5)


@nan_warns
@pytest.mark.parametrize(("device", "block"), places([None, 16], [None, 64]))
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("estimator", KINDS)
def test_a_broken_gradient_is_never_hidden(estimator: str, bad: float, device: str, block: int | None):
    inputs = make_inputs(2, 5, 6, device=device)
    inputs.clicks[1, :, 4, 5] = 0.0
    g = torch.ones(2, 3, 5, 6, device=device)
    g[1, 0, 4, 5] = bad
    with triton_on(device, block):
        *_, gradient = gradient_of_clicks(fused(estimator=estimator), inputs, g)
    free = ~clicked(inputs.clicks)
    assert torch.isfinite(gradient[0]).all()
    assert torch.isnan(gradient[1][free[1]]).any()
    if bad != bad:
        assert torch.isnan(gradient[1][free[1]]).all()
    rest = gradient[1][~free[1]]
    assert (torch.isnan(rest) | (rest == 0)).all()


@pytest.mark.parametrize(("device", "block"), places([None, 16], [None, 64]))
def test_reinforce_has_no_gradient_through_the_click(device: str, block: int | None):
    inputs = make_inputs(1, 5, 6, device=device)
    with triton_on(device, block), counted_launches() as launched:
        gradient = evaluate(fused(estimator="reinforce"), inputs, only="clicks").gradient
    assert not gradient.any()
    assert not {name for name in launched if name.startswith(("sums", "gradient"))}


SINGLE = {"reduce_single": 1, "gradient_single": 1}
SPLIT = {"reduce_split": 1, "combine": 1, "sums": 1, "gradient_split": 1}
SOFT = {"weights": 1, "spread": 1}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("block", "kernels"), [(32, SINGLE), (16, SPLIT)])
@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_exactly_these_kernels_run(estimator: str, block: int, kernels: dict[str, int], device: str):
    inputs = make_inputs(1, 5, 6, device=device)
    with triton_on(device, block), counted_launches() as launched:
        evaluate(fused(estimator=estimator), inputs)
    expected = dict(kernels) | (SOFT if estimator == "gumbel_softmax_soft" else {})
    if estimator == "reinforce":
        expected.pop("sums", None)
    assert launched == expected


@pytest.mark.parametrize("device", DEVICES)
def test_statistics_alone_need_no_pass_over_the_maps_gradient(device: str):
    inputs = make_inputs(1, 5, 6, device=device)
    with triton_on(device, 16), counted_launches() as launched:
        evaluate(fused(estimator="reinmax"), inputs, only="entropy")
    assert launched == {"reduce_split": 1, "combine": 1, "gradient_split": 1}


@pytest.mark.parametrize("device", DEVICES)
def test_the_plan_decides_between_one_tile_and_several(device: str):
    with triton_on(device), counted_launches() as launched:
        for shape in ((1, 64, 64), (1, 64, 65)):
            evaluate(fused(), make_inputs(*shape, device=device))
    assert launched == SINGLE | SPLIT


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("estimator", ["gumbel_softmax_soft", "gumbel_rao"])
def test_streams_and_draws_of_more_than_31_bits(estimator: str, device: str):
    settings = {"estimator": estimator, "stream": 2**32 - 1, "draw": 2**31 - 2, "samples": 4}
    check(make_inputs(1, 5, 6, device=device), 16, **settings)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_an_empty_batch_launches_nothing(estimator: str, device: str):
    with triton_on(device), counted_launches() as launched:
        found = evaluate(fused(estimator=estimator), make_inputs(2, 3, 5, device=device).rows(slice(0)))
    assert found.gradient.shape == (0, 3, 5)
    assert not launched


@pytest.mark.parametrize("device", DEVICES)
def test_float64_is_refused(device: str):
    inputs = make_inputs(1, 3, 5, device=device, dtype=torch.float64)
    with triton_on(device), pytest.raises(ValueError, match=r"logits are float64.*logits\.float\(\)"):
        fused()(inputs)


@pytest.mark.parametrize(("device", "shape"), places([(2, 64, 80)], [(64, 256, 256)]))
@pytest.mark.parametrize("estimator", ["argmax_ste", "gumbel_softmax"])
def test_peak_memory_is_at_most_a_quarter_of_the_chains(estimator: str, device: str, shape: tuple[int, int, int]):
    inputs = make_inputs(*shape, device=device)._replace(target=None)
    g = torch.ones_like(inputs.clicks)

    def peak(make: Any) -> int:
        run = make(estimator=estimator, with_heatmap=False)
        run(inputs)  # compiles
        return peak_memory(lambda: gradient_of_clicks(run, inputs, g), inputs.logits.device)

    with triton_on(device):
        assert peak(fused) <= peak(chain) / 4
