"""LPIPS as a loss: the evaluator's network on RGB, where its weights can be had."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from evaluator.metrics.perceptual import WeightsUnavailable, load_lpips
from kernels.color import lab_to_rgb

PerceptualMode = Literal["off", "auto", "required"]
"""auto: where its weights can be had; required: or stop."""


@dataclass(frozen=True)
class Perceptual:
    """LPIPS (Zhang et al. 2018, version 0.1, AlexNet) between a coloring and the photo."""

    network: nn.Module

    def __call__(
        self,
        lightness: Float[Tensor, "b 1 h w"],
        predicted_ab: Float[Tensor, "b 2 h w"],
        rgb: UInt8[Tensor, "b 3 h w"],
    ) -> Float[Tensor, ""]:
        """Mean distance over the batch; both pictures are fed as RGB in [-1, 1]."""
        predicted = lab_to_rgb(lightness, predicted_ab) * 2 - 1
        truth = rgb.float() / 127.5 - 1
        return self.network(predicted, truth).mean()


def load_perceptual(mode: PerceptualMode, device: torch.device) -> tuple[Perceptual | None, str]:
    """LPIPS on `device`, and its status in a few words for the console and MLflow.

    The weights of AlexNet come from torch.hub's cache, or its download.

    Raises:
        ValueError: the mode is `required` and the weights cannot be had.
    """
    if mode == "off":
        return None, "off"
    try:
        network = load_lpips(download=True).to(device)
    except WeightsUnavailable as error:
        if mode == "required":
            raise ValueError(
                f"recipe.loss.perceptual is required, but AlexNet's weights cannot be had ({error}); "
                "put them into torch.hub's cache, or use auto or off"
            ) from error
        return None, f"unavailable: {error}"
    return Perceptual(network), "lpips 0.1, alex"
