"""Counter-based random numbers: each is a pure function of (key, stream, position).

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), computed with int64
tensors. The same numbers come out on every device, for every batch split and number of processes, so a run
can be resumed or repeated without any generator state. Triton's `tl.philox` computes the same function.
"""

import math

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

_LOW32 = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LARGEST_BELOW_ONE = 1.0 - 2.0**-24
_MASK64 = (1 << 64) - 1
_CACHED_BLOCKS = 2**16
"""Counters that one CPU thread takes through all rounds before the next ones: 0.5 MiB for each of five words."""


def fold(*parts: int) -> int:
    """Mix integers (a seed, a purpose, a position...) into one non-negative 63-bit key.

    Each part passes through the finaliser of SplitMix64 (Steele et al., OOPSLA 2014), so neighboring parts
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
    """Keys of the samples `first ... first + count - 1` of a stream named by `seed`."""
    return torch.tensor(
        [fold(seed, index) for index in range(first, first + count)], dtype=torch.int64, device=device
    )


def philox(
    key: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 on broadcastable int64 tensors of 32-bit words: four output words."""
    shape = torch.broadcast_shapes(*(word.shape for word in (*key, *counter)))
    c0, c1, c2, c3 = (word.expand(shape).clone(memory_format=torch.contiguous_format) for word in counter)
    spare = torch.empty_like(c0)
    for k0, k1 in zip(*map(_round_keys, key, _KEY_STEPS), strict=True):
        # int64 products wrap, but their 64 bits are those of the unsigned product. Only a factor must be free of
        # bits above the lower 32: the products become c1 and c3 as they are, and are cleaned a round later.
        c0.mul_(_MULTIPLIERS[0])
        c2.mul_(_MULTIPLIERS[1])
        high = torch.bitwise_right_shift(c2, 32, out=spare)
        c1.bitwise_xor_(high).bitwise_xor_(k0).bitwise_and_(_LOW32)
        high = torch.bitwise_right_shift(c0, 32, out=spare)
        c3.bitwise_xor_(high).bitwise_xor_(k1).bitwise_and_(_LOW32)
        c0, c1, c2, c3 = c1, c2, c3, c0
    return c0, c1.bitwise_and_(_LOW32), c2, c3.bitwise_and_(_LOW32)


def _round_keys(word: Tensor, step: int) -> tuple[Tensor, ...]:
    """One key word for each round."""
    rounds = torch.arange(_ROUNDS, dtype=torch.int64, device=word.device).view(-1, *[1] * word.ndim)
    return (rounds * step + word).bitwise_and_(_LOW32).unbind()


def random_words(keys: Int64[Tensor, " b"], stream: int, count: int, draw: int = 0) -> Int64[Tensor, "b count"]:
    """`count` 32-bit words for each key. Word 4n + j is output j of counter (n, stream, draw, 0).

    Raises:
        ValueError: stream or draw does not fit in 32 bits.
    """
    return _words(keys, stream, count, draw, torch.int64)


def _words(keys: Tensor, stream: int, count: int, draw: int, dtype: torch.dtype) -> Tensor:
    """`random_words` as contiguous numbers of `dtype`."""
    for name, value in (("stream", stream), ("draw", draw)):
        if not 0 <= value <= _LOW32:
            raise ValueError(f"{name} is {value}; it must fit in 32 bits")
    blocks = torch.arange((count + 3) // 4, dtype=torch.int64, device=keys.device)[None]
    c1, c2, c3 = (blocks.new_full((1, 1), word) for word in (stream, draw, 0))
    words = torch.empty(*keys.shape, blocks.shape[1], 4, dtype=dtype, device=keys.device)
    for part, filled in _turns(keys[:, None], words):
        outputs = philox((part & _LOW32, (part >> 32) & _LOW32), (blocks, c1, c2, c3))
        for place, output in zip(filled.unbind(-1), outputs, strict=True):
            place.copy_(output)
    return words.flatten(1)[:, :count].contiguous()


def _turns(keys: Tensor, words: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Chunks of keys (b,1) and of the memory for their words (b,n,4), computed one after another.

    On a CPU a part stays in the caches through all passes of `philox`. A traced graph takes batches of any size.
    """
    if keys.device.type != "cpu" or torch.compiler.is_compiling():
        return [(keys, words)]
    rows = max(1, _CACHED_BLOCKS * torch.get_num_threads() // max(1, words.shape[1]))
    return list(zip(keys.split(rows), words.split(rows), strict=True))


def uniform(keys: Int64[Tensor, " b"], stream: int, count: int, draw: int = 0) -> Float32[Tensor, "b count"]:
    """Uniform numbers in the open interval (0, 1), `count` for each key; `draw` numbers repeated draws.

    The resolution is 2**-32 near 0 and 2**-24 near 1, so the logarithm of neither end is infinite.
    """
    words = _words(keys, stream, count, draw, torch.float32)
    return words.add_(0.5).mul_(2.0**-32).clamp_(max=_LARGEST_BELOW_ONE)


def gumbel(keys: Int64[Tensor, " b"], stream: int, count: int, draw: int = 0) -> Float32[Tensor, "b count"]:
    """Standard Gumbel noise, -log(E) with E ~ Exp(1), between about -2.9 and 22.9.

    E is -log1p(-u): the fine end of `uniform` is where E is small and the noise large, which decides an
    argmax over many pixels.
    """
    return uniform(keys, stream, count, draw).neg_().log1p_().neg_().log_().neg_()


def box_muller(numbers: Float[Tensor, "*n 2"]) -> Float64[Tensor, "*n 2"]:
    """Pairs of independent standard normal numbers from pairs of uniform ones (Box and Muller 1958).

    In float64, so that devices whose logarithms differ in the last bit round to the same pixel.
    """
    first, second = numbers.double().unbind(-1)
    radius, angle = first.log().mul(-2).sqrt(), 2 * math.pi * second
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
