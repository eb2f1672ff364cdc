import dataclasses
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluator.photos.dataset import open_photos
from evaluator.photos.manifest import Manifest, ShardError, from_json, save


@pytest.fixture
def folder(tmp_path: Path, jpeg: Callable) -> Path:
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for number, name in enumerate(["b.jpg", "a.JPEG", "below/c.png"]):
        (folder / name).write_bytes(jpeg(number))
    (folder / "notes.txt").write_text("no photo")
    return folder


def zipped(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.rglob("*"):
            file.write(path, path.relative_to(folder))
    return archive


def test_a_folder_and_a_zip_give_the_same_photos_by_name(folder: Path, tmp_path: Path):
    files, members = open_photos(folder), open_photos(zipped(folder, tmp_path / "photos.zip"))
    assert list(files.names) == list(members.names) == ["a.JPEG", "b.jpg", "below/c.png"]
    assert [files.read(i) for i in range(3)] == [members.read(i) for i in range(3)]
    assert files.read(1) == (folder / "b.jpg").read_bytes()


def test_a_name_that_is_not_utf8_is_readable_and_its_photo_too(folder: Path):
    other = os.fsencode(folder) + b"/gr\xfcn.jpg"
    os.rename(folder / "b.jpg", other)
    photos = open_photos(folder)
    assert photos.names[2] == "gr\\xfcn.jpg"
    photos.names[2].encode()
    with open(other, "rb") as file:
        assert photos.read(2) == file.read()


def test_one_photo_is_a_set_too(folder: Path):
    assert list(open_photos(folder / "b.jpg").names) == ["b.jpg"]


@pytest.mark.parametrize("file", ["", "manifest.json"])
def test_shards_are_read_in_the_manifest_s_order(numbered_shards: Path, file: str):
    photos = open_photos(numbered_shards / file)
    assert list(photos.names) == [f"photo{number:04d}.jpg" for number in range(23)]
    assert photos.read(20)[:2] == b"\xff\xd8"
    assert len({photos.read(index) for index in range(23)}) == 23


def test_names_that_two_shards_share_get_the_shard_s(tmp_path: Path, make_shards: Callable):
    first, second = make_shards(tmp_path / "one", [2]), make_shards(tmp_path / "two", [2])
    manifests = {folder: from_json((folder / "manifest.json").read_bytes(), "") for folder in (first, second)}
    entries = [
        dataclasses.replace(entry, name=f"{folder.name}/{entry.name}")
        for folder, manifest in manifests.items()
        for entry in manifest.shards
    ]
    save(Manifest(tuple(entries), manifests[first].image_sizes), tmp_path / "manifest.json")
    names = open_photos(tmp_path).names
    assert names[0] == "one/set-000.tar/photo0000.jpg"
    assert len(set(names)) == 4


def test_the_fingerprint_follows_the_photos(folder: Path, jpeg: Callable):
    before = open_photos(folder).fingerprint
    assert before == open_photos(folder).fingerprint
    (folder / "d.jpg").write_bytes(jpeg(9))
    assert open_photos(folder).fingerprint != before


def test_nothing_there_and_nothing_in_it_are_one_clear_line(tmp_path: Path, numbered_shards: Path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        open_photos(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no photo; give a folder or zip of photos, or shards"):
        open_photos(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="is no manifest of shards"):
        open_photos(tmp_path)


def test_a_shard_that_is_gone_is_named(tmp_path: Path, make_shards: Callable):
    folder = make_shards(tmp_path, [2, 2])
    (folder / "set-001.tar").unlink()
    with pytest.raises(ShardError, match=r"set-001\.tar: the shard is missing"):
        open_photos(folder)


def test_a_limit_takes_the_first_and_is_another_set(folder: Path, numbered_shards: Path):
    assert list(open_photos(folder, limit=2).names) == ["a.JPEG", "b.jpg"]
    assert len(open_photos(numbered_shards, limit=9).names) == 9
    for source in (folder, numbered_shards):
        assert open_photos(source, limit=2).fingerprint != open_photos(source).fingerprint
    with pytest.raises(ValueError, match="limit is 0"):
        open_photos(folder, limit=0)
