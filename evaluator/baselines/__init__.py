"""Colorizers without a network, as a lower bound for trained ones.

May import torch, numpy, scipy and kernels.

`BASELINES[name](lightness (B,1,H,W), clicks (B,3,H,W)) -> ab (B,2,H,W)`: any size, any number of clicks; a photo's
colors do not depend on the batch around it. `evaluator.registry.mlflow_registry.load_colorizer(name)` loads them
like a network.
"""

from evaluator.baselines.base import Baseline
from evaluator.baselines.kernel import Kernel
from evaluator.baselines.levin import Levin

BASELINES: dict[str, Baseline] = {baseline.name: baseline for baseline in (Kernel(), Levin())}
"""Every baseline with its defaults, by the name that `--colorizer` takes."""

__all__ = ["BASELINES", "Baseline", "Kernel", "Levin"]
