"""Small split networks and clicked photos for tests."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from trainer.networks import GuideHead, SplitColorNet
from trainer.networks.split import Part

Network = TypeVar("Network", bound=nn.Module)
PHOTO, CLICK, GUIDE = (8, 8, 8, 8), (8, 8, 8), (8, 8, 8)


def split_network(seed: int = 0, without: Sequence[Part] = (), *, untrained: bool = False) -> SplitColorNet:
    """A small colorizer in evaluation mode; unless it is to be untrained, every layer does something."""
    torch.manual_seed(seed)
    network = SplitColorNet("fresh", PHOTO, CLICK, without)
    return network.eval() if untrained else lively(network)


def guide_head(variant: str, seed: int = 1) -> GuideHead:
    """A guide on the features of `split_network`."""
    torch.manual_seed(seed)
    return lively(GuideHead(variant, PHOTO[0] + CLICK[0], GUIDE))  # pyright: ignore[reportArgumentType]: a variant


def lively(network: Network) -> Network:
    """Fill layers that begin with zeros, and give batch norms statistics, as a training would."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        for name, buffer in network.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(0.2 * torch.rand(buffer.shape, generator=generator))
    return network.eval()


def photos(batch: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth lightness, and true colors."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 5, 5, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)
    return smooth[:, :1].clamp(0, 1), (smooth[:, 1:] - 0.5).clamp(-0.9, 0.9)


def click_map(truth_ab: Tensor, count: int, seed: int = 0) -> Tensor:
    """`count` pixels of each photo in their true colors, drawn without replacement."""
    batch, _, height, width = truth_ab.shape
    generator = torch.Generator().manual_seed(100 + seed)
    noise = torch.rand(batch, height * width, generator=generator)
    mask = torch.zeros_like(noise).scatter_(1, noise.argsort(1)[:, :count], 1.0).view(batch, 1, height, width)
    return torch.cat([mask, mask * truth_ab], 1).to(truth_ab)
