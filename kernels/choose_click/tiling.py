"""Tiling of a batch into Triton programs: a pure function, testable without a GPU."""

from dataclasses import dataclass

LARGEST_BLOCK, SMALLEST_BLOCK = 4096, 1024
"""Pixels per program. A row up to the largest block is one program's work."""
PROGRAMS_PER_PROCESSOR = 4
"""Enough to hide the memory's latency; with fewer, rows are cut finer."""


@dataclass(frozen=True)
class Plan:
    """A tiling: each photo is cut into `tiles` tiles of `block` pixels, the last one partly empty."""

    block: int
    """A power of two."""
    tiles: int

    @property
    def single(self) -> bool:
        """Whether one program handles a whole photo, so that no tiles have to be combined."""
        return self.tiles == 1

    @property
    def warps(self) -> int:
        """Warps per program: 8 to 16 pixels for each thread, at most eight warps."""
        return min(8, max(1, self.block // 256))


def make_plan(batch: int, pixels: int, processors: int) -> Plan:
    """The tiling with the largest blocks that still give each of the GPU's `processors` enough programs.

    Small photos are one tile. Otherwise blocks shrink from 4096 to 1024 pixels until there are four programs for
    each streaming multiprocessor, so that a single photo is spread over the GPU too.
    """
    if pixels <= LARGEST_BLOCK:
        return Plan(power_of_two(pixels), 1)
    block = LARGEST_BLOCK
    while block > SMALLEST_BLOCK and batch * -(-pixels // block) < PROGRAMS_PER_PROCESSOR * processors:
        block //= 2
    return Plan(block, -(-pixels // block))


def cut(pixels: int, block: int) -> Plan:
    """The tiling with this block size."""
    return Plan(block, -(-pixels // block))


def power_of_two(count: int) -> int:
    """The smallest power of two that is at least `count`, and at least 4 (the noise comes in fours)."""
    return max(4, 1 << (count - 1).bit_length())
