"""The random crops that the networks are trained on.

"Random scaling of 20 pixels, random cropping" (thesis, 4.1.1): the short side becomes size + U{0 ... 20}, then a
size x size window is cut. Here the window is cut first, at the photo's own scale, and only the window is
resized: the same distribution of crops up to a pixel of rounding, for about half of the work.
"""

from jaxtyping import UInt8
from torch import Tensor

from evaluator.photos.decode import resized


def random_crop(
    rgb: UInt8[Tensor, "3 h w"], size: int, scale_jitter: int, draws: tuple[float, float, float]
) -> UInt8[Tensor, "3 size size"]:
    """A random window of a photo, `size` pixels square.

    Args:
        rgb: The photo; a short side below `size` is enlarged.
        size: Side of the result in pixels.
        scale_jitter: The photo's short side is scaled to `size` + 0 ... `scale_jitter` pixels.
        draws: Uniform numbers in [0, 1) for the scale, the row and the column.
    """
    height, width = rgb.shape[1:]
    short_side = min(height, width)
    side = max(1, round(short_side * size / (size + int(draws[0] * (scale_jitter + 1)))))
    top, left = int(draws[1] * (height - side + 1)), int(draws[2] * (width - side + 1))
    return resized(rgb[:, top : top + side, left : left + side], size)
