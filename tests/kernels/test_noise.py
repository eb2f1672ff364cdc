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


def test_noise_does_not_depend_on_the_batch_split():
    whole = gumbel(sample_keys(3, 100, 6), stream=2, count=50)
    parts = [gumbel(sample_keys(3, first, 2), stream=2, count=50) for first in (100, 102, 104)]
    assert torch.equal(whole, torch.cat(parts))


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
