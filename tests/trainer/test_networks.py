"""Every row of Tables A.1 and A.2, the parameter counts, and the networks' promises."""

import pytest
import torch
from torch import Tensor, nn

from trainer.networks.unet import (
    COLORNET_WIDTHS,
    EDITNET_WIDTHS,
    ColorNet,
    EditNet,
    EnhancedDoubleConv,
    SqueezeExcitation,
    UNet,
    count_parameters,
)

SIDE = 256
# Rows "down1 ... down7" of each table: channels in and out; resolution SIDE / 2 ** (row - 1), pooled to half.
TABLE_A1_DOWN = [(4, 48), (48, 96), (96, 192), (192, 384), (384, 384), (384, 384), (384, 384)]
TABLE_A2_DOWN = [(5, 8), (8, 16), (16, 32), (32, 32), (32, 32), (32, 32), (32, 32)]
# Rows "up1 ... up7": channels into and out of the transposed convolution, and into the fusing block.
TABLE_A1_UP = [
    (512, 384, 768), (384, 384, 768), (384, 384, 768), (384, 384, 768),
    (384, 192, 384), (192, 96, 192), (96, 48, 96),
]  # fmt: skip
TABLE_A2_UP = [(64, 32, 64), (32, 32, 64), (32, 32, 64), (32, 32, 64), (32, 32, 64), (32, 16, 32), (16, 8, 16)]


@pytest.fixture(scope="module", params=["A.1", "A.2"])
def table(request: pytest.FixtureRequest):
    if request.param == "A.1":
        return ColorNet().eval(), TABLE_A1_DOWN, (384, 512), TABLE_A1_UP, (48, 2)
    return EditNet("oracle").eval(), TABLE_A2_DOWN, (32, 64), TABLE_A2_UP, (8, 1)


def shapes_of(unet: UNet, side: int) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Input and output shape of every module that a table has a row for, from one forward pass."""
    seen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def note(name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = (tuple(inputs[0].shape[1:]), tuple(output.shape[1:]))

        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in unet.named_modules() if name]
    channels = unet.get_parameter("down.0.conv1.weight").shape[1]
    with torch.no_grad():
        unet(torch.zeros(1, channels, side, side))
    for hook in hooks:
        hook.remove()
    return seen


def test_every_row_of_the_table(table: tuple):
    network, down, bottleneck, up, last = table
    shapes = shapes_of(network.unet, SIDE)
    assert len(network.unet.down) == len(network.unet.up) == 7
    for row, (inputs, outputs) in enumerate(down):
        side = SIDE // 2**row
        assert shapes[f"down.{row}"] == ((inputs, side, side), (outputs, side, side))
        assert isinstance(network.unet.down[row], EnhancedDoubleConv)
    assert shapes["pool"] == ((down[-1][1], 4, 4), (down[-1][1], 2, 2))  # the last of seven poolings
    assert shapes["bottleneck"] == ((bottleneck[0], 2, 2), (bottleneck[1], 2, 2))
    assert shapes["attention"] == ((bottleneck[1], 2, 2), (bottleneck[1], 2, 2))
    assert shapes["attention.squeeze"] == ((bottleneck[1],), (bottleneck[1] // 16,))
    assert shapes["attention.excite"] == ((bottleneck[1] // 16,), (bottleneck[1],))
    for row, (inputs, outputs, fused) in enumerate(up):
        side = SIDE // 2 ** (6 - row)
        assert shapes[f"up.{row}.upsample"] == ((inputs, side // 2, side // 2), (outputs, side, side))
        assert shapes[f"up.{row}.fuse"] == ((fused, side, side), (outputs, side, side))
        upsample = network.unet.up[row].upsample
        assert (upsample.kernel_size, upsample.stride) == ((2, 2), (2, 2))
    assert shapes["final_conv"] == ((last[0], SIDE, SIDE), (last[1], SIDE, SIDE))
    assert network.unet.final_conv.kernel_size == (1, 1)


def test_parameter_counts_are_the_thesis():
    assert count_parameters(ColorNet()) / 1e6 == pytest.approx(36.5, abs=0.05)
    assert count_parameters(EditNet("oracle")) / 1e6 == pytest.approx(0.34, abs=0.005)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (5, 5)])
def test_the_residual_block_is_figure_3_1(inputs: int, outputs: int):
    """relu(bn(conv(relu(bn(conv(x))))) + skip(x)), written out with functional calls."""
    torch.manual_seed(0)
    block = EnhancedDoubleConv(inputs, outputs).double().eval()
    for norm in (m for m in block.modules() if isinstance(m, nn.BatchNorm2d)):
        assert norm.running_mean is not None
        norm.running_mean.normal_()
    x = torch.randn(2, inputs, 6, 6, dtype=torch.float64)

    def convolve(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
        mean, var = norm.running_mean, norm.running_var
        assert mean is not None
        assert var is not None
        y = nn.functional.conv2d(x, conv.weight, padding=conv.padding)
        shape = (1, -1, 1, 1)
        y = (y - mean.view(shape)) / (var.view(shape) + norm.eps).sqrt()
        return y * norm.weight.view(shape) + norm.bias.view(shape)

    y = convolve(convolve(x, block.conv1, block.norm1).relu(), block.conv2, block.norm2)
    skip = x if inputs == outputs else convolve(x, block.skip[0], block.skip[1])  # pyright: ignore[reportIndexIssue]: a Sequential here
    assert torch.allclose(block(x), (y + skip).relu(), atol=1e-12)


def test_squeeze_and_excitation_scales_whole_channels():
    torch.manual_seed(0)
    attention, x = SqueezeExcitation(32), torch.rand(2, 32, 4, 4) + 0.1
    scale = attention(x) / x
    assert torch.allclose(scale, scale.mean((2, 3), keepdim=True).expand_as(scale), atol=1e-5)
    assert ((scale > 0) & (scale < 1)).all()


@pytest.mark.parametrize("widths", [(8, 16, 32), (8, 8, 8, 8, 8, 8)])
def test_width_and_depth_are_parameters(widths: tuple[int, ...]):
    network = ColorNet(widths).eval()
    side = network.multiple * 2
    assert network.multiple == 2 ** (len(widths) - 1)
    ab = network(torch.rand(2, 1, side, side * 2), torch.zeros(2, 3, side, side * 2))
    assert ab.shape == (2, 2, side, side * 2)
    assert ab.abs().max() <= 1


def test_default_widths_are_those_of_the_tables():
    assert (*(out for _, out in TABLE_A1_DOWN), 512) == COLORNET_WIDTHS
    assert (*(out for _, out in TABLE_A2_DOWN), 64) == EDITNET_WIDTHS


def test_the_oracle_sees_the_truth_and_not_the_clicks_and_the_blind_one_the_reverse():
    torch.manual_seed(0)
    lightness, ab, clicks, truth = (
        torch.rand(1, 1, 8, 8),
        torch.rand(1, 2, 8, 8),
        torch.rand(1, 3, 8, 8),
        torch.rand(1, 2, 8, 8),
    )
    for variant, sees_truth in (("oracle", True), ("blind", False)):
        network = EditNet(variant, (8, 8, 8)).eval()  # pyright: ignore[reportArgumentType]: a variant
        plain = network(lightness, ab, clicks, truth)
        assert plain.shape == (1, 8, 8)
        assert torch.equal(plain, network(lightness, ab, clicks, truth + 1)) is not sees_truth
        assert torch.equal(plain, network(lightness, ab, clicks + 1, truth)) is sees_truth


def test_an_oracle_without_the_truth_is_a_clear_error():
    x = torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match="pass truth_ab"):
        EditNet("oracle", (8, 8, 8))(x, x.expand(1, 2, 8, 8), x.expand(1, 3, 8, 8))


def test_too_few_widths_are_a_clear_error():
    with pytest.raises(ValueError, match=r"widths is \(8,\)"):
        ColorNet((8,))
