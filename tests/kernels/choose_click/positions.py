"""Where a test of the Triton kernels runs: under the interpreter by default, compiled with `-m gpu`."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.choose_click import use
from kernels.choose_click.cuda import block_size

SMALL = [(2, 1, 1), (2, 3, 5), (1, 17, 23)]
LARGE = [(7, 63, 100), (64, 64, 64), (1, 256, 256), (16, 256, 256), (2, 512, 512), (1, 1024, 1024), (300, 40, 50)]


def places(small: Any, large: Any) -> list[Any]:
    """Parameters ("cpu", one of small) and, marked `gpu`, ("cuda", one of large)."""
    compiled = [pytest.param("cuda", value, marks=pytest.mark.gpu, id=f"cuda-{value}") for value in large]
    return [*(pytest.param("cpu", value, id=f"cpu-{value}") for value in small), *compiled]


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@contextmanager
def triton_on(device: str, block: int | None = None) -> Iterator[None]:
    """Run the kernels on this device, with tiles of `block` pixels."""
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("the kernels are compiled here (a CUDA device is present); TRITON_INTERPRET=1 interprets them")
    with use(cpu="triton"):
        if block is None:
            yield
        else:
            with block_size(block):
                yield


def poison(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.empty` and its like, filled with NaN or the largest integer."""

    def empty(*args: Any, **kwargs: Any) -> Tensor:
        fresh = make(*args, **kwargs)
        if fresh.dtype == torch.bool:
            return fresh.fill_(True)
        return fresh.fill_(torch.nan if fresh.is_floating_point() else torch.iinfo(fresh.dtype).max)

    return empty
