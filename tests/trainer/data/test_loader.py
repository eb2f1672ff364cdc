import os
import zipfile
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evaluator.photos.manifest import ShardError
from trainer.data.loader import ShardLoader, photos_from

PHOTOS = 23


def take(loader: ShardLoader, count: int, images_seen: int = 0) -> list[torch.Tensor]:
    try:
        return [batch.rgb for batch in islice(loader.batches(images_seen), count)]
    finally:
        loader.close()


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (2, 0), (5, 0), (2, 2)])
def test_every_photo_comes_once_per_epoch_over_ranks_and_workers(
    numbered_shards: Path, numbers_of: Callable, ranks: int, workers: int
):
    """An epoch takes each of the ranks' readers at most one photo past its share."""
    found: list[list[int]] = []
    steps = PHOTOS * 3
    for rank in range(ranks):
        loader = ShardLoader(str(numbered_shards), 8, 1, rank=rank, world_size=ranks, workers=workers)
        found.append([number for rgb in take(loader, steps // ranks) for number in numbers_of(rgb)])
    per_epoch = Counter(number for numbers in found for number in numbers)
    assert set(per_epoch) == set(range(PHOTOS))
    # steps // ranks batches of one may end a few photos short of three whole epochs.
    assert all(2 <= times <= 3 for times in per_epoch.values())
    assert sum(per_epoch.values()) == steps // ranks * ranks


def test_one_epoch_of_one_reader_is_a_permutation_and_the_next_another(
    numbered_shards: Path, numbers_of: Callable
):
    found = numbers_of(torch.cat(take(ShardLoader(str(numbered_shards), 8, 1, seed=3), 2 * PHOTOS)))
    first, second = found[:PHOTOS], found[PHOTOS:]
    assert sorted(first) == sorted(second) == list(range(PHOTOS))
    assert first != second != list(range(PHOTOS))


def test_batches_are_contiguous_uint8_of_one_size(numbered_shards: Path):
    for rgb in take(ShardLoader(str(numbered_shards), 12, 5), 6):
        assert rgb.shape == (5, 3, 12, 12)
        assert rgb.dtype == torch.uint8
        assert rgb.is_contiguous()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batches", [1, 4, 5, 9])  # an epoch ends within batch 6 of 4
@pytest.mark.training
def test_a_resumed_loader_continues_exactly(numbered_shards: Path, workers: int, batches: int):
    def fresh() -> ShardLoader:
        return ShardLoader(str(numbered_shards), 10, 4, seed=1, workers=workers, shuffle_block=6)

    straight = take(fresh(), batches + 4)
    resumed = take(fresh(), 4, images_seen=4 * batches)
    assert all(torch.equal(a, b) for a, b in zip(straight[batches:], resumed, strict=True))


def together(shards: Path, ranks: int, workers: int, count: int, seen: int = 0) -> torch.Tensor:
    """All photos of `count` global batches of 8, with the ranks' parts in the ranks' order."""
    parts = [
        take(ShardLoader(str(shards), 10, 8 // ranks, rank=rank, world_size=ranks, workers=workers), count, seen)
        for rank in range(ranks)
    ]
    return torch.cat([part for step in zip(*parts, strict=True) for part in step])


@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (1, 2), (2, 0), (2, 2), (4, 0), (8, 0)])
@pytest.mark.training
def test_global_batches_do_not_depend_on_ranks_and_workers(numbered_shards: Path, ranks: int, workers: int):
    assert torch.equal(together(numbered_shards, ranks, workers, 7), together(numbered_shards, 1, 0, 7))


def test_two_processes_continue_what_four_began_and_see_every_photo_of_the_epoch_once(
    tmp_path: Path, make_shards: Callable, numbers_of: Callable
):
    shards = make_shards(tmp_path, [13, 20, 15])  # an epoch is 6 batches of 8
    before, after = together(shards, 4, 0, 3), together(shards, 2, 0, 3, seen=24)
    assert sorted(numbers_of(torch.cat((before, after)))) == list(range(48))
    assert torch.equal(torch.cat((before, after)), together(shards, 1, 0, 6))


def test_more_workers_than_photos_rest_and_that_is_said(numbered_shards: Path, caplog: pytest.LogCaptureFixture):
    loader = ShardLoader(str(numbered_shards), 10, 2, workers=3)
    assert "data.workers is 3, but a process has only 2 photos of each batch" in caplog.text
    alone = take(ShardLoader(str(numbered_shards), 10, 2), 3)
    assert all(torch.equal(a, b) for a, b in zip(take(loader, 3), alone, strict=True))


def test_the_process_s_own_generator_is_left_alone(numbered_shards: Path):
    before = torch.random.get_rng_state()
    take(ShardLoader(str(numbered_shards), 8, 2, workers=1), 1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_seeds_give_other_orders(numbered_shards: Path, numbers_of: Callable):
    orders = [numbers_of(take(ShardLoader(str(numbered_shards), 8, PHOTOS, seed=seed), 1)[0]) for seed in (0, 1)]
    assert orders[0] != orders[1]


def test_a_corrupt_photo_is_named_counted_and_replaced(
    tmp_path: Path, make_shards: Callable, numbers_of: Callable
):
    folder = make_shards(tmp_path, [10, 10], broken=[13])
    loader = ShardLoader(str(folder), 8, 10, corrupt_limit=0.05)
    batches = list(islice(loader.batches(), 2))
    found = Counter(number for batch in batches for number in numbers_of(batch.rgb))
    assert sum(batch.skipped for batch in batches) == 1
    assert set(found) == set(range(20)) - {13}
    assert sum(found.values()) == 20
    assert len(loader.failures) == 1
    assert "set-001.tar: photo0013.jpg" in loader.failures[0]


def test_one_of_two_processes_does_not_stop_alone(tmp_path: Path, make_shards: Callable):
    folder = make_shards(tmp_path, [100], broken=[0, 40, 80])
    ranks = [ShardLoader(str(folder), 8, 5, rank=rank, world_size=2, corrupt_limit=0.0) for rank in range(2)]
    assert sum(batch.skipped for loader in ranks for batch in islice(loader.batches(), 10)) == 3


def test_a_replacement_is_the_same_after_a_resume(tmp_path: Path, make_shards: Callable):
    folder = make_shards(tmp_path, [20], broken=[2, 3, 17])

    def fresh() -> ShardLoader:
        return ShardLoader(str(folder), 8, 1, corrupt_limit=1.0)

    straight = take(fresh(), 40)
    for seen in range(0, 40, 3):
        assert torch.equal(take(fresh(), 1, seen)[0], straight[seen])


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_corrupt_photos_stop_the_loader(tmp_path: Path, make_shards: Callable, workers: int):
    loader = ShardLoader(
        str(make_shards(tmp_path, [20], broken=[4, 5])), 8, 4, workers=workers, corrupt_limit=0.06
    )
    with pytest.raises(ShardError, match=r"2 of \d+ photos read are corrupt, more than 6.00%.*photo000[45].jpg"):
        take(loader, 5)


def test_local_shards_stay_open_for_all_lanes(
    tmp_path: Path, make_shards: Callable, monkeypatch: pytest.MonkeyPatch
):
    """Each lane is in a shard of its own, in turn."""
    folder = make_shards(tmp_path, [2] * 40)
    loader = ShardLoader(str(folder), 8, 40)
    opened: Counter[str] = Counter()

    def count(path: str, *more: int) -> int:
        opened[str(path)] += 1
        return os_open(path, *more)

    os_open = os.open
    monkeypatch.setattr(os, "open", count)
    take(loader, 2)
    tars = {path: times for path, times in opened.items() if path.endswith(".tar")}
    assert len(tars) == 40
    assert set(tars.values()) == {1}


def test_nothing_but_corrupt_photos_stops_at_once(tmp_path: Path, make_shards: Callable):
    loader = ShardLoader(str(make_shards(tmp_path, [3], broken=[0, 1, 2])), 8, 1, corrupt_limit=1.0)
    with pytest.raises(ShardError, match="nor can any of the 3 photos"):
        take(loader, 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_shrinks_while_it_is_read_is_named(tmp_path: Path, make_shards: Callable, workers: int):
    folder = make_shards(tmp_path, [6, 6])
    loader = ShardLoader(str(folder), 8, 2, workers=workers)
    (folder / "set-001.tar").write_bytes(b"")
    with pytest.raises(ShardError, match=r"set-001\.tar"):
        take(loader, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"image_size": 0}, "image_size is 0"),
        ({"rank": 2, "world_size": 2}, "rank is 2 of 2"),
        ({"workers": -1}, "workers is -1"),
        ({"corrupt_limit": 2.0}, "corrupt_limit is 2.0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_out_of_range_are_named(numbered_shards: Path, change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        ShardLoader(str(numbered_shards), **(dict[str, Any](image_size=8, batch_size=2) | change))


def test_the_signature_names_what_the_order_depends_on(numbered_shards: Path):
    first = ShardLoader(str(numbered_shards), 8, 4, workers=0).signature
    assert first == ShardLoader(str(numbered_shards), 8, 2, workers=2, rank=1, world_size=2).signature
    assert first != ShardLoader(str(numbered_shards), 8, 2).signature
    assert first != ShardLoader(str(numbered_shards / "set-000.tar"), 8, 2).signature


@pytest.fixture
def photo_folder(tmp_path: Path, jpeg: Callable) -> Path:
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for number, name in enumerate(["b.jpg", "a.jpeg", "below/c.jpg"]):
        (folder / name).write_bytes(jpeg(number, 60, 44))
    (folder / "README.txt").write_text("no photo")
    return folder


def test_a_validation_set_is_sorted_and_cropped_at_the_center(photo_folder: Path):
    rgb, names = photos_from(str(photo_folder), 44)
    assert names == ["a.jpeg", "b.jpg", "below/c.jpg"]
    with Image.open(photo_folder / "b.jpg") as image:
        expected = np.asarray(image.crop((8, 0, 52, 44)))
    assert np.array_equal(rgb[1].permute(1, 2, 0).numpy(), expected)


def test_zip_folder_and_shards_give_the_same_validation_set(photo_folder: Path, tmp_path: Path):
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(photo_folder.rglob("*")):
            file.write(path, path.relative_to(photo_folder))
    from_folder, names = photos_from(str(photo_folder), 16)
    from_zip, zip_names = photos_from(str(archive), 16)
    assert names == zip_names
    assert torch.equal(from_folder, from_zip)
    assert len(photos_from(str(archive), 16, limit=2)[1]) == 2


def test_shards_serve_as_a_validation_set(numbered_shards: Path, numbers_of: Callable):
    rgb, names = photos_from(str(numbered_shards), 8)
    assert numbers_of(rgb) == list(range(PHOTOS))
    assert names == sorted(names)


def test_a_broken_validation_photo_is_an_error(photo_folder: Path):
    (photo_folder / "z.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(ValueError, match=r"z.jpg: .*repair it"):
        photos_from(str(photo_folder), 16)


def test_an_empty_validation_set_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match="holds no photo"):
        photos_from(str(tmp_path), 16)
