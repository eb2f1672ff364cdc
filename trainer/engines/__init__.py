"""Processes, devices, precision and optimizer steps: the only package that uses accelerate and DeepSpeed.

cluster.py      the processes of a job, and which engine the launch asked for
launcher.py     what an accelerate launch says about precision and compiling
base.py         what every engine does and refuses; how networks are trained and borrowed
ddp.py          one process, or DDP over several
zero.py         DeepSpeed's ZeRO 0 to 3
zero_config.py  what an accelerate launch says about DeepSpeed
batch_norm.py   batch norm over micro-batches and processes
"""

from trainer.engines.base import Engine, backward, borrow, share_gradients, train
from trainer.engines.cluster import Cluster, Verdict, resolve_precision
from trainer.engines.launcher import as_launched

__all__ = [
    "Cluster",
    "Engine",
    "Verdict",
    "as_launched",
    "backward",
    "borrow",
    "resolve_precision",
    "share_gradients",
    "train",
]
