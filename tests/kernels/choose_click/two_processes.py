"""A small guide that learns where to click: one backward pass over a batch, in this process or in two.

Program, started by `torch.distributed.run`: writes the averaged gradients of rank 0 to the file it is given.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kernels.choose_click import choose_click
from kernels.noise import sample_keys

PHOTOS = 4
ESTIMATORS = ("argmax_ste", "gumbel_softmax_soft", "reinmax", "gumbel_rao", "reinforce")


class Guide(nn.Module):
    """Two convolutions as EditNet, and the click that they ask for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1))

    def forward(self, truth_ab: Tensor, keys: Tensor, estimator: str) -> Tensor:
        clicks = torch.zeros(len(truth_ab), 3, *truth_ab.shape[-2:])
        click = choose_click(
            self.layers(truth_ab)[:, 0], clicks, truth_ab, estimator=estimator, keys=keys, samples=2, hint_size=2
        )
        # Per photo, something that depends on every differentiable output.
        pull = (click.clicks[:, 1:] - truth_ab).square().mean((1, 2, 3))
        return pull + 0.1 * click.entropy + click.log_probability * 0.01 * (1 + click.choice)


def gradients(first: int, count: int, distributed: bool = False) -> dict[str, Tensor]:
    """For each estimator, of the mean loss of photos `first ... first + count - 1` of a stream."""
    generator = torch.Generator().manual_seed(1)
    truth = torch.rand(PHOTOS, 2, 6, 7, generator=generator)[first : first + count] * 2 - 1
    found = {}
    for estimator in ESTIMATORS:
        guide = Guide()
        module = DistributedDataParallel(guide) if distributed else guide
        module(truth, sample_keys(0, first, count), estimator).mean().backward()
        for name, parameter in guide.named_parameters():
            assert parameter.grad is not None
            found[f"{estimator} {name}"] = parameter.grad
    return found


def main() -> None:
    """One of the processes."""
    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    share = PHOTOS // world
    found = gradients(rank * share, share, distributed=True)
    if rank == 0:
        torch.save(found, Path(sys.argv[1]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
