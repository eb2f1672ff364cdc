"""The trainer on the fused operation: the losses of the readable chain, for 50 steps of both EditNets."""

from pathlib import Path

import pytest
import torch

from evaluator.system.interrupts import StopRequest
from kernels.choose_click import cuda, use
from kernels.choose_click.reference import choose_click_chain
from kernels.estimators import ESTIMATORS
from tests.trainer.small_training import build, small_config
from trainer.recipes import pingpong_losses

STEPS = 50
BATCH = 2
EDIT_ONLY = {
    "data__batch_size": BATCH,
    "recipe__rounds__pretrain_color": BATCH / 4096,
    "recipe__rounds__pretrain_edit": STEPS * BATCH / 4096,
    "recipe__rounds__cycles": 0,
    "recipe__choice__hint_size": (1, 3),
    "recipe__choice__samples": 2,
    "validation__photos": 1,
    "run__checkpoint_every": 100_000,
}


def losses_of(folder: Path, **settings) -> list[dict[str, float]]:
    """Every logged loss and gradient norm of a training of `STEPS` steps."""
    training = build(small_config(folder, **(EDIT_ONLY | settings)), folder)
    assert training.run(StopRequest())
    assert training.progress.skipped_steps == 0
    logged = [values for _, values in training.metrics.logged]  # pyright: ignore[reportAttributeAccessIssue]: a Recorder
    return [
        {
            name: value
            for name, value in values.items()
            if any(word in name for word in ("recoloured", "heatmap", "gradient"))
        }
        for values in logged
    ]


def assert_same_losses(
    one: list[dict[str, float]], other: list[dict[str, float]], tolerance: float, *, of_norms: float | None = None
) -> None:
    """Relative differences; those of gradient norms, which grow quickest, may have their own after 10 steps."""
    compared = 0
    for step, (a, b) in enumerate(zip(one, other, strict=True)):
        assert a.keys() == b.keys()
        for name in a:
            allowed = of_norms if of_norms and "gradient" in name and step >= 10 else tolerance
            assert a[name] == pytest.approx(b[name], rel=allowed, abs=tolerance), f"{name} at step {step}"
            compared += 1
    assert compared > STEPS


@pytest.mark.parametrize(
    "estimator",
    [
        pytest.param(name, marks=() if name in ("argmax_ste", "reinforce") else pytest.mark.slow)
        for name in ESTIMATORS
    ],
)
@pytest.mark.training
def test_fifty_steps_give_the_losses_of_the_readable_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, estimator: str
):
    fused = losses_of(tmp_path / "fused", recipe__choice__estimator=estimator)
    monkeypatch.setattr(pingpong_losses, "choose_click", choose_click_chain)
    assert_same_losses(
        fused, losses_of(tmp_path / "chain", recipe__choice__estimator=estimator), 1e-4, of_norms=1e-2
    )


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without a GPU")
def test_fifty_steps_of_the_interpreted_kernels_give_the_losses_of_the_torch_path(tmp_path: Path):
    before = cuda.LAUNCHES["gradient_single"]
    with use(cpu="triton"):
        kernels = losses_of(tmp_path / "triton", recipe__choice__estimator="gumbel_softmax")
    assert cuda.LAUNCHES["gradient_single"] == before + 2 * 2 * STEPS
    plain = losses_of(tmp_path / "torch", recipe__choice__estimator="gumbel_softmax")
    assert cuda.LAUNCHES["gradient_single"] == before + 2 * 2 * STEPS
    assert_same_losses(kernels, plain, 1e-4, of_norms=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_fifty_steps_on_a_gpu_give_the_losses_of_the_torch_path(tmp_path: Path, estimator: str):
    before = cuda.LAUNCHES["gradient_single"]
    kernels = losses_of(tmp_path / "triton", recipe__choice__estimator=estimator)
    assert cuda.LAUNCHES["gradient_single"] > before
    with use(cuda="torch"):
        assert_same_losses(
            kernels, losses_of(tmp_path / "torch", recipe__choice__estimator=estimator), 1e-3, of_norms=5e-2
        )
