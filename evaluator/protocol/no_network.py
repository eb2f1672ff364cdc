"""The ruler that every table shows: the same random clicks, protocol and photos, without a network.

It is the kernel (`evaluator.baselines.Kernel`) under the baseline's clicks. A colorizer below it has not learned
to use clicks. It judges no champion: `promote` compares networks with networks.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from evaluator.baselines import Kernel
from evaluator.metrics import DEFAULT
from evaluator.policies import RandomPolicy
from evaluator.protocol.evaluate import evaluate
from evaluator.protocol.results import RULER, Protocol, Results
from evaluator.registry.networks import Colorizer


def measure_ruler(
    photos: UInt8[Tensor, "n 3 h w"],
    protocol: Protocol,
    device: torch.device | str = "cpu",
    *,
    colorizer: Colorizer | None = None,
    first_index: int = 0,
    metrics: Sequence[str] = DEFAULT,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Results:
    """The policy `RULER` on these photos, for `Results.beside`; never under autocast. See `evaluate`.

    Args:
        photos: as in `evaluate`.
        protocol: as in `evaluate`.
        device: as in `evaluate`.
        colorizer: the kernel where it is loaded already.
        first_index: as in `evaluate`.
        metrics: as in `evaluate`.
        on_progress: as in `evaluate`.
    """
    return evaluate(
        colorizer or Kernel(),
        {RULER: RandomPolicy()},
        photos,
        protocol,
        device,
        first_index=first_index,
        metrics=metrics,
        on_progress=on_progress,
    )
