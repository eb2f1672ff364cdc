"""Processes, devices, precision and optimizer steps: the only package that uses accelerate and DeepSpeed.

cluster.py        the processes of a job, and which engine the launch asked for
engine.py         what every engine does and refuses; how networks are trained and borrowed
replicated.py     one process, or DDP over several
zero.py           DeepSpeed's ZeRO 0 to 3
zero_settings.py  what an accelerate launch says about DeepSpeed
batch_norm.py     batch norm over micro-batches and processes
"""

from trainer.engines.base import Engine, backward, borrow, share_gradients, train
from trainer.engines.cluster import Cluster, Verdict, resolve_precision

__all__ = ["Cluster", "Engine", "Verdict", "backward", "borrow", "resolve_precision", "share_gradients", "train"]
