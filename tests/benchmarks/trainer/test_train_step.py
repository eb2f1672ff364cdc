"""Which parts a step has, what they change, and the search for the largest batch."""

import json
from pathlib import Path

import pytest
import torch

from kernels.noise import sample_keys
from tests.benchmarks.trainer import train_step_parts
from tests.benchmarks.trainer.fast_path import (
    COMPILE,
    FUSED,
    GRAPHS,
    HALF,
    LAB,
    LAST_ONLY,
    Variant,
    last_only,
    missing,
)
from tests.benchmarks.trainer.step_costs import PhaseCost, RecipeCost, step_of
from tests.benchmarks.trainer.train_step_parts import ablate, compare, flops_of, largest_batch, peak_flops
from tests.trainer.small_training import small_config
from trainer.recipes.lab_batch import prepare_scene
from trainer.recipes.pingpong import COLOR, guided_clicks_loss

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("most", [1, 2, 3, 5, 8, 13, 64, 100])
def test_the_largest_batch_is_found_to_an_eighth(most: int):
    tried = []

    def fits(photos: int) -> bool:
        tried.append(photos)
        return photos <= most

    found = largest_batch(fits)
    assert found <= most < found + max(1, found // 8) + 1
    assert len(tried) == len(set(tried))


def test_nothing_that_fits_and_everything_that_fits():
    assert largest_batch(lambda photos: False) == 0
    assert largest_batch(lambda photos: True, first=2, limit=100) == 96


def test_parts_that_a_device_cannot_have_say_so(monkeypatch: pytest.MonkeyPatch):
    assert missing(GRAPHS, (COMPILE, GRAPHS), CPU) == "needs a CUDA device, this is cpu"
    assert missing(GRAPHS, (GRAPHS,), CUDA) == "needs compile, which does not work here"
    assert missing(FUSED, (FUSED,), CPU) is None
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert missing(HALF, (HALF,), CUDA) == "this GPU does not compute in bf16"


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H200", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H100 80GB HBM3", 989e12), ("Unknown", None)],
)
def test_known_gpus_have_a_peak(name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(CUDA) == peak
    assert peak_flops(CPU) is None


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


def test_losses_that_differ_are_not_timed():
    variant = object.__new__(Variant)  # of which only the name is used
    object.__setattr__(variant, "name", "+ bf16")
    compare(variant, [{"l1": 1.01, "gradient_norm": 9.0}], [{"l1": 1.0, "gradient_norm": 1.0}])
    for wrong in (1.03, float("nan")):
        with pytest.raises(SystemExit, match=r"\+ bf16: l1 is .*, plain 1.0; nothing is timed"):
            compare(variant, [{"l1": wrong}], [{"l1": 1.0}])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch.compile looks at every tensor's
def test_parts_are_timed_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(train_step_parts, "PARTS", (LAB, LAST_ONLY, COMPILE, GRAPHS))
    config = small_config(tmp_path, data__image_size=32, data__batch_size=2, recipe__clicks__interactions=1)
    file = tmp_path / "report.json"
    ablate(config, repeats=1, json_file=file)
    content = json.loads(file.read_text())
    timed = [(row["phase"], row["path"]) for row in content["rows"] if "photos/s" in row]
    assert timed[:3] == [
        ("pretrain-color", name) for name in ("plain", "+ Lab on the device", f"+ {LAST_ONLY.name}")
    ]
    assert len(timed) == 12
    reasons = {row["path"]: row["not here"] for row in content["rows"] if row["phase"] == "all"}
    assert "compiler" in reasons["+ compile"]
    assert reasons["+ CUDA graphs"] == "needs a CUDA device, this is cpu"
    held = [row["MiB beyond weights"] for row in content["rows"] if "MiB beyond weights" in row]
    assert held[2] < held[1]  # early interactions without gradient keep no activations
    assert [goal["met"] for goal in content["goals"]] == [None, None]
    assert all(row["MFU"] is None for row in content["rows"] if "MFU" in row)
