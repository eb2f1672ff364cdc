"""The processes of one benchmark, as `accelerate launch` or `torchrun` start them, and what they tell each other.

They share a folder (`--out`) and a few small messages over gloo; every photo is measured by one of them alone.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
_PATIENCE = timedelta(days=7)
"""A rank may wait this long for slower ones; the launcher ends all when one of them dies."""


@dataclass(frozen=True)
class Ranks:
    """This process among all."""

    rank: int
    world_size: int
    local_rank: int = 0
    """Its place on this machine, which is its GPU's too."""
    local_world_size: int = 1

    @classmethod
    def start(cls) -> "Ranks":
        """Read the launcher's variables and meet the other processes; a process of its own is rank 0 of 1."""
        names = {"rank": "RANK", "world_size": "WORLD_SIZE", "local_rank": "LOCAL_RANK"}
        found = {field: int(os.environ.get(name, field == "world_size")) for field, name in names.items()}
        ranks = cls(**found, local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        if ranks.world_size > 1:
            dist.init_process_group("gloo", timeout=_PATIENCE)
        return ranks

    @property
    def is_main(self) -> bool:
        """Whether this process prints, merges and reports."""
        return self.rank == 0

    def from_main(self, work: Callable[[], T]) -> T:
        """What `work` returns on rank 0, on every rank.

        Raises:
            ValueError, OSError: what `work` raised, on rank 0.
            SystemExit: then, on the others, which need not say it again.
        """
        outcome: list[tuple[T | None, Exception | None]] = [(None, None)]
        if self.is_main:
            try:
                outcome = [(work(), None)]
            except (ValueError, OSError) as error:
                outcome = [(None, error)]
        if self.world_size > 1:
            dist.broadcast_object_list(outcome)
        value, error = outcome[0]
        if error is not None:
            raise error if self.is_main else SystemExit(2)
        return value  # pyright: ignore[reportReturnType]: None only where `work` returned it

    def mine(self, pieces: Sequence[T]) -> list[T]:
        """Every `world_size`-th piece: all ranks get photos from the whole set, and end at about the same time."""
        return list(pieces[self.rank :: self.world_size])

    def wait(self) -> None:
        """Until every rank is here."""
        if self.world_size > 1:
            dist.barrier()

    def close(self) -> None:
        """Leave the others; without it gloo may abort at exit."""
        if self.world_size > 1:
            dist.destroy_process_group()

    def device(self, wanted: str) -> torch.device:
        """The device to measure on.

        Args:
            wanted: "auto" is this rank's GPU where there is one and `ACCELERATE_USE_CPU` is not set, else the CPU.

        Raises:
            ValueError: no such device here.
        """
        on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
        if wanted == "auto":
            wanted = "cuda" if torch.cuda.is_available() and not on_cpu else "cpu"
        if wanted == "cuda":
            wanted = f"cuda:{self.local_rank}"
        try:
            device = torch.device(wanted)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"device is {wanted!r}: {reason}; use auto, cpu, or a GPU of this machine") from error
        return device
