"""As many photos at once as there are cores, one on each: no thread waits for another one within a network."""

import torch
from torch import Tensor, nn

from evaluator.service.inference.converted import Loaded, OnnxGraph, with_graph
from evaluator.system.threads import one_core_pool


class SideBySide(nn.Module):
    """Calls a graph photo by photo: each on one core where they occupy all cores, else each with all threads."""

    def __init__(self, graph: nn.Module, threads: int) -> None:
        """Make the threads, and what they call.

        Args:
            graph: takes batches, the photos along the first dimension; several threads may call it.
            threads: photos at the same time.
        """
        super().__init__()
        self._threads = threads
        self._alone = graph
        self._single = graph.on_one_core() if isinstance(graph, OnnxGraph) else graph
        self._pool = one_core_pool(threads, "photo")

    def forward(self, *inputs: Tensor) -> Tensor:
        """The graph's output."""
        photos = list(zip(*(x.split(1) for x in inputs), strict=True))
        if len(photos) < self._threads:
            return torch.cat([self._alone(*photo) for photo in photos])
        return torch.cat(list(self._pool.map(self._one, photos)))

    @torch.no_grad()  # of its thread
    def _one(self, inputs: tuple[Tensor, ...]) -> Tensor:
        return self._single(*inputs)


def side_by_side(network: Loaded, threads: int) -> Loaded:
    """The network with `SideBySide` in front of its graph."""
    return with_graph(network, SideBySide(network._graph, threads))
