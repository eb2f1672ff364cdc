"""Sessions of photos under successive sets of clicks: what depends on the photos alone is computed once."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from evaluator.registry.contract import FEATURE_CELL
from evaluator.registry.networks import Colorizer, run_network
from kernels.color import AB_SCALE

MODE_DISTANCE = 15.0
"""Modes of a distribution over colors are at least so far apart, in CIE units of ab."""


@runtime_checkable
class SplitColorizer(Protocol):
    """Interface of a colorizer that encodes a photo once and decodes each set of clicks."""

    def __call__(self, lightness: Tensor, clicks: Tensor) -> Tensor:
        """Encode and decode at once."""
        ...

    def embed(self, lightness: Tensor) -> tuple[Tensor, ...]:
        """Encoding of the photos, independent of clicks; every tensor begins with the batch."""
        ...

    def color(self, embedding: Any, lightness: Tensor, clicks: Tensor) -> tuple[Tensor, Tensor]:
        """Ab, and features for guides that read them. One photo's embedding serves any number of click maps."""
        ...

    def distribution(self, cells: Tensor) -> Tensor:
        """Probability (n, bins) of each color of `bins`, from the features (n, c) of some cells."""
        ...

    @property
    def bins(self) -> Tensor:
        """Colors of the distribution's bins, (bins, 2), ab / 128."""
        ...


class Colored(NamedTuple):
    """Result of coloring photos under a set of clicks."""

    ab: Float[Tensor, "b 2 h w"]
    """float32."""
    features: Tensor | None
    """What guides that are heads of a split colorizer read, (b,c,h/4,w/4) of the padded photo; None for others."""


def modes(
    probability: Float[Tensor, "n bins"], bins: Float[Tensor, "bins 2"], count: int
) -> tuple[Float[Tensor, "n k 2"], Float[Tensor, "n k"]]:
    """The `count` likeliest colors of some distributions, `MODE_DISTANCE` apart, and their probabilities.

    Non-maximum suppression: the likeliest bin, then the likeliest of those that are not near it, and so on. Where
    none is left, the probability is 0.

    Args:
        probability: of each bin.
        bins: the colors, ab / 128.
        count: of the modes.
    """
    near = AB_SCALE * torch.cdist(bins, bins) < MODE_DISTANCE
    colors, shares = [], []
    for _ in range(count):
        share, best = probability.max(1)
        colors.append(bins[best])
        shares.append(share)
        probability = probability.masked_fill(near[best], 0.0)
    return torch.stack(colors, 1), torch.stack(shares, 1)


class PhotoSession:
    """A batch of photos held for one colorizer; itself callable as a colorizer."""

    def __init__(
        self, colorizer: Colorizer, lightness: Float[Tensor, "b 1 h w"], autocast: torch.dtype | None = None
    ) -> None:
        """Encode the photos.

        Args:
            colorizer: in evaluation mode, on the photos' device; a split one or any other.
            lightness: CIE L* / 100.
            autocast: dtype to run it in under autocast.

        Raises:
            ValueError: see `run_network`.
        """
        self._colorizer, self._lightness, self._autocast = colorizer, lightness, autocast
        self._split = colorizer if isinstance(colorizer, SplitColorizer) else None
        self._embedding: tuple[Tensor, ...] | None = None

    def look(self, clicks: Float[Tensor, "b 3 h w"]) -> Colored:
        """Colors and features for one set of clicks of each photo."""
        if self._split is None:
            return Colored(run_network(self._colorizer, self._lightness, clicks, autocast=self._autocast), None)
        ab, features = self._answer(self._embedded(), self._lightness, clicks)
        return Colored(ab, features)

    def rows(self, rows: Int64[Tensor, " n"], clicks: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 2 h w"]:
        """Colors for any number of click maps, each for the photo in the named row."""
        lightness = self._lightness[rows]
        if self._split is None:
            return run_network(self._colorizer, lightness, clicks, autocast=self._autocast)
        embedding = self._embedded()
        if len(self._lightness) > 1:
            kind = type(embedding)
            picked = [part[rows] for part in embedding]
            embedding = kind(*picked) if hasattr(embedding, "_fields") else kind(picked)
        return self._answer(embedding, lightness, clicks)[0]

    def likely_colors(
        self, features: Tensor, places: Int64[Tensor, "b c"], width: int, count: int
    ) -> tuple[Float[Tensor, "b c k 2"], Float[Tensor, "b c k"]] | None:
        """The `modes` of some pixels' colors, their shares summing to 1; None without a distribution.

        Args:
            features: from `look`.
            places: flat indices of pixels.
            width: of the photos in pixels.
            count: of the colors.
        """
        if self._split is None:
            return None
        cell = places // width // FEATURE_CELL * features.shape[-1] + places % width // FEATURE_CELL
        cells = features.flatten(2).gather(2, cell[:, None].expand(-1, features.shape[1], -1))
        probability = self._split.distribution(cells.transpose(1, 2).flatten(0, 1))
        colors, shares = modes(probability, self._split.bins, count)
        shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-9)
        return colors.unflatten(0, places.shape), shares.unflatten(0, places.shape)

    def __call__(self, lightness: Tensor, clicks: Tensor) -> Float[Tensor, "b 2 h w"]:
        """Colors; this session's own photos are not encoded again."""
        if lightness is self._lightness:
            return self.look(clicks).ab
        return run_network(self._colorizer, lightness, clicks, autocast=self._autocast)

    def _embedded(self) -> tuple[Tensor, ...]:
        if self._embedding is not None:
            return self._embedding
        assert self._split is not None
        found: tuple[Tensor, ...] = run_network(self._split.embed, self._lightness, autocast=self._autocast)
        self._embedding = found
        return found

    def _answer(self, embedding: tuple[Tensor, ...], lightness: Tensor, clicks: Tensor) -> tuple[Tensor, Tensor]:
        assert self._split is not None
        return run_network(self._split.color, embedding, lightness, clicks, autocast=self._autocast)
