"""How many CPU threads a process takes."""

import os

import torch

from kernels.benchmarking import usable_cores


def use_threads(threads: int) -> int:
    """Set this process's CPU threads; 0 takes the cores divided by the processes on this machine.

    `accelerate launch` sets OMP_NUM_THREADS=1 for CPU processes, which would leave the other cores idle.
    """
    if threads == 0:
        threads = max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    torch.set_num_threads(threads)
    return threads
