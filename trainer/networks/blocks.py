"""Convolutional blocks of the split network and its heads.

Every convolution is followed by batch norm, which inference folds away. Every term of a sum is normalised: without
that, one run's decoder died behind a ReLU whose inputs had drifted below zero.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def conv_norm(
    inputs: int, outputs: int, size: int = 3, *, stride: int = 1, groups: int = 1, relu: bool = True
) -> nn.Sequential:
    """Convolution, batch norm and, unless told otherwise, ReLU."""
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU() if relu else nn.Identity())


class Residual(nn.Module):
    """Two dense 3x3 convolutions with a skip (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_norm(channels, channels), conv_norm(channels, channels, relu=False))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Features of the same shape."""
        return F.relu(x + self.body(x))


class Separable(nn.Module):
    """Depthwise 3x3, then 1x1 to twice the width and back, with a skip (the order of ConvNeXt, Liu et al. 2022).

    No ReLU at its end: a sum that passes through one at 1/4 of the resolution can die everywhere.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_norm(channels, channels, groups=channels, relu=False),
            conv_norm(channels, 2 * channels, 1),
            conv_norm(2 * channels, channels, 1, relu=False),
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Features of the same shape."""
        return x + self.body(x)


class GlobalContext(nn.Module):
    """Adds a function of the channels' global means to every position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(channels, channels // 4), nn.ReLU(), nn.Linear(channels // 4, channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Features of the same shape."""
        return x + self.mix(x.mean((2, 3)))[:, :, None, None]


def double(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
    """Nearest-neighbor upsampling by two: each value four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def zero_(layer: nn.Conv2d) -> nn.Conv2d:
    """Initialise a layer's weights and bias to 0."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def cells(x: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "b c h2 w2"]:
    """Sums over blocks of `size` x `size` pixels; torch's own `divisor_override` is lost in ONNX."""
    return F.avg_pool2d(x, size) * size**2


def exact(x: Tensor) -> Tensor:
    """The tensor in float32; float64 stays float64."""
    return x if x.dtype == torch.float64 else x.float()
