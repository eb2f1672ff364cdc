"""Base class of the baselines: name, settings and checked inputs."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Baseline(ABC):
    """A colorizer without a network; its fields are its settings."""

    name: ClassVar[str]
    revision: ClassVar[int] = 1
    """Raised whenever the same settings give other colors, so that a benchmark is not resumed across that."""

    @property
    def settings(self) -> dict[str, Any]:
        """All settings that decide the colors, as JSON values."""
        return {**asdict(self), "revision": self.revision}

    @torch.no_grad()
    def __call__(self, lightness: Tensor, clicks: Tensor) -> Float[Tensor, "b 2 h w"]:
        """Colors of photos, ab / 128 in [-1, 1], in float32 on the photos' device.

        Args:
            lightness: (B,1,H,W), CIE L* / 100, in [0, 1].
            clicks: (B,3,H,W), click map: mask in {0, 1}, then a, b where it is 1. Without a click a photo stays
                grey (zeros).

        Raises:
            ValueError: an input has another shape.
        """
        batch, height, width = len(lightness), *lightness.shape[-2:]
        for what, found, channels in (("lightness", lightness, 1), ("clicks", clicks, 3)):
            if tuple(found.shape) != (batch, channels, height, width):
                raise ValueError(
                    f"{self.name}: {what} has shape {tuple(found.shape)}; it must be (B, {channels}, H, W) with "
                    "the same B, H and W for both inputs"
                )
        ab = torch.zeros(batch, 2, height, width, device=lightness.device)
        for photo, hints, colors in zip(lightness.float(), clicks.float(), ab, strict=True):
            mask = hints[0] > 0.5
            if mask.any():
                colors.copy_(self.color(photo[0], mask, hints[1:]))
        return ab

    @abstractmethod
    def color(
        self, lightness: Float[Tensor, "h w"], mask: Bool[Tensor, "h w"], hints: Float[Tensor, "2 h w"]
    ) -> Float[Tensor, "2 h w"]:
        """Colors of one photo with at least one click; see `__call__`."""
