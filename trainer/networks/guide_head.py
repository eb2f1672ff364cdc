"""Guide head: reads the split colorizer's own features instead of encoding the photo again."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from trainer.networks.blocks import GlobalContext, Residual, Separable, cells, conv_norm, double, exact, zero_
from trainer.networks.split import CELL, FEATURE_CHANNELS_BESIDE_WIDTHS, MULTIPLE
from trainer.networks.unet import GUIDE_CHANNELS, GuideVariant

HEAD_WIDTHS = (32, 48, 64)
"""Channels at 1/4, 1/8 and 1/16 of the resolution."""


class GuideHead(nn.Module):
    """Scores of every pixel as the next click, from `Coloring.features`.

    `oracle` also sees the error of the present colors; `blind` sees what a person's grey photo offers. Scores are
    computed at cells of 4 x 4 pixels, refined to pixels, and leave in float32: half precision has some fifty
    distinct values for the scores of a photo.
    """

    multiple = MULTIPLE
    reads_features = True

    def __init__(self, variant: GuideVariant, feature_widths: int, widths: Sequence[int] = HEAD_WIDTHS) -> None:
        """Build a head.

        Args:
            variant: "oracle" or "blind".
            feature_widths: channels of the colorizer's photo features and of its decoder at 1/4, added up.
            widths: channels at 1/4, 1/8 and 1/16.

        Raises:
            ValueError: an unknown variant.
        """
        super().__init__()
        if variant not in GUIDE_CHANNELS:
            raise ValueError(f"variant is {variant!r}; choose one of {', '.join(GUIDE_CHANNELS)}")
        self.variant: GuideVariant = variant
        quarter, eighth, sixteenth = widths
        self.feature_channels = feature_widths + FEATURE_CHANNELS_BESIDE_WIDTHS
        seen = self.feature_channels + 1 + 1 + 2 + (3 if variant == "oracle" else 0)
        self.enter = conv_norm(seen, quarter, 1)
        self.level_4 = Separable(quarter)
        self.down_8, self.down_16 = (
            conv_norm(a, b, stride=2) for a, b in ((quarter, eighth), (eighth, sixteenth))
        )
        self.level_8, self.level_16 = Residual(eighth), Residual(sixteenth)
        self.context = GlobalContext(sixteenth)
        self.up_8 = conv_norm(sixteenth, eighth, 1, relu=False)
        self.up_4 = conv_norm(eighth, quarter, 1, relu=False)
        self.out_8, self.out_4 = Residual(eighth), Separable(quarter)
        self.score = zero_(nn.Conv2d(quarter, 1 + CELL**2, 1))

    def forward(
        self,
        lightness: Float[Tensor, "b 1 H W"],
        predicted_ab: Float[Tensor, "b 2 H W"],
        clicks: Float[Tensor, "b 3 H W"],
        truth_ab: Float[Tensor, "b 2 H W"] | None = None,
        *,
        features: Float[Tensor, "b c h w"],
    ) -> Float[Tensor, "b H W"]:
        """Raw scores z; the heat map is softmax(z / T).

        Raises:
            ValueError: an oracle was not given the true ab.
        """
        area = CELL**2
        seen = [
            exact(features),
            cells(exact(lightness), CELL) / area,
            cells(exact(clicks[:, :1]), CELL).clamp(max=1.0),
            cells(exact(predicted_ab), CELL) / area,
        ]
        if self.variant == "oracle":
            if truth_ab is None:
                raise ValueError("this guide is an oracle: pass truth_ab, or use a blind one")
            error = exact(truth_ab) - exact(predicted_ab)
            seen += [cells(error, CELL) / area, cells(error.square().sum(1, keepdim=True), CELL) / area]
        quarter = self.level_4(self.enter(torch.cat(seen, 1)))
        eighth = self.level_8(self.down_8(quarter))
        sixteenth = self.context(self.level_16(self.down_16(eighth)))
        eighth = self.out_8(F.relu(eighth + double(self.up_8(sixteenth))))
        x = exact(self.out_4(quarter + double(self.up_4(eighth))))
        with torch.autocast(x.device.type, enabled=False):
            coarse, fine = self.score(x).split([1, area], 1)
        smooth = F.interpolate(coarse, scale_factor=float(CELL), mode="bilinear", align_corners=False)
        return (smooth + F.pixel_shuffle(fine, CELL))[:, 0]
