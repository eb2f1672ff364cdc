"""LPIPS: the authors' published distances, what happens without weights, and its place in the loss."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import AlexNet_Weights

from evaluator.system.interrupts import StopRequest
from kernels.color import rgb_to_lab
from tests import ROOT
from tests.trainer.small_training import Recorder, build, small_config
from trainer.recipes.losses import Perceptual, load_perceptual

SHARED = ROOT.parent / "shared"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def perceptual(alexnet_home: Path) -> Perceptual:
    """The real metric."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(alexnet_home))
        loaded, status = load_perceptual("required", CPU)
    assert loaded is not None
    assert status == "lpips 0.1, alex"
    return loaded


def picture(name: str) -> torch.Tensor:
    with Image.open(SHARED / "golden" / "lpips" / name) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].contiguous()


@pytest.mark.parametrize(("name", "distance"), [("ex_p0.png", 0.722), ("ex_p1.png", 0.138)])
def test_distances_are_those_that_the_authors_publish(perceptual: Perceptual, name: str, distance: float):
    lightness, ab = rgb_to_lab(picture(name))
    with torch.no_grad():
        found = perceptual(lightness, ab, picture("ex_ref.png"))
    assert found.item() == pytest.approx(distance, abs=0.002)


def test_the_term_reaches_the_colors_but_not_the_metric(perceptual: Perceptual):
    lightness, ab = rgb_to_lab(picture("ex_ref.png"))
    predicted = (ab * 0.5).requires_grad_()
    perceptual(lightness, predicted, picture("ex_ref.png")).backward()
    assert predicted.grad is not None
    assert torch.isfinite(predicted.grad).all()
    assert predicted.grad.any()
    assert all(parameter.grad is None for parameter in perceptual.network.parameters())


def test_colornets_loss_logs_the_term(perceptual: Perceptual, tmp_path: Path):
    config = small_config(
        tmp_path,
        data__image_size=64,
        recipe__rounds__pretrain_color=0.002,
        recipe__rounds__pretrain_edit=0.0,
        recipe__rounds__cycles=0,
    )
    training = build(config, tmp_path)
    training.perceptual = perceptual
    assert training.run(StopRequest())
    assert isinstance(training.metrics, Recorder)
    assert "pretrain-color/lpips" in training.metrics.logged[0][1]


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network in tests")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)


@pytest.mark.usefixtures("no_weights")
def test_without_weights_auto_goes_on_and_says_so():
    assert load_perceptual("auto", CPU) == (None, "unavailable: no network in tests")


@pytest.mark.parametrize("content", [b"", b"<html>not weights</html>"])
def test_a_damaged_cache_is_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = AlexNet_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1]
    cached = tmp_path / "hub" / "checkpoints" / name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(content)
    perceptual, status = load_perceptual("auto", CPU)
    assert perceptual is None
    assert status.startswith("unavailable: ")


@pytest.mark.usefixtures("no_weights")
def test_without_weights_required_stops_and_says_what_to_do():
    with pytest.raises(
        ValueError, match=r"weights cannot be had .no network in tests.; put them into torch.hub's cache"
    ):
        load_perceptual("required", CPU)


def test_off_loads_nothing():
    assert load_perceptual("off", CPU) == (None, "off")
