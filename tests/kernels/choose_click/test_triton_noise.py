"""The kernels' noise against `kernels.noise`, whose words are those that Philox's authors publish."""

import pytest
import torch

from kernels.choose_click import cuda
from kernels.noise import gumbel, sample_keys
from tests.kernels.choose_click.positions import places, triton_on

pytestmark = pytest.mark.usefixtures("poisoned")
KEYS = [0, 1, (5 << 32) | 7, 2**63 - 1, -1]


@pytest.mark.parametrize(
    ("device", "count"), places([1, 3, 4, 129, 1030], [1, 3, 4, 129, 1030, 65536, 1024 * 1024 + 1])
)
@pytest.mark.parametrize(("stream", "draw"), [(0, 0), (1, 1), (2**31, 2), (2**32 - 1, 2**32 - 1)])
def test_noise_agrees_to_a_few_units_in_the_last_place(stream: int, draw: int, device: str, count: int):
    keys = torch.tensor(KEYS, device=device)
    with triton_on(device):
        found = cuda.gumbel(keys, stream, count, draw)
    # Near 0 the noise is the logarithm of a number near 1, exact to that number's last place.
    torch.testing.assert_close(found, gumbel(keys, stream, count, draw), rtol=1e-6, atol=5e-7)


@pytest.mark.parametrize(("device", "count"), places([2048], [1024 * 1024]))
def test_the_large_tail_is_as_exact(device: str, count: int):
    """Large noise decides an argmax: E there is small, and a logarithm of 1 - u alone would lose it."""
    keys = sample_keys(3, 0, 4, device)
    with triton_on(device):
        found = cuda.gumbel(keys, 0, count)
    expected = gumbel(keys, 0, count)
    tail = expected > expected.flatten().topk(20).values[-1]
    torch.testing.assert_close(found[tail], expected[tail], rtol=1e-6, atol=0.0)
    assert torch.equal(found.argmax(1), expected.argmax(1))
