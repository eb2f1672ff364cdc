"""Philox against the published test vectors; distributions against scipy."""

import numpy as np
import pytest
import torch
from scipy import stats

from kernels.noise import fold, gumbel, philox, random_words, sample_keys, uniform

ONES = 0xFFFFFFFF
# Counter, key, output of Philox4x32-10: the known answers that its authors publish with Random123.
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([ONES] * 4, [ONES] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_published_words(counter: list[int], key: list[int], expected: list[int]):
    k0, k1 = (torch.tensor([word]) for word in key)
    c0, c1, c2, c3 = (torch.tensor([word]) for word in counter)
    assert [int(word) for word in philox((k0, k1), (c0, c1, c2, c3))] == expected


def test_words_follow_the_documented_counters():
    key = torch.tensor([(5 << 32) | 7])
    words = random_words(key, stream=9, count=7)
    zero = torch.zeros(1, dtype=torch.int64)
    second = philox((torch.tensor([7]), torch.tensor([5])), (zero + 1, zero + 9, zero, zero))
    assert words[0, 4:].tolist() == [int(word) for word in second[:3]]


def words_by_numpy(key: int, stream: int, count: int, draw: int) -> np.ndarray:
    """The generator as its paper writes it, in unsigned arithmetic."""
    low = np.uint64(0xFFFFFFFF)
    k0, k1 = np.uint64(key & ONES), np.uint64((key >> 32) & ONES)
    c0 = np.arange((count + 3) // 4, dtype=np.uint64)
    c1, c2, c3 = (np.full_like(c0, word) for word in (stream, draw, 0))
    for _ in range(10):
        first, second = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (second >> 32) ^ c1 ^ k0, second & low, (first >> 32) ^ c3 ^ k1, first & low
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    return np.stack((c0, c1, c2, c3), axis=-1).reshape(-1)[:count]


@pytest.mark.parametrize("count", [1, 3, 4, 50, 4099])
@pytest.mark.parametrize(("stream", "draw"), [(0, 0), (7, 3), (ONES, ONES)])
def test_words_agree_with_unsigned_arithmetic(count: int, stream: int, draw: int):
    keys = [0, 1, 2**63 - 1, -1, -(2**63), fold(3, 4)]
    words = random_words(torch.tensor(keys), stream, count, draw)
    expected = np.stack([words_by_numpy(key, stream, count, draw) for key in keys])
    np.testing.assert_array_equal(words.numpy().astype(np.uint64), expected)


@pytest.mark.parametrize("count", [50, 65537])
def test_noise_does_not_depend_on_the_batch_split(count: int):
    """The longer rows are also computed in several turns."""
    whole = gumbel(sample_keys(3, 100, 6), stream=2, count=count)
    parts = [gumbel(sample_keys(3, first, 2), stream=2, count=count) for first in (100, 102, 104)]
    assert torch.equal(whole, torch.cat(parts))


def test_no_keys_give_no_noise():
    assert gumbel(sample_keys(0, 0, 0), stream=2, count=5).shape == (0, 5)


class _Noise(torch.nn.Module):
    def forward(self, keys: torch.Tensor) -> torch.Tensor:
        return gumbel(keys, 2, 50)


def test_callers_export_with_any_batch_size():
    dynamic = {"keys": {0: torch.export.Dim("batch")}}
    graph = torch.export.export(_Noise(), (sample_keys(0, 0, 3),), dynamic_shapes=dynamic).module()
    keys = sample_keys(5, 0, 40)
    assert torch.equal(graph(keys), gumbel(keys, 2, 50))


def test_keys_streams_and_draws_give_unrelated_noise():
    keys = sample_keys(0, 0, 2)
    a, b = uniform(keys, 0, 4096)
    c = uniform(keys, 1, 4096)[0]
    d = uniform(keys, 0, 4096, draw=1)[0]
    for x, y in ((a, b), (a, c), (a, d), (c, d), (a[:-1], a[1:])):
        assert abs(np.corrcoef(x, y)[0, 1]) < 4 / np.sqrt(4095)


def test_uniform_stays_inside_and_is_uniform():
    values = uniform(sample_keys(0, 0, 16), 0, 65536)
    assert values.min() > 0
    assert values.max() < 1
    assert stats.kstest(values.flatten()[::16].numpy(), "uniform").pvalue > 1e-3


def test_the_largest_words_stay_below_one():
    key, count = torch.tensor([0]), 4
    assert uniform(key, 0, count).max() < 1
    extreme = ((torch.tensor([float(ONES)]) + 0.5) * 2.0**-32).clamp_(max=1 - 2.0**-24)
    assert torch.isfinite(-torch.log(-torch.log1p(-extreme))).all()


def test_gumbel_has_its_distribution_and_no_infinities():
    values = gumbel(sample_keys(1, 0, 16), 5, 65536).flatten()
    assert torch.isfinite(values).all()
    assert stats.kstest(values[::16].numpy(), "gumbel_r").pvalue > 1e-3


def test_the_argmax_of_log_weights_plus_gumbel_samples_the_weights():
    weights = torch.tensor([0.5, 0.3, 0.15, 0.05])
    noise = gumbel(sample_keys(2, 0, 20000), 0, 4)
    counts = (weights.log() + noise).argmax(1).bincount(minlength=4)
    assert stats.chisquare(counts.numpy(), 20000 * weights.numpy()).pvalue > 1e-3


def test_fold_keeps_order_and_sign_apart():
    keys = {fold(a, b) for a in range(-3, 30) for b in range(30)}
    assert len(keys) == 33 * 30
    assert all(0 <= key < 2**63 for key in keys)
    assert fold(1, 2) != fold(2, 1)
