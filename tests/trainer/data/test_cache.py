import errno
import hashlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaluator.photos.manifest import ShardEntry, ShardError
from trainer.data import cache as cache_module
from trainer.data.cache import ShardCache

PART = 1000
SIZE = 4500


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache_module, "PART", PART)


class Shard:
    """Bytes on a pretended server, which remembers what was asked for."""

    def __init__(self, seed: int) -> None:
        self.content = np.random.default_rng(seed).bytes(SIZE)
        digest = hashlib.sha256(self.content).hexdigest()
        self.entry = ShardEntry(f"{seed}.tar", SIZE, digest, (512,), (SIZE - 512,))
        self.asked: list[tuple[int, int]] = []

    def fetch(self, start: int, stop: int) -> bytes:
        self.asked.append((start, stop))
        return self.content[start:stop]

    def through(self, cache: ShardCache, start: int = 0, stop: int = SIZE) -> bytes:
        return cache.read(self.entry, "http://host/shard.tar", start, stop, self.fetch)


def kept_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*/*"))


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (999, 1001), (1000, 2000), (1500, 4200), (0, SIZE)])
def test_any_range_is_the_shard_s_and_comes_from_the_disk_the_second_time(tmp_path: Path, start: int, stop: int):
    shard = Shard(1)
    for _ in range(2):  # the second time as another process would see the folder
        cache = ShardCache(tmp_path, 10**6, [shard.entry])
        assert shard.through(cache, start, stop) == shard.content[start:stop]
        assert len(shard.asked) == 1


def test_only_missing_parts_are_asked_for_neighbors_together(tmp_path: Path):
    shard = Shard(1)
    cache = ShardCache(tmp_path, 10**6, [shard.entry])
    shard.through(cache, 2000, 2100)
    assert shard.through(cache) == shard.content
    assert shard.asked == [(2000, 3000), (0, 2000), (3000, 4500)]


def test_it_never_holds_more_than_its_limit_and_keeps_its_own_parts(tmp_path: Path):
    shards = [Shard(number) for number in range(4)]
    limit = 9 * PART
    caches = [ShardCache(tmp_path, limit, [shard.entry for shard in shards]) for _ in range(2)]
    for shard in shards:
        for cache in caches:
            assert shard.through(cache) == shard.content
            assert kept_bytes(tmp_path) <= limit
    first = len(shards[0].asked)
    assert shards[0].through(caches[0]) == shards[0].content
    assert len(shards[0].asked) == first  # what came first is still there


def test_another_training_s_parts_go_first_those_used_longest_ago(tmp_path: Path):
    old, used, own = Shard(1), Shard(2), Shard(3)
    before = ShardCache(tmp_path, 11 * PART, [old.entry, used.entry])
    old.through(before)
    used.through(before)
    for number, path in enumerate(sorted((tmp_path / old.entry.sha256).iterdir())):
        os.utime(path, (number, number))
    cache = ShardCache(tmp_path, 11 * PART, [own.entry])
    own.through(cache)
    assert kept_bytes(tmp_path) <= 11 * PART
    assert len(list((tmp_path / own.entry.sha256).iterdir())) == 5
    assert len(list((tmp_path / used.entry.sha256).iterdir())) == 5
    assert [path.name for path in sorted((tmp_path / old.entry.sha256).iterdir())] == ["000003", "000004"]


@pytest.mark.parametrize("damage", [lambda data: data[:500], lambda data: b"x" + data[1:], lambda data: b""])
def test_a_damaged_part_is_fetched_again(tmp_path: Path, damage: Callable[[bytes], bytes]):
    shard = Shard(1)
    shard.through(ShardCache(tmp_path, 10**6, [shard.entry]), 0, 2000)
    path = tmp_path / shard.entry.sha256 / "000001"
    path.write_bytes(damage(path.read_bytes()))
    assert shard.through(ShardCache(tmp_path, 10**6, [shard.entry]), 0, 2000) == shard.content[:2000]
    assert shard.asked[1:] == [(1000, 2000)]


def test_a_shard_that_is_not_its_manifest_s_is_named_and_thrown_out(tmp_path: Path):
    shard = Shard(1)
    shard.content = shard.content[:-1] + bytes([shard.content[-1] ^ 1])
    cache = ShardCache(tmp_path, 10**6, [shard.entry])
    shard.through(cache, 0, 4000)
    with pytest.raises(ShardError, match=r"http://host/shard\.tar: its sha256 is .* its manifest says"):
        shard.through(cache, 4000, SIZE)
    assert kept_bytes(tmp_path) == 0


def test_a_full_disk_is_said_once_and_reading_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def full(source: str, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    shard = Shard(1)
    cache = ShardCache(tmp_path, 10**6, [shard.entry])
    monkeypatch.setattr(os, "replace", full)
    with caplog.at_level(logging.WARNING):
        assert shard.through(cache) == shard.content
        assert shard.through(cache) == shard.content
    assert caplog.text.count("No space left on device") == 1
    assert kept_bytes(tmp_path) == 0


def test_a_full_folder_is_no_reason_to_ask_for_more_than_is_wanted(tmp_path: Path):
    shard = Shard(1)
    cache = ShardCache(tmp_path, 2 * PART, [shard.entry])  # room for one part and its checksum
    for start, stop in [(1100, 1900), (2100, 2200), (2300, 3300), (500, 4200), (1100, 1200), (1990, 2010)]:
        assert shard.through(cache, start, stop) == shard.content[start:stop]
    assert shard.asked[:2] == [(1000, 2000), (2000, 3000)]  # the second finds out that there is no room
    assert shard.asked[2:] == [(2300, 3300), (500, 1000), (2000, 4200), (2000, 2010)]


def test_what_a_killed_writer_left_is_taken_away_when_room_is_needed(tmp_path: Path):
    shard = Shard(1)
    leftover = tmp_path / shard.entry.sha256 / "part-abc"
    leftover.parent.mkdir()
    leftover.write_bytes(bytes(500))
    os.utime(leftover, (0, time.time() - 7200))
    ShardCache(tmp_path, 5 * PART, [shard.entry]).read(shard.entry, "http://host/1.tar", 0, SIZE, shard.fetch)
    assert not leftover.exists()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"data\.cache is .*file.*name a folder on a local disk"):
        ShardCache(tmp_path / "file" / "cache", 1, [])
