import hashlib
import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.transform import resize

from evaluator.service.images.decode import GreyPhoto, TooLarge
from evaluator.service.images.store import PhotoMissing, PhotoStore, photo_id

IDS = [f"{number:064x}" for number in range(40)]


def grey(seed: int = 0, height: int = 40, width: int = 60, colours: bool = False) -> GreyPhoto:
    draw = np.random.default_rng(seed)
    return GreyPhoto(
        lightness=draw.integers(0, 65536, (height, width), dtype=np.uint16),
        exif=b"Exif\0\0something",
        grey=bool(seed % 2),
        colours=draw.integers(0, 256, (8, 12, 3), dtype=np.uint8) if colours else None,
    )


@pytest.fixture
def store(tmp_path: Path) -> PhotoStore:
    return PhotoStore(tmp_path / "photos", 2**20, 32)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every use is a second after the one before: file systems tell time in steps."""
    times = itertools.count(1_000_000_000)
    touch = os.utime
    monkeypatch.setattr(os, "utime", lambda path: touch(path, (now := next(times), now)))


def test_a_photo_comes_back_as_it_was(store: PhotoStore):
    photo = grey(1, colours=True)
    store.put(IDS[1], photo)
    for found in (store.get(IDS[1]), PhotoStore(store.folder, 2**20, 32).get(IDS[1])):
        assert np.array_equal(found.full_lightness(), photo.lightness)
        assert photo.colours is not None
        assert np.array_equal(found.reference(), photo.colours)
        assert (found.id, found.height, found.width, found.grey) == (IDS[1], 40, 60, True)
        assert found.exif == photo.exif
        assert found.colours_kept


def test_a_photo_without_colors_says_so(store: PhotoStore):
    found = store.put(IDS[0], grey())
    assert not found.colours_kept
    with pytest.raises(ValueError, match="keep_colours"):
        found.reference()


@pytest.mark.parametrize("size", [(40, 60), (2, 2), (1, 3000), (700, 500), (1500, 2100)])
def test_the_working_size_keeps_the_shape_and_enlarges_nothing(store: PhotoStore, size):
    big = PhotoStore(store.folder, 2**30, 32)
    photo = grey(0, *size)
    found = big.put(IDS[0], photo)
    height, width = found.working.shape[2:]
    assert max(height, width) == min(32, max(size))
    assert abs(height - size[0] * max(height, width) / max(size)) <= 1
    assert found.working.dtype == torch.float32
    assert 0 <= float(found.working.min()) <= float(found.working.max()) <= 1


def test_smaller_lightness_is_that_of_scikit_image(store: PhotoStore):
    rows, cols = np.mgrid[0:300, 0:420]
    photo = GreyPhoto(lightness=(rows * 90 + cols * 90).astype(np.uint16), exif=b"", grey=True, colours=None)
    found = store.put(IDS[0], photo)
    for long_side, size in ((420, (300, 420)), (1000, (300, 420)), (210, (150, 210)), (70, (50, 70))):
        expected = resize(photo.lightness / 65535, size, order=1, anti_aliasing=True, mode="edge")
        inside = (slice(8, -8), slice(8, -8))
        apart = found.lightness_at(long_side)[0, 0].numpy() - expected
        assert np.abs(apart[inside]).max() < 2e-3
    assert found.lightness_at(70) is found.lightness_at(70)


@pytest.mark.parametrize("long_side", [0, 1025])
def test_a_lightness_larger_than_previews_is_refused(store: PhotoStore, long_side: int):
    with pytest.raises(ValueError, match=str(long_side)):
        store.put(IDS[0], grey()).lightness_at(long_side)


def test_a_missing_photo_is_told(store: PhotoStore):
    with pytest.raises(PhotoMissing, match="send it again"):
        store.get(IDS[3])
    found = store.put(IDS[3], grey())
    found.path.unlink()
    with pytest.raises(PhotoMissing):
        store.get(IDS[3])
    with pytest.raises(PhotoMissing):
        found.full_lightness()


@pytest.mark.parametrize(
    "name",
    ["", "..", "../" * 20 + "etc/passwd", "a" * 63, "a" * 65, "A" * 64, "a" * 64 + "\n", "/" + "a" * 63, "ä" * 64],
)
def test_an_id_cannot_name_a_path(store: PhotoStore, name: str):
    before = sorted(store.folder.parent.rglob("*"))
    with pytest.raises(ValueError, match="no photo id"):
        store.get(name)
    with pytest.raises(ValueError, match="no photo id"):
        store.put(name, grey())
    assert sorted(store.folder.parent.rglob("*")) == before


def test_keeping_colors_gives_another_id():
    assert photo_id(b"x", False) == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    kept = b"chromaclick: with colours\0" + hashlib.sha256(b"x").digest()
    assert photo_id(b"x", True) == hashlib.sha256(kept).hexdigest()
    assert photo_id(b"x", True) not in (photo_id(b"x", False), photo_id(b"xkeep", False))


@pytest.mark.usefixtures("clock")
def test_the_photo_unused_for_longest_leaves(tmp_path: Path):
    one = PhotoStore(tmp_path / "other", 2**20, 32)
    one.put(IDS[0], grey())
    store = PhotoStore(tmp_path / "photos", 3 * one.size() + 100, 32)
    for photo in IDS[:3]:
        store.put(photo, grey())
    store.get(IDS[0])
    store.put(IDS[3], grey())
    assert {path.stem for path in store.folder.glob("*.safetensors")} == {IDS[0], IDS[2], IDS[3]}
    store.put(IDS[3], grey())  # the same again needs no room
    assert len(list(store.folder.glob("*.safetensors"))) == 3
    with pytest.raises(PhotoMissing):
        store.get(IDS[1])


def test_a_photo_larger_than_the_store_is_refused_and_costs_nothing(store: PhotoStore):
    store.put(IDS[0], grey())
    with pytest.raises(TooLarge, match="--store-mib"):
        store.put(IDS[1], grey(0, 900, 900))
    assert sorted(path.name for path in store.folder.iterdir()) == [".lock", IDS[0] + ".safetensors"]


def test_a_damaged_file_is_a_missing_photo(store: PhotoStore):
    path = store.put(IDS[0], grey()).path
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(PhotoMissing):
        PhotoStore(store.folder, 2**20, 32).get(IDS[0])
    assert not path.exists()


def test_what_a_killed_process_left_is_removed_later(store: PhotoStore):
    old, new = store.folder / ".old.part", store.folder / ".new.part"
    old.touch()
    new.touch()
    os.utime(old, (1, 1))
    store.put(IDS[0], grey())
    assert not old.exists()
    assert new.exists()


def put_and_get(folder: Path, most: int, first: int) -> int:
    """In a process of its own: how often a photo was there when it was asked for. Wrong content is an error."""
    store = PhotoStore(folder, most, 32)
    found = 0
    for number in np.random.default_rng(first).integers(0, 10, 60).tolist():
        try:
            lightness = store.get(IDS[number]).full_lightness()
            assert np.array_equal(lightness, grey(number).lightness)
            found += 1
        except PhotoMissing:
            store.put(IDS[number], grey(number))
        assert store.size() <= most
    return found


@pytest.mark.launch
def test_two_processes_share_a_store(tmp_path: Path):
    one = PhotoStore(tmp_path / "other", 2**20, 32)
    one.put(IDS[0], grey())
    most = 6 * one.size()
    folder = tmp_path / "photos"
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(put_and_get, folder, most, first) for first in (0, 5)]
        found = [future.result(timeout=120) for future in running]
    assert min(found) > 0
    assert PhotoStore(folder, most, 32).size() <= most
    assert not list(folder.glob(".*.part"))


def test_photos_in_memory_are_bounded(tmp_path: Path):
    store = PhotoStore(tmp_path, 2**24, 32)
    for photo in IDS:
        store.put(photo, grey())
    assert len(store._recent) == 16
    assert store.get(IDS[-1]) is store.get(IDS[-1])
    assert store.get(IDS[0]).id == IDS[0]
