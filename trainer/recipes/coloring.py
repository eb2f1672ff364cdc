"""A colorizer at work on a batch of photos, one set of clicks after another, in a recipe's loss."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor

from trainer.networks.split import Training


@dataclass(frozen=True)
class Colored:
    """A batch under one set of clicks."""

    ab: Float[Tensor, "b 2 h w"]
    """float32."""
    features: Float[Tensor, "b c h4 w4"] | None = None
    """What guide heads read, without gradient; None where there are none."""
    training: Training | None = None
    """What more the split network's losses look at; None unless asked for."""

    def detach(self) -> "Colored":
        """The same without gradient."""
        return replace(self, ab=self.ab.detach())


class Colorizing:
    """Colors photos again and again; the split network looks at each of them once."""

    def __init__(
        self, network: Callable[..., Any], lightness: Float[Tensor, "b 1 h w"], *, split: bool, features: bool
    ) -> None:
        """Look at the photos.

        Args:
            network: an engine, or a borrowed module.
            lightness: CIE L* / 100.
            split: whether it is a split network.
            features: whether guides read its features.
        """
        self._network, self._lightness = network, lightness
        self._split, self._reads = split, features
        self._embedding = network(lightness) if self._split else None

    def __call__(self, clicks: Float[Tensor, "b 3 h w"], places: Int64[Tensor, "b n"] | None = None) -> Colored:
        """Colors for these clicks.

        Args:
            clicks: mask and ab.
            places: cells whose color distribution is wanted, of the split network.
        """
        if not self._split:
            return Colored(self._network(self._lightness, clicks).float())
        if places is not None:
            found = self._network(self._lightness, clicks, self._embedding, places=places)
            return Colored(found.ab.float(), training=found)
        found = self._network(self._lightness, clicks, self._embedding, features=self._reads)
        if not self._reads:
            return Colored(found.float())
        return Colored(found.ab.float(), found.features.detach())
