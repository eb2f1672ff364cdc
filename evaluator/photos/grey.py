"""Measure of near-grey photos."""

import numpy as np
import torch
from jaxtyping import UInt8

from kernels.color import AB_SCALE, rgb_to_lab

NEAR_GREY_CHROMA = 5.0
"""A pixel is near grey below this chroma, sqrt(a*^2 + b*^2), in CIE Lab units: two just noticeable differences."""


def grey_share(rgb: UInt8[np.ndarray, "h w 3"], below_chroma: float = NEAR_GREY_CHROMA) -> float:
    """The share of a photo's pixels whose chroma sqrt(a*^2 + b*^2) is below a limit in CIE units."""
    pixels = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None]
    chroma = rgb_to_lab(pixels)[1].norm(dim=1) * AB_SCALE
    return (chroma < below_chroma).float().mean().item()
