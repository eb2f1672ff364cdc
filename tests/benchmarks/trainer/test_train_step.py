"""The benchmark of a training step: both forms, what they refuse, and the arithmetic behind them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kernels.noise import sample_keys
from tests.benchmarks.__main__ import main
from tests.benchmarks.trainer import train_step, train_step_parts
from tests.benchmarks.trainer.step_costs import PhaseCost, RecipeCost, step_of
from tests.benchmarks.trainer.train_step_parts import flops_of, largest_batch
from tests.benchmarks.trainer.trainings import GRAPHS, LAB, LAST_ONLY, NOTHING, last_only
from tests.trainer.small_training import small_config
from trainer.recipes.lab_batch import prepare_scene
from trainer.recipes.pingpong import COLOR, guided_clicks_loss

PHASES = ("pretrain-color", "pretrain-edit", "ping-1", "pong-1")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A small training in place of the tiny preset's."""
    config = small_config(tmp_path, data__image_size=32, data__batch_size=2, recipe__clicks__interactions=1)
    monkeypatch.setattr(train_step, "PRESETS", {"tiny": lambda: config})


@pytest.mark.slow
def test_both_paths_are_timed_in_every_phase(report_of: Callable):
    content = report_of("train_step", "--preset", "tiny", "--repeats", 1, "--ours", "fp32")
    *timed, plain, ours = content["rows"]
    assert [(row["phase"], row["path"]) for row in timed] == [(a, b) for a in PHASES for b in ("plain", "ours")]
    assert plain["MiB"] > 0 < ours["MiB"]


def test_paths_with_other_losses_are_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(train_step, "NOTHING", NOTHING | {"seed": 7})
    assert main(["train_step", "--preset", "tiny"]) == 1
    assert "pretrain-color: " in (error := capsys.readouterr().err)
    assert "nothing is timed" in error


@pytest.mark.slow
def test_parts_are_timed_side_by_side(report_of: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(train_step_parts, "PARTS", (LAB, LAST_ONLY, GRAPHS))
    content = report_of("train_step", "--preset", "tiny", "--ablate", "--repeats", 1)
    timed = [(row["phase"], row["path"]) for row in content["rows"] if "photos/s" in row]
    paths = ("plain", "+ Lab on the device", f"+ {LAST_ONLY.name}")
    assert timed == [(phase, path) for phase in PHASES for path in paths]
    reasons = {row["path"]: row["not here"] for row in content["rows"] if row["phase"] == "all"}
    assert reasons == {"+ CUDA graphs": "needs a CUDA device, this is cpu"}
    held = [row["MiB beyond weights"] for row in content["rows"] if "MiB beyond weights" in row]
    assert held[2] < held[1]  # early interactions without gradient keep no activations
    assert [goal["met"] for goal in content["goals"]] == [None, None]


@pytest.mark.parametrize("most", [1, 2, 3, 5, 8, 13, 64, 100])
def test_the_largest_batch_is_found_to_an_eighth(most: int):
    tried = []

    def fits(photos: int) -> bool:
        tried.append(photos)
        return photos <= most

    found = largest_batch(fits)
    assert found <= most < found + max(1, found // 8) + 1
    assert len(tried) == len(set(tried))


def test_early_interactions_keep_the_loss_and_lose_their_gradient(tmp_path: Path):
    config = small_config(tmp_path)
    networks = {}
    for name, make in config.recipe.build().networks.items():
        torch.manual_seed(1)
        networks[name] = make().eval()
    photos = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    called = []
    networks[COLOR].register_forward_hook(lambda *_: called.append(torch.is_grad_enabled()))
    step = step_of(config, prepare_scene(photos, sample_keys(0, 0, 2)), networks, None)
    whole, last = guided_clicks_loss(step)["l1"].value, last_only(guided_clicks_loss)(step)["l1"].value
    assert torch.equal(whole, last)
    assert called == [True, True, True, False, False, True]
    weight = next(networks[COLOR].parameters())
    gradients = [torch.autograd.grad(loss, weight)[0] for loss in (whole, last)]
    assert gradients[1].norm() > 0
    assert not torch.allclose(*gradients)


def test_what_has_no_gradient_is_not_counted():
    def cost(backward: float) -> dict[str, tuple[PhaseCost, ...]]:
        one = PhaseCost(
            phase="ping", forward_flops=1.0, backward_flops=backward, operators=1, gradients=(), statistics=0
        )
        return {"ping-1": (one,)}

    counted = RecipeCost(one=cost(2.0), two=cost(3.0))
    assert flops_of(counted, 5, (LAB,)) == [7.0]
    assert flops_of(counted, 5, (LAB, LAST_ONLY)) == [2.0]
