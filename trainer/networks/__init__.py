"""Network architectures, one per file. Imports torch and kernels only."""

from trainer.networks.encoder import ENCODERS, Encoder, EncoderName
from trainer.networks.guide_head import GuideHead
from trainer.networks.split import Coloring, Embedding, SplitColorNet
from trainer.networks.unet import (
    COLORNET_WIDTHS,
    EDITNET_WIDTHS,
    GUIDE_CHANNELS,
    ColorNet,
    EditNet,
    GuideVariant,
    UNet,
    count_parameters,
)

__all__ = [
    "COLORNET_WIDTHS",
    "EDITNET_WIDTHS",
    "ENCODERS",
    "GUIDE_CHANNELS",
    "ColorNet",
    "Coloring",
    "EditNet",
    "Embedding",
    "Encoder",
    "EncoderName",
    "GuideHead",
    "GuideVariant",
    "SplitColorNet",
    "UNet",
    "count_parameters",
]
