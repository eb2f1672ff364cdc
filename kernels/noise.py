"""Counter-based noise: every number is a pure function of (key, stream, position).

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), computed with int64
tensors. The same numbers come out on every device, for every batch split and number of processes, so a run
can be resumed or repeated without any generator state. Triton's `tl.philox` computes the same function.
"""

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

_LOW32 = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LARGEST_BELOW_ONE = 1.0 - 2.0**-24
_MASK64 = (1 << 64) - 1


def fold(*parts: int) -> int:
    """Mix integers (a seed, a purpose, a position...) into one non-negative 63-bit key.

    Each part passes through the finaliser of SplitMix64 (Steele et al., OOPSLA 2014), so neighbouring parts
    give unrelated keys and their order matters.
    """
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) & _MASK64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
        state ^= state >> 31
    return state >> 1


def sample_keys(
    seed: int, first: int, count: int, device: torch.device | str | None = None
) -> Int64[Tensor, " b"]:
    """One key for each of the samples `first ... first + count - 1` of a stream that `seed` names."""
    return torch.tensor(
        [fold(seed, index) for index in range(first, first + count)], dtype=torch.int64, device=device
    )


def philox(
    key: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four 32-bit words of key and counter, held in broadcastable int64 tensors, to four words."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(_ROUNDS):
        # int64 products wrap, but their 64 bits are those of the unsigned product.
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        high0, high1 = (product0 >> 32) & _LOW32, (product1 >> 32) & _LOW32
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, product1 & _LOW32, high0 ^ c3 ^ k1, product0 & _LOW32
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW32, (k1 + _KEY_STEPS[1]) & _LOW32
    return c0, c1, c2, c3


def random_words(keys: Int64[Tensor, " b"], stream: int, count: int, draw: int = 0) -> Int64[Tensor, "b count"]:
    """`count` 32-bit words for each key. Word 4n + j is output j of counter (n, stream, draw, 0).

    Raises:
        ValueError: stream or draw does not fit in 32 bits.
    """
    for name, value in (("stream", stream), ("draw", draw)):
        if not 0 <= value <= _LOW32:
            raise ValueError(f"{name} is {value}; it must fit in 32 bits")
    blocks = torch.arange((count + 3) // 4, dtype=torch.int64, device=keys.device)[None]
    zero = torch.zeros_like(blocks)
    key = (keys[:, None] & _LOW32, (keys[:, None] >> 32) & _LOW32)
    words = torch.stack(philox(key, (blocks, zero + stream, zero + draw, zero)), dim=-1)
    return words.flatten(1)[:, :count]


def uniform(keys: Int64[Tensor, " b"], stream: int, count: int, draw: int = 0) -> Float32[Tensor, "b count"]:
    """Uniform numbers in the open interval (0, 1), `count` for each key; `draw` numbers repeated draws.

    The resolution is 2**-32 near 0 and 2**-24 near 1, so the logarithm of neither end is infinite.
    """
    words = random_words(keys, stream, count, draw).float()
    return ((words + 0.5) * 2.0**-32).clamp_(max=_LARGEST_BELOW_ONE)


def gumbel(keys: Int64[Tensor, " b"], stream: int, count: int, draw: int = 0) -> Float32[Tensor, "b count"]:
    """Standard Gumbel noise, -log(E) with E ~ Exp(1), between about -2.9 and 22.9.

    E is -log1p(-u): the fine end of `uniform` is where E is small and the noise large, which decides an
    argmax over many pixels.
    """
    return -torch.log(-torch.log1p(-uniform(keys, stream, count, draw)))
