"""`--data.order stream`: any tars through webdataset's pipeline."""

import io
import tarfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch

from evaluator.photos.manifest import ShardError
from tests.conftest import plain_jpeg
from trainer.config import DataConfig
from trainer.data.batch import Batch
from trainer.data.loader import ShardLoader, open_loader
from trainer.data.stream import StreamLoader


def tar(path: Path, numbers: range, packed: str = "", name: str = "{:09d}", cut: tuple[int, ...] = ()) -> Path:
    """A tar as img2dataset writes it: photo, caption and metadata of each sample."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, f"w:{packed}") as file:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for number in numbers:
            photo = plain_jpeg(number)
            members = {"jpg": photo[:200] if number in cut else photo, "json": b"{}", "txt": b"a caption"}
            for suffix, data in members.items():
                header = tarfile.TarInfo(f"{name.format(number)}.{suffix}")
                header.size = len(data)
                file.addfile(header, io.BytesIO(data))
    return path


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Four tars of 10 photos each, without a manifest."""
    for number in range(4):
        tar(tmp_path / "set" / f"{number:05d}.tar", range(10 * number, 10 * number + 10))
    return tmp_path / "set"


def take(loader: StreamLoader, steps: int, seen: int = 0) -> list[Batch]:
    try:
        return list(islice(loader.batches(seen), steps))
    finally:
        loader.close()


def rgb(batches: list[Batch]) -> torch.Tensor:
    return torch.cat([batch.rgb for batch in batches])


@pytest.mark.parametrize("workers", [0, 2])
def test_tars_without_a_manifest_give_uint8_crops_of_all_their_photos(
    tars: Path, numbers_of: Callable, workers: int
):
    batches = take(StreamLoader(f"{tars}/{{00000..00003}}.tar", 12, 8, workers=workers), 40)
    assert all(batch.rgb.shape == (8, 3, 12, 12) and batch.rgb.dtype == torch.uint8 for batch in batches)
    assert all(batch.rgb.is_contiguous() and batch.skipped == 0 for batch in batches)
    found = numbers_of(rgb(batches))
    assert set(found) == set(range(40))
    assert found[:40] != sorted(found[:40])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.training
def test_the_order_is_a_function_of_seed_rank_and_start(tars: Path, workers: int):
    def read(seed: int, seen: int) -> torch.Tensor:
        return rgb(take(StreamLoader(str(tars), 12, 4, seed=seed, workers=workers), 4, seen))

    assert torch.equal(read(0, 0), read(0, 0))
    assert not torch.equal(read(0, 0), read(1, 0))
    assert not torch.equal(read(0, 0), read(0, 16))
    assert torch.equal(read(0, 16), read(0, 16))


def of_rank(
    rank: int, ranks: int, source: str | list[str], monkeypatch: pytest.MonkeyPatch, **more
) -> StreamLoader:
    """A loader in a process that the launcher has named as this rank."""
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    return StreamLoader(source, 8, 4, rank=rank, world_size=ranks, **more)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_s_tars_are_dealt_to_ranks_and_workers(
    tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
):
    urls = [f"pipe:echo $PPID {n} >> {tmp_path}/log.$RANK; cat {tars}/{n:05d}.tar" for n in range(4)]
    first: list[str] = []
    for rank in range(2):
        take(of_rank(rank, 2, urls, monkeypatch, workers=workers), 3)
        opened: dict[str, list[str]] = {}
        for line in (tmp_path / f"log.{rank}").read_text().splitlines():
            reader, tar_number = line.split()
            opened.setdefault(reader, []).append(tar_number)
        assert len(opened) == max(1, workers)
        first += [number for numbers in opened.values() for number in numbers[: 2 // max(1, workers)]]
    assert sorted(first) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_rank_without_a_tar_of_its_own_takes_as_many_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
):
    one = tar(tmp_path / "one.tar", range(5))
    parts = [rgb(take(of_rank(rank, 3, str(one), monkeypatch, workers=workers), 9)) for rank in range(3)]
    assert [len(part) for part in parts] == [36, 36, 36]
    assert not torch.equal(parts[0], parts[1])


def test_a_rank_that_webdataset_takes_for_another_is_refused(tars: Path):
    with pytest.raises(ValueError, match=r"rank 0 of 1.*rank 1 of 2"):
        StreamLoader(str(tars), 8, 4, rank=1, world_size=2)


@pytest.mark.parametrize(("suffix", "packed"), [("tar.gz", "gz"), ("tgz", "gz"), ("tar.xz", "xz")])
def test_compressed_tars_are_read(tmp_path: Path, numbers_of: Callable, suffix: str, packed: str):
    tar(tmp_path / "set" / f"a.{suffix}", range(10), packed)
    assert set(numbers_of(rgb(take(StreamLoader(str(tmp_path / "set"), 8, 5), 4)))) == set(range(10))


def test_photos_with_dots_in_their_names_are_photos_of_their_own(tmp_path: Path, numbers_of: Callable):
    tar(tmp_path / "a.tar", range(6), name="2019.07.{:02d} picnic")
    assert set(numbers_of(rgb(take(StreamLoader(str(tmp_path / "a.tar"), 8, 6), 4)))) == set(range(6))


def test_commands_are_opened_by_webdataset(tars: Path, numbers_of: Callable):
    commands = f"pipe:gzip -c {tars}/{{00000..00003}}.tar"
    assert set(numbers_of(rgb(take(StreamLoader(commands, 8, 8), 15)))) == set(range(40))


def test_gs_is_read_with_gsutil(tars: Path, tmp_path: Path, numbers_of: Callable, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "bin" / "gsutil"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ntest "$1" = cat && exec cat "{tars}/${{2#gs://bucket/}}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    loader = StreamLoader("gs://bucket/{00000..00003}.tar", 8, 8)
    assert set(numbers_of(rgb(take(loader, 15)))) == set(range(40))


def test_corrupt_photos_and_tars_are_counted_and_left_out(tars: Path, numbers_of: Callable):
    tar(tars / "00001.tar", range(10, 20), cut=(13,))
    whole = (tars / "00002.tar").read_bytes()
    (tars / "00002.tar").write_bytes(whole[: len(whole) // 2])
    (tars / "00003.tar").write_bytes(b"no tar at all" * 100)
    loader = StreamLoader(str(tars), 8, 8, corrupt_limit=1.0)
    batches = take(loader, 15)
    found = set(numbers_of(rgb(batches)))
    assert found >= {*range(10), *range(10, 13), *range(14, 20), *range(20, 24)}
    assert not found & {13, *range(26, 40)}
    assert sum(batch.skipped for batch in batches) == len(loader.failures)
    for reason in ("00001.tar: 000000013.jpg: ", "00002.tar: cut short", "00003.tar: "):
        assert any(reason in failure for failure in loader.failures), loader.failures


@pytest.mark.parametrize("packed", ["", "gz", "xz"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_tar_that_is_cut_short_anywhere_is_counted(tmp_path: Path, packed: str, share: float):
    tar(tmp_path / "a.tar", range(30))
    cut = tar(tmp_path / "b.tar", range(30, 60), packed)
    content = cut.read_bytes()
    cut.write_bytes(content[: int(len(content) * share)])
    loader = StreamLoader([str(tmp_path / "a.tar"), str(cut)], 8, 10, corrupt_limit=1.0)
    assert sum(batch.skipped for batch in take(loader, 12))
    assert all("b.tar" in failure for failure in loader.failures)


def test_a_tar_with_a_damaged_header_is_counted(tmp_path: Path):
    tar(tmp_path / "a.tar", range(30))
    damaged = tar(tmp_path / "b.tar", range(30, 60))
    content = bytearray(damaged.read_bytes())
    with tarfile.open(damaged) as file:
        place = file.getmembers()[30].offset
    content[place + 150] ^= 0xFF
    damaged.write_bytes(content)
    loader = StreamLoader([str(tmp_path / "a.tar"), str(damaged)], 8, 10, corrupt_limit=1.0)
    assert sum(batch.skipped for batch in take(loader, 12))
    assert all("b.tar: " in failure for failure in loader.failures)


def test_a_failing_command_is_counted_and_the_others_read(tars: Path, numbers_of: Callable):
    loader = StreamLoader([f"pipe:cat {tars}/00000.tar", "pipe:exit 3"], 8, 5, corrupt_limit=1.0)
    assert set(numbers_of(rgb(take(loader, 6)))) == set(range(10))
    assert any("pipe:exit 3" in failure for failure in loader.failures)


@pytest.mark.parametrize("workers", [0, 1])
def test_tars_without_any_photo_end_the_training_instead_of_hanging_it(tmp_path: Path, workers: int):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.addfile(tarfile.TarInfo("a.txt"))
    with pytest.raises(ShardError, match=r"gave no photo.*a\.tar"):
        take(StreamLoader(str(tmp_path / "a.tar"), 8, 2, workers=workers), 1)


def test_nothing_but_corrupt_photos_ends_the_training(tmp_path: Path):
    tar(tmp_path / "a.tar", range(10), cut=tuple(range(10)))
    with pytest.raises(ShardError, match="nor can any of the"):
        take(StreamLoader(str(tmp_path / "a.tar"), 8, 2, corrupt_limit=1.0), 1)


def test_too_many_corrupt_photos_end_the_training(tars: Path):
    tar(tars / "00001.tar", range(10, 20), cut=(11, 12))
    with pytest.raises(ShardError, match=r"photos read are corrupt, more than 2.00%"):
        take(StreamLoader(str(tars), 8, 8, round_photos=40, corrupt_limit=0.02), 20)


def test_a_round_is_what_the_manifests_list_or_a_thousand_a_tar(tars: Path, numbered_shards: Path):
    assert StreamLoader(str(tars), 8, 4).samples_per_epoch == 4000
    assert StreamLoader(str(numbered_shards), 8, 4).samples_per_epoch == 23
    assert StreamLoader(str(numbered_shards / "manifest.json"), 8, 4, round_photos=7).samples_per_epoch == 7


def test_the_signature_changes_with_the_tars_and_not_with_their_folder_or_the_ranks(
    tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = StreamLoader(str(tars), 8, 4).signature
    tars.rename(tmp_path / "moved")
    assert of_rank(1, 2, str(tmp_path / "moved"), monkeypatch, workers=1).signature == first
    assert of_rank(0, 1, str(tmp_path / "moved" / "00001.tar"), monkeypatch).signature != first


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing.tar", "nothing is there"),
        ("empty", "no tar there"),
        ("ftp2://host/a.tar", "cannot read ftp2://.*gs"),
    ],
)
def test_bad_sources_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        StreamLoader(source, 8, 4)


def test_the_config_s_order_decides_which_loader_reads(tars: Path, numbered_shards: Path):
    def loader(source: str, **more):
        data = DataConfig(train=(source,), batch_size=4, image_size=8, **more)
        return open_loader(data, seed=0, rank=0, world_size=1, pin_memory=False)

    assert isinstance(loader(str(numbered_shards)), ShardLoader)
    assert isinstance(loader(str(numbered_shards), order="stream"), StreamLoader)
    assert isinstance(loader(str(tars), order="stream"), StreamLoader)
    with pytest.raises(ValueError, match=r"trainer\.shards index.*--data\.order stream"):
        loader(f"{tars}/00000.tar")
    with pytest.raises(ValueError, match=r"cannot read gs://.*--data\.order stream"):
        loader("gs://bucket/a.tar")
