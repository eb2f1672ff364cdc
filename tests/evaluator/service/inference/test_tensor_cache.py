"""Tensors that are kept within a bound of memory."""

import pytest
import torch
from torch import Tensor

from evaluator.service.inference.tensor_cache import TensorCache

KIB = torch.zeros(256)
"""1024 bytes."""


def test_those_that_were_not_used_for_longest_leave():
    cache: TensorCache[tuple[Tensor, ...]] = TensorCache(3 * 1024)
    for name in "abc":
        cache.put(name, (KIB,))
    assert cache.get("a") == (KIB,)
    cache.put("d", (KIB, torch.zeros(0)))
    assert [name for name in "abcd" if cache.get(name)] == ["a", "c", "d"]
    assert (len(cache), cache.bytes) == (3, 3 * 1024)
    cache.put("e", (KIB, KIB))
    assert (len(cache), cache.bytes) == (2, 3 * 1024)


def test_a_value_takes_the_place_of_another_and_may_hold_other_things():
    cache: TensorCache[tuple[Tensor | None, ...]] = TensorCache(4096)
    cache.put("a", (KIB, KIB))
    cache.put("a", (KIB, None))
    assert cache.bytes == 1024
    cache.put("b", (KIB,))
    cache.forget(lambda key: key == "a")
    assert (cache.get("a"), cache.bytes) == (None, 1024)


def test_what_is_larger_than_the_cache_is_not_kept():
    cache: TensorCache[tuple[Tensor, ...]] = TensorCache(1000)
    cache.put("a", (KIB,))
    assert (cache.get("a"), cache.bytes) == (None, 0)
    with pytest.raises(ValueError, match="max_bytes is -1"):
        TensorCache(-1)
