"""The operation as PyTorch sees it: registration, tracing, autocast; and what it refuses."""

from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from kernels.choose_click import choose_click, implementation, use
from kernels.choose_click.interface import STATISTICS
from kernels.estimators import ESTIMATORS
from tests.kernels.choose_click.positions import triton_on
from tests.kernels.choose_click.references import (
    assert_equal_chain,
    counted_launches,
    evaluate,
    fused,
    make_inputs,
)

SETTINGS = (torch.tensor(1.3).double(), torch.tensor(0.7).double(), 5, 2, 3, 2)
"""temperature, tau, stream, draw, samples, hint_size."""
opcheck_warns = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


@pytest.fixture
def untyped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the tests' check of jaxtyping's annotations: Dynamo cannot trace it, and it comes before ours."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@opcheck_warns
@pytest.mark.parametrize("with_optional", [True, False])
@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_the_operation_is_registered_correctly(estimator: str, with_optional: bool):
    logits, clicks, truth, keys, target = make_inputs(2, 3, 5)
    if not with_optional:
        target, keys = None, keys if estimator != "argmax_ste" else None
    arguments = (logits.requires_grad_(), clicks, truth, keys, target, estimator, *SETTINGS)
    torch.library.opcheck(torch.ops.chromaclick.choose_click.default, arguments)


@pytest.mark.parametrize("with_optional", [True, False])
def test_the_backward_operation_is_registered_correctly(with_optional: bool):
    logits, clicks, truth, keys, target = make_inputs(2, 3, 5)
    settings = ("gumbel_softmax", *SETTINGS)
    _, choice, statistics, kept = torch.ops.chromaclick.choose_click(
        logits, clicks, truth, keys, target, *settings
    )
    grad = torch.ones(2, 3, 3, 5) if with_optional else None
    saved = (choice, statistics, kept, logits, clicks, truth, keys, target if with_optional else None)
    arguments = (grad, torch.ones(2, STATISTICS), *saved, *settings)
    torch.library.opcheck(torch.ops.chromaclick.choose_click_backward.default, arguments)


@pytest.mark.usefixtures("untyped")
@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"
)  # torch 2.11's own
@pytest.mark.parametrize(
    ("estimator", "backend"), [*((name, "aot_eager") for name in ESTIMATORS), ("gumbel_softmax_soft", "inductor")]
)
def test_forward_and_backward_compile_into_one_graph(estimator: str, backend: str):
    torch.compiler.reset()
    inputs = make_inputs(2, 5, 7)
    run = fused(estimator=estimator, hint_size=2)
    compiled = torch.compile(run, fullgraph=True, backend=backend)
    assert_equal_chain(evaluate(compiled, inputs), evaluate(run, inputs), rtol=1e-5, atol=1e-6)


class Guide(nn.Module):
    """A convolution as EditNet, and the click it asks for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scores = nn.Conv2d(3, 1, 3, padding=1)
        self.settings = settings

    def forward(self, clicks: Tensor, truth_ab: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.scores(clicks + truth_ab.mean(1, keepdim=True))[:, 0]
        click = choose_click(logits, clicks, truth_ab, keys=keys, **self.settings)
        return click.clicks, click.choice, click.entropy


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("strict", [True, False])
def test_a_module_that_clicks_is_exported_for_any_batch(strict: bool):
    module = Guide(estimator="gumbel_softmax", temperature=0.7, hint_size=2).eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    example = make_inputs(3, 6, 8)
    program = torch.export.export(
        module,
        (example.clicks, example.truth_ab, example.keys),
        dynamic_shapes=({0: batch}, {0: batch}, {0: batch}),
        strict=strict,
    )
    assert "chromaclick.choose_click" in program.graph_module.code
    for photos in (3, 9):
        inputs = make_inputs(photos, 6, 8, seed=photos)
        arguments = (inputs.clicks, inputs.truth_ab, inputs.keys)
        for found, expected in zip(program.module()(*arguments), module(*arguments), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_autocast_changes_nothing(estimator: str):
    inputs = make_inputs(2, 5, 7, dtype=torch.bfloat16)
    run = fused(estimator=estimator, hint_size=2)
    plain = evaluate(run, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = evaluate(run, inputs)
    assert_equal_chain(cast, plain, rtol=0.0, atol=0.0)
    assert cast.click.clicks.dtype == cast.click.entropy.dtype == torch.float32
    assert cast.gradient.dtype == torch.bfloat16


def test_inputs_are_left_as_they_are():
    inputs = make_inputs(2, 5, 7)
    copies = [x.clone() for x in inputs if x is not None]
    for estimator in ESTIMATORS:
        evaluate(fused(estimator=estimator, hint_size=2), inputs)
    assert all(torch.equal(x, copy) for x, copy in zip(inputs, copies, strict=True) if x is not None)


def test_a_second_derivative_is_refused():
    inputs = make_inputs(1, 3, 5)
    logits = inputs.logits.requires_grad_()
    click = choose_click(logits, inputs.clicks, inputs.truth_ab)
    (gradient,) = torch.autograd.grad(click.entropy.square().sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="choose_click_backward"):
        gradient.sum().backward()


def test_each_device_has_its_implementation():
    assert implementation("cuda") == "triton"
    assert implementation("cpu") == "torch"
    with pytest.raises(ValueError, match="no implementation for device type 'mps'; use cpu or cuda"):
        implementation("mps")


def test_another_implementation_is_used_inside_the_with_only():
    with use(cpu="triton"):
        assert implementation("cpu") == "triton"
        with use(cuda="torch"):
            assert (implementation("cpu"), implementation("cuda")) == ("torch", "torch")
        assert (implementation("cpu"), implementation("cuda")) == ("triton", "triton")
    with pytest.raises(KeyError), use(cpu="triton", cuda="torch"):
        raise KeyError
    assert (implementation("cpu"), implementation("cuda")) == ("torch", "triton")


def test_an_unknown_implementation_is_named():
    with (
        pytest.raises(ValueError, match="implementation is 'numpy'; choose one of torch, triton"),
        use(cpu="numpy"),
    ):
        pass
    assert implementation("cpu") == "torch"


def test_the_cpu_path_launches_no_kernel_and_the_other_does():
    inputs = make_inputs(1, 3, 5)
    with counted_launches() as launched:
        evaluate(fused(), inputs)
    assert not launched
    with counted_launches() as launched, triton_on("cpu"):
        evaluate(fused(), inputs)
    assert launched == {"reduce_single": 1, "gradient_single": 1}


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_a_photo_without_a_free_pixel(estimator: str):
    inputs = make_inputs(3, 5, 6)._replace(target=None)
    inputs.clicks[1, 0] = 1.0
    with pytest.raises(ValueError, match="all pixels of 1 of 3 photos are clicked"):
        fused(estimator=estimator)(inputs)
    click, gradient = evaluate(fused(estimator=estimator, check=False), inputs)
    assert click.choice[1] == -1
    assert torch.equal(click.clicks[1], inputs.clicks[1])
    assert all(torch.isnan(values[1]) for values in (click.log_sum_exp, click.log_probability, click.entropy))
    others = fused(estimator=estimator)(inputs.rows([0, 2]))
    assert torch.equal(click.clicks[[0, 2]], others.clicks)
    assert torch.isfinite(gradient[[0, 2]]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimator": "argmax"}, "estimator is 'argmax'; choose one of argmax_ste"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be 1e-6"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"tau": -1.0}, "tau is -1.0; it must be 1e-6"),
        ({"stream": -1}, "stream is -1; it must be 0 ..."),
        ({"stream": 2**32}, "stream is 4294967296"),
        ({"draw": 2**32 - 2, "samples": 2}, "draw is 4294967294; it must be 0 ... 4294967293"),
        ({"samples": 0}, "samples is 0; it must be at least 1"),
        ({"hint_size": 0}, "hint_size is 0; it must be 1 ... 31 pixels"),
        ({"hint_size": 32}, "hint_size is 32"),
        ({"estimator": "reinmax", "keys": None}, "reinmax needs noise; pass keys="),
    ],
)
def test_wrong_settings_are_named(change: dict[str, Any], message: str):
    logits, clicks, truth, keys, _ = make_inputs(2, 3, 5)
    with pytest.raises(ValueError, match=message):
        choose_click(logits, clicks, truth, **{"keys": keys, **change})


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("name", ["clicks", "truth_ab", "keys", "target"])
def test_shapes_that_do_not_fit_together_are_named(name: str):
    inputs = make_inputs(2, 3, 5)
    inputs = inputs._replace(**{name: getattr(inputs, name)[:1]})
    with pytest.raises(ValueError, match=rf"{name} has shape \(1.*logits \(2, 3, 5\) need \(2"):
        fused(estimator="reinmax")(inputs)


@pytest.mark.parametrize("name", ["clicks", "truth_ab", "target"])
def test_a_gradient_that_would_be_lost_is_refused(name: str):
    inputs = make_inputs(2, 3, 5)
    getattr(inputs, name).requires_grad_()
    with pytest.raises(ValueError, match=rf"{name} requires a gradient.*pass {name}\.detach\(\)"):
        fused()(inputs)


def test_tensors_on_another_device_are_named():
    inputs = make_inputs(2, 3, 5)
    with pytest.raises(ValueError, match="truth_ab is on meta and logits on cpu; move them together"):
        fused()(inputs._replace(truth_ab=inputs.truth_ab.to("meta")))


def test_photos_without_a_pixel_are_refused():
    with pytest.raises(ValueError, match=r"logits have shape \(2, 0, 5\); it must be"):
        choose_click(torch.zeros(2, 0, 5), torch.zeros(2, 3, 0, 5), torch.zeros(2, 2, 0, 5))
