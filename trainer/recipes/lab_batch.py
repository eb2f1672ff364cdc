"""From a uint8 batch to what the networks see, and the random clicks a photo starts with. All on the device."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from kernels.clicks import hint_colors, no_clicks, scatter_clicks
from kernels.color import photo_to_lab, rgb_to_lab
from kernels.noise import uniform

# Streams of a sample's noise (kernels.noise); interactions count up from GUMBEL.
FLIP, CLICK_COUNT, CLICK_PLACES, CLICK_SIZES, CELLS, TRIED, GUMBEL = 1, 2, 3, 4, 5, 6, 16
MEAN_CLICKS = 8.0
"""Of the geometric law."""

ClickLaw = Literal["uniform", "geometric"]
ToLab = Callable[[Tensor], tuple[Tensor, Tensor]]
"""`to_lab(rgb uint8 (B,3,H,W)) -> (lightness (B,1,H,W), ab (B,2,H,W))`."""


@dataclass(frozen=True)
class Scene:
    """A batch in Lab."""

    lightness: Float[Tensor, "b 1 h w"]
    """CIE L* / 100."""
    truth_ab: Float[Tensor, "b 2 h w"]
    """CIE a*, b* / 128."""
    rgb: UInt8[Tensor, "b 3 h w"]
    """The photos themselves, after the flip."""
    keys: Int64[Tensor, " b"]
    """Noise key of each sample, a function of its position in the training stream."""
    shared: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    """What one phase has worked out about these photos, for the phases after it on the same batch."""

    def __len__(self) -> int:
        """Photos in the batch."""
        return len(self.keys)

    def split(self, size: int) -> "list[Scene]":
        """Scenes of `size` photos each, in order; `size` divides their number. The same ones when asked again."""
        if size not in self.shared:
            tensors = (self.lightness, self.truth_ab, self.rgb, self.keys)
            parts = zip(*(tensor.split(size) for tensor in tensors), strict=True)
            self.shared[size] = [Scene(*part) for part in parts]
        return self.shared[size]


def lab_converter(*, compiled: bool) -> ToLab:
    """The conversion of a uint8 batch to `(lightness, ab)`; compiled, it is one pass over the pixels on a CPU."""
    return torch.compile(photo_to_lab, dynamic=False) if compiled else rgb_to_lab


def prepare_scene(rgb: UInt8[Tensor, "b 3 h w"], keys: Int64[Tensor, " b"], to_lab: ToLab = rgb_to_lab) -> Scene:
    """Flip half of the photos left to right (section 3.5) and convert to Lab."""
    flipped = uniform(keys, FLIP, 1).view(-1, 1, 1, 1) < 0.5
    rgb = torch.where(flipped, rgb.flip(-1), rgb)
    lightness, ab = to_lab(rgb)
    return Scene(lightness, ab, rgb, keys)


def random_clicks(
    scene: Scene, most: int, hint_sizes: tuple[int, int], law: ClickLaw = "uniform", number: int = 0
) -> Float[Tensor, "b 3 h w"]:
    """Click maps with 0 to `most` random clicks in each photo, in the true colors, at uniform places.

    Args:
        scene: the photos.
        most: largest number of clicks.
        hint_sizes: smallest and largest side of a click's patch in pixels; uniform between them.
        law: of the number of clicks, see `ClicksConfig.law`.
        number: of this set of clicks, where a photo has several.
    """
    height, width = scene.truth_ab.shape[-2:]
    clicks = no_clicks(scene.truth_ab)
    if most == 0:
        return clicks
    chance = uniform(scene.keys, CLICK_COUNT, 1, number)
    if law == "uniform":
        counts = (chance * (most + 1)).long()
    else:
        counts = (torch.log1p(-chance) / math.log(MEAN_CLICKS / (MEAN_CLICKS + 1))).long().clamp(max=most)
    # With replacement, as uniform places: two clicks on one pixel are one click, rare and harmless.
    places = (
        (uniform(scene.keys, CLICK_PLACES, most, number) * (height * width)).long().clamp(max=height * width - 1)
    )
    wanted = torch.arange(most, device=places.device) < counts
    low, high = hint_sizes
    sizes = low + (uniform(scene.keys, CLICK_SIZES, most, number) * (high - low + 1)).long().clamp(max=high - low)
    for size in range(low, high + 1):
        chosen = (wanted & (sizes == size)).float()
        selection = torch.zeros(len(scene), height * width, device=places.device)
        selection = selection.scatter_reduce_(1, places, chosen, reduce="amax").view(-1, height, width)
        placed = scatter_clicks(hint_colors(scene.truth_ab, size), selection, size)
        clicks = torch.where(placed[:, :1] > 0.5, placed, clicks)
    return clicks
