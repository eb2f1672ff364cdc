"""How much of a photo is near grey."""

import numpy as np
import torch
from PIL import Image

from kernels.color import AB_SCALE, rgb_to_lab


def grey_share(image: Image.Image, below_chroma: float) -> float:
    """The share of an RGB image's pixels whose chroma sqrt(a*^2 + b*^2) is below a limit in CIE units."""
    rgb = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    chroma = rgb_to_lab(rgb)[1].norm(dim=1) * AB_SCALE
    return (chroma < below_chroma).float().mean().item()
