"""LPIPS (Zhang et al. 2018, version 0.1, AlexNet) on whole batches, and the search for pretrained weights."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.error import URLError

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor, nn

from evaluator.metrics.base import require_side


class WeightsUnavailable(ValueError):
    """Raised when a metric's weights are not on this machine or cannot be read; says what to do."""


def weights_file(url: str) -> Path:
    """Path at which torch.hub keeps the file that it downloads from `url` (see the variable TORCH_HOME)."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def require_weights(network: str, url: str) -> Path:
    """File with a network's weights, which must exist; nothing is downloaded.

    Raises:
        WeightsUnavailable: it is not there, or it is not a plain file of tensors.
    """
    path = weights_file(url)
    if not path.is_file():
        raise WeightsUnavailable(f"the weights of {network} are not here; download {url} to {path}")
    try:
        # Tensors only, which the packages that load the same file do not insist on. On `meta` none is read.
        torch.load(path, map_location="meta", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise WeightsUnavailable(
            f"the weights of {network} in {path} cannot be read ({error}); delete that file"
        ) from error
    return path


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Context for running a network in float32: no autocast, and no TF32, which loses 10 bits in convolutions.

    That setting is the whole process', so it is left alone on a CPU, where several threads measure at once.
    """
    if device.type == "cpu":
        with torch.autocast(device.type, enabled=False):
            yield
        return
    # A module that replaces itself by an object when it is imported, which type checkers do not follow.
    convolutions = torch.backends.cudnn.conv  # pyright: ignore[reportAttributeAccessIssue]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        convolutions.fp32_precision = before


LPIPS_SIDE = 31
"""Smallest side of a photo that AlexNet's layers can take, in pixels."""
_loading = threading.Lock()


def load_lpips(*, download: bool = False) -> nn.Module:
    """LPIPS network of the package on the CPU, in evaluation mode, its parameters frozen.

    It takes two batches of RGB in [-1, 1], (b,3,h,w), and returns (b,1,1,1). The weights of AlexNet come from
    torch.hub's cache.

    Args:
        download: let torch.hub download weights (233 MiB) that are not in its cache.

    Raises:
        WeightsUnavailable: the weights cannot be had.
    """
    if weights_file(_url()).exists() or not download:
        require_weights("AlexNet, which LPIPS uses,", _url())
    import lpips

    try:
        with warnings.catch_warnings():
            # lpips 0.1.4 passes torchvision's old `pretrained` argument.
            warnings.filterwarnings("ignore", message=".*(pretrained|weight enum).*", category=UserWarning)
            network = lpips.LPIPS(net="alex", verbose=False)
    except (URLError, OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise WeightsUnavailable(str(error)) from error
    return network.eval().requires_grad_(False)


def unavailable() -> str | None:
    """Why LPIPS cannot be measured here; None if it can."""
    try:
        _network(torch.device("cpu"), weights_file(_url()))
    except WeightsUnavailable as error:
        return str(error)
    return None


@torch.no_grad()
def features(rgb: UInt8[Tensor, "b 3 h w"]) -> list[Tensor]:
    """Features of AlexNet's five layers for a picture in [-1, 1], with unit length at each pixel.

    Raises:
        WeightsUnavailable: AlexNet's weights are not here.
        ValueError: a side of the picture is below 31 pixels.
    """
    import lpips

    require_side("LPIPS", rgb, LPIPS_SIDE)
    network = _network(rgb.device, weights_file(_url()))
    with full_precision(rgb.device):
        layers = network.net(network.scaling_layer(rgb.float() / 127.5 - 1))
        return [lpips.normalize_tensor(layer) for layer in layers]


@torch.no_grad()
def lpips_distance(
    predicted_rgb: UInt8[Tensor, "b 3 h w"],
    truth_rgb: UInt8[Tensor, "b 3 h w"],
    of_truth: list[Tensor] | None = None,
) -> Float64[Tensor, " b"]:
    """LPIPS between two pictures, one per photo, at least 0; about 0.7 for pictures that have little in common.

    The value that `lpips.LPIPS(net="alex")` returns.

    Args:
        predicted_rgb: the coloring as it is shown.
        truth_rgb: the photo.
        of_truth: `features(truth_rgb)`, where they are known already; they are half of the work.

    Raises:
        WeightsUnavailable: AlexNet's weights are not here.
        ValueError: a side of the picture is below 31 pixels.
    """
    predicted, truth = features(predicted_rgb), of_truth or features(truth_rgb)
    network = _network(predicted_rgb.device, weights_file(_url()))
    distance = torch.zeros(len(predicted_rgb), dtype=torch.float64, device=predicted_rgb.device)
    with full_precision(predicted_rgb.device):
        for x, y, weighted in zip(predicted, truth, network.lins, strict=True):  # codespell:ignore lins
            distance += weighted((x - y).square()).flatten(1).mean(1, dtype=torch.float64)
    return distance


def _url() -> str:
    from torchvision.models import AlexNet_Weights

    return AlexNet_Weights.IMAGENET1K_V1.url


def _network(device: torch.device, weights: Path) -> Any:
    """Cached network per device and weights file (TORCH_HOME may change). The package states no types."""
    with _loading:  # threads that measure at once must not load it at once
        return _loaded(device, weights)


@cache
def _loaded(device: torch.device, weights: Path) -> Any:
    assert weights == weights_file(_url())
    return load_lpips().to(device)
