"""FID (Heusel et al. 2017): distance between the feature distributions of colorings and originals.

The features are the 2048 pooled ones of TensorFlow's Inception v3 in torch-fidelity's port, which also scales
pictures to 299 px as the original does, so that values can be held against published ones. FID belongs to a set:
it has no value per photo, and no interval from one run. Its bias falls with the number of photos: compare sets of
the same size only, and read absolute values only with some 10,000 photos.

The extra `chromaclick[fid]` brings the package. Nothing is downloaded here; `unavailable` says what is missing.
"""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from evaluator.metrics.perceptual import WeightsUnavailable, full_precision, require_weights

Network = Callable[[Tensor], Tensor]
"""uint8 RGB (b,3,h,w) to features (b,k)."""


def unavailable() -> str | None:
    """Why FID cannot be measured here; None if it can."""
    try:
        _weights()
    except WeightsUnavailable as error:
        return str(error)
    return None


class Fid:
    """Accumulator of features of originals and colorings, as float64 sums.

    Memory does not grow with the number of photos: 64 MiB with Inception's features.
    """

    def __init__(self, device: torch.device | str = "cpu", network: Network | None = None):
        """Load the network.

        Args:
            device: where photos will lie.
            network: another one than Inception, on that device.

        Raises:
            WeightsUnavailable: the package or Inception's weights are not on this machine.
        """
        self.device = torch.device(device)
        self._network = network or _inception(self.device)
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, truth_rgb: UInt8[Tensor, "b 3 h w"], predicted_rgb: UInt8[Tensor, "b 3 h w"]) -> None:
        """Add a batch of originals and their displayed colorings."""
        for kind, rgb in (("truth", truth_rgb), ("predicted", predicted_rgb)):
            with full_precision(self.device):
                features = self._network(rgb).double()
                sums = {"sum": features.sum(0), "products": features.mT @ features}
            self.add({f"{kind} {name}": value for name, value in sums.items()})
        self.add({"photos": torch.tensor(len(truth_rgb), device=self.device)})

    def sums(self) -> dict[str, Tensor]:
        """Accumulated sums on the CPU, additive so that parts can be stored and joined; empty at first."""
        return {name: value.cpu() for name, value in self._sums.items()}

    def add(self, sums: Mapping[str, Tensor]) -> None:
        """Add the sums of another `Fid`."""
        for name, value in sums.items():
            value = value.to(self.device)
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def compute(self) -> float:
        """The distance, at least 0; smaller is better. NaN for fewer than two photos."""
        photos = int(self._sums.get("photos", 0))
        if photos < 2:
            return math.nan
        gaussians = [
            _gaussian(self._sums[f"{kind} sum"], self._sums[f"{kind} products"], photos)
            for kind in ("truth", "predicted")
        ]
        return _frechet_distance(*gaussians[0], *gaussians[1])


def _gaussian(total: Tensor, products: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean and unbiased covariance."""
    mean = total / count
    return mean, (products - count * torch.outer(mean, mean)) / (count - 1)


def _frechet_distance(
    mean_1: Float64[Tensor, " k"],
    covariance_1: Float64[Tensor, "k k"],
    mean_2: Float64[Tensor, " k"],
    covariance_2: Float64[Tensor, "k k"],
) -> float:
    """Squared Wasserstein-2 distance of two Gaussians (Dowson and Landau 1982).

    The trace of (C1 C2)^(1/2) is that of (R C2 R)^(1/2) with R = C1^(1/2), which is symmetric: its roots are real
    and its eigenvalues exact to rounding, also where few photos make the covariances singular.
    """
    values, vectors = torch.linalg.eigh(covariance_1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.mT
    overlap = torch.linalg.eigvalsh(root @ covariance_2 @ root).clamp(min=0).sqrt().sum()
    apart = (mean_1 - mean_2).square().sum()
    return max(0.0, float(apart + covariance_1.trace() + covariance_2.trace() - 2 * overlap))


def _weights() -> str:
    """Path of Inception's weights. Raises WeightsUnavailable."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
    except ImportError as error:
        raise WeightsUnavailable(f"FID needs torch-fidelity ({error}); pip install 'chromaclick[fid]'") from error
    return str(require_weights("Inception v3, which FID uses,", URL_INCEPTION_V3))


def _inception(device: torch.device) -> Network:
    weights = _weights()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    extractor = FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=weights
    ).to(device)
    return lambda rgb: extractor(rgb)[0]
