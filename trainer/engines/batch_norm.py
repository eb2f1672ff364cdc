"""Batch-norm statistics over the micro-batches and processes of one step."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Statistics:
    """Buffers of a network during one step, in which each micro-batch of each process starts from the same ones.

    Batch norm normalises a photo by the photos around it, so the group that a photo is normalised with is a part
    of what is computed, like the loss. Here the group is the micro-batch: a step over 2 micro-batches on 1 process
    is then the step of 2 processes with 1 each, and neither is the step of one batch of twice the size. The
    running averages after a step are the mean of what each group alone would have left.
    """

    def __init__(self, network: nn.Module) -> None:
        self._buffers = list(network.buffers())
        self._before = [buffer.clone() for buffer in self._buffers]
        self._sums: list[Tensor] = []
        self._groups = 0

    def end_of_micro_batch(self) -> None:
        """Record the statistics after a micro-batch's backward pass and reset them to those before the step."""
        left = [buffer.clone() for buffer in self._floating()]
        self._sums = [total + one for total, one in zip(self._sums, left, strict=True)] if self._groups else left
        self._groups += 1
        self.restore()

    def restore(self) -> None:
        """Restore the statistics from before the step."""
        for buffer, before in zip(self._buffers, self._before, strict=True):
            buffer.copy_(before)

    def average(self, world_size: int) -> None:
        """Set the mean over all recorded micro-batches, the current one and all processes."""
        buffers = self._floating()
        if not buffers or (world_size == 1 and not self._groups):
            return
        flat = torch.cat([buffer.flatten() for buffer in buffers])
        if self._groups:
            flat += torch.cat([total.flatten() for total in self._sums])
        if world_size > 1:
            dist.all_reduce(flat)
        flat /= world_size * (self._groups + 1)
        for buffer, mean in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(mean.view_as(buffer))

    def _floating(self) -> list[Tensor]:
        return [buffer for buffer in self._buffers if buffer.is_floating_point()]
