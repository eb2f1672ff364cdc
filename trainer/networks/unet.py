"""ColorNet and EditNet: residual U-Nets with squeeze-and-excitation (Tables A.1 and A.2 of the thesis)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

COLORNET_WIDTHS = (48, 96, 192, 384, 384, 384, 384, 512)
EDITNET_WIDTHS = (8, 16, 32, 32, 32, 32, 32, 64)
GuideVariant = Literal["oracle", "blind"]
GUIDE_CHANNELS: dict[str, int] = {"oracle": 5, "blind": 6}


class EnhancedDoubleConv(nn.Module):
    """Two 3x3 convolutions with batch norm and a skip, 1x1-projected where the widths differ (section 3.1.1)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.skip: nn.Module = nn.Identity()
        if inputs != outputs:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Features of the same height and width."""
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.skip(x))


class SqueezeExcitation(nn.Module):
    """Rescales channels by weights in (0, 1) computed from their global means (Hu et al. 2019)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The recalibrated features."""
        weights = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3))))))
        return x * weights[:, :, None, None]


class Up(nn.Module):
    """Doubles the resolution, concatenates the encoder's features, and fuses them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
        self.fuse = EnhancedDoubleConv(2 * outputs, outputs)

    def forward(self, x: Float[Tensor, "b c h w"], skip: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b d h2 w2"]:
        """Features at the resolution of `skip`."""
        return self.fuse(torch.cat([skip, self.upsample(x)], dim=1))


class UNet(nn.Module):
    """U-Net with `len(widths) - 1` levels; the last width is the bottleneck's.

    Height and width of its input must be multiples of `multiple` = 2 ** levels.
    """

    def __init__(self, inputs: int, outputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        if len(widths) < 2 or min(widths) < 1:
            raise ValueError(
                f"widths is {tuple(widths)}; give at least two positive widths, the last the bottleneck's"
            )
        encoder = pairwise([inputs, *widths[:-1]])
        self.down = nn.ModuleList(EnhancedDoubleConv(a, b) for a, b in encoder)
        self.pool = nn.MaxPool2d(2)
        self.bottleneck = EnhancedDoubleConv(widths[-2], widths[-1])
        self.attention = SqueezeExcitation(widths[-1])
        self.up = nn.ModuleList(Up(a, b) for a, b in pairwise(reversed(widths)))
        self.final_conv = nn.Conv2d(widths[0], outputs, 1)

    @property
    def levels(self) -> int:
        """Number of times that the resolution is halved."""
        return len(self.down)

    @property
    def multiple(self) -> int:
        """Number of pixels that must divide height and width."""
        return 2**self.levels

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """The last layer's raw output at the input's resolution."""
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
            x = self.pool(x)
        x = self.attention(self.bottleneck(x))
        for up in self.up:
            x = up(x, skips.pop())
        return self.final_conv(x)


class ColorNet(nn.Module):
    """Predicts ab from lightness and the click map (Table A.1: 36.5 M parameters at the default widths)."""

    def __init__(self, widths: Sequence[int] = COLORNET_WIDTHS) -> None:
        super().__init__()
        self.unet = UNet(4, 2, widths)
        self.multiple = self.unet.multiple

    def forward(
        self, lightness: Float[Tensor, "b 1 h w"], clicks: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b 2 h w"]:
        """ab in [-1, 1], in the dtype of the convolutions (half inside autocast)."""
        return torch.tanh(self.unet(torch.cat([lightness, clicks], dim=1)))


class EditNet(nn.Module):
    """Scores every pixel as the next click (Table A.2: 0.34 M parameters at the default widths).

    `oracle` is the thesis' network: lightness, predicted ab and true ab, five channels. `blind` sees what a
    person's grey photo offers: lightness, predicted ab and the click map, six channels.
    """

    def __init__(self, variant: GuideVariant = "oracle", widths: Sequence[int] = EDITNET_WIDTHS) -> None:
        super().__init__()
        if variant not in GUIDE_CHANNELS:
            raise ValueError(f"variant is {variant!r}; choose one of {', '.join(GUIDE_CHANNELS)}")
        self.variant = variant
        self.unet = UNet(GUIDE_CHANNELS[variant], 1, widths)
        self.multiple = self.unet.multiple

    def forward(
        self,
        lightness: Float[Tensor, "b 1 h w"],
        predicted_ab: Float[Tensor, "b 2 h w"],
        clicks: Float[Tensor, "b 3 h w"],
        truth_ab: Float[Tensor, "b 2 h w"] | None = None,
    ) -> Float[Tensor, "b h w"]:
        """Raw scores z; the heat map is softmax(z / T).

        Raises:
            ValueError: an oracle was not given the true ab.
        """
        if self.variant == "blind":
            seen = [lightness, predicted_ab, clicks]
        elif truth_ab is None:
            raise ValueError("this EditNet is an oracle: pass truth_ab, or use a blind one")
        else:
            seen = [truth_ab, predicted_ab, lightness]
        return self.unet(torch.cat(seen, dim=1))[:, 0]


def count_parameters(network: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
