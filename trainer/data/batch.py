"""What a source of training photos hands over."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from jaxtyping import UInt8
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One rank's part of a step."""

    rgb: UInt8[Tensor, "b 3 h w"]
    """Photos on the CPU, contiguous; flips and Lab come later, on the device."""
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    """Further members of the photos' samples by suffix, one row for each photo."""
    skipped: int = 0
    """Unreadable photos that were replaced since the batch before."""


@runtime_checkable
class Loader(Protocol):
    """An endless stream of equal batches whose order is a function of the seed and the position."""

    @property
    def samples_per_epoch(self) -> int:
        """Photos in one pass over the data, over all ranks."""
        ...

    @property
    def signature(self) -> Mapping[str, object]:
        """What the order depends on, as plain values; a training resumes only where all of it is the same."""
        ...

    def batches(self, images_seen: int) -> Iterator[Batch]:
        """This rank's batches from the position where all ranks together have seen `images_seen` photos."""
        ...

    def close(self) -> None:
        """Stop reader processes."""
        ...
