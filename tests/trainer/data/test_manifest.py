import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluator.photos.manifest import ImageSizes, Manifest, ShardEntry, ShardError, from_json, save, to_json
from trainer.data.reader import open_shards, resolve

ENTRY = ShardEntry("a.tar", 10240, "0" * 64, (512, 1536), (100, 700))
MANIFEST = Manifest((ENTRY,), ImageSizes((40, 50, 60), (41, 51, 61)))


def test_a_manifest_survives_its_file(tmp_path: Path):
    save(MANIFEST, tmp_path / "manifest.json")
    assert from_json((tmp_path / "manifest.json").read_bytes(), "it") == MANIFEST
    assert os.listdir(tmp_path) == ["manifest.json"]


def test_the_hash_tells_data_sets_apart():
    other = Manifest((ShardEntry("a.tar", 10240, "1" * 64, (512, 1536), (100, 700)),), MANIFEST.image_sizes)
    assert other.hash != MANIFEST.hash
    assert Manifest(MANIFEST.shards, ImageSizes((1, 1, 1), (1, 1, 1))).hash == MANIFEST.hash


@pytest.mark.parametrize(
    "broken",
    [
        {"starts": (512,), "sizes": (100, 700)},
        {"starts": (100, 1536), "sizes": (100, 700)},  # no room for a header
        {"starts": (512, 600), "sizes": (100, 700)},  # overlap
        {"starts": (512, 9728), "sizes": (100, 700)},  # past the end
        {"starts": (512, 1536), "sizes": (100, 0)},
    ],
)
def test_impossible_places_are_refused(broken: dict[str, Any]):
    with pytest.raises(ValueError, match=r"shard a\.tar: .*index it again"):
        ShardEntry("a.tar", 10240, "", **broken)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(format=9), "format is 9"),
        (lambda content: content.update(hash="0"), "edited or damaged"),
        (lambda content: content["shards"][0].update(samples=3), "claims 3 samples but lists 2"),
        (lambda content: content["shards"][0].update(bytes=20480), "edited or damaged"),
        (lambda content: content.pop("shards"), "KeyError 'shards'"),
        (lambda content: content.update(shards=7), "not iterable"),
    ],
)
def test_a_damaged_manifest_is_refused(change: Callable[[dict[str, Any]], object], message: str):
    content = json.loads(to_json(MANIFEST))
    change(content)
    with pytest.raises(ValueError, match=f"somewhere is no manifest.*{message}.*trainer.shards index"):
        from_json(json.dumps(content), "somewhere")


def test_what_is_no_json_is_no_manifest():
    with pytest.raises(ValueError, match="is no manifest"):
        from_json("<html>", "somewhere")


@pytest.mark.parametrize(
    ("name", "manifest", "url"),
    [
        ("a.tar", "s3://bucket/set/manifest.json", "s3://bucket/set/a.tar"),
        ("a.tar", "folder/manifest.json", "folder/a.tar"),
        ("a.tar", "manifest.json", "a.tar"),
        ("http://host/a.tar", "folder/manifest.json", "http://host/a.tar"),
        ("/data/a.tar", "folder/manifest.json", "/data/a.tar"),
        ("pipe:cat a.tar", "folder/manifest.json", "pipe:cat a.tar"),
    ],
)
def test_names_are_relative_to_the_manifest(name: str, manifest: str, url: str):
    assert resolve(name, manifest) == url


def test_a_folder_a_manifest_and_braces_name_the_same_shards(numbered_shards: Path):
    by_folder = open_shards(str(numbered_shards))
    assert by_folder.counts == [7, 12, 4]
    assert open_shards(str(numbered_shards / "manifest.json")) == by_folder
    assert open_shards(f"{numbered_shards}/set-{{000..002}}.tar") == by_folder
    assert open_shards([f"file://{numbered_shards}/set-001.tar"]).counts == [12]


def test_without_a_manifest_the_error_says_how_to_write_one(tmp_path: Path):
    (tmp_path / "a.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.tar: its manifest cannot be read.*python -m trainer.shards index"):
        open_shards(str(tmp_path / "a.tar"))
    with pytest.raises(ValueError, match=r"no manifest beside it.*python -m trainer.shards index"):
        open_shards("pipe:cat a.tar")


def test_a_shard_that_is_not_listed_is_named(numbered_shards: Path):
    with pytest.raises(ValueError, match=r"set-007\.tar is not in"):
        open_shards(str(numbered_shards / "set-007.tar"))


def test_no_shards_and_unknown_schemes_are_refused():
    with pytest.raises(ValueError, match="no shards given"):
        open_shards([])
    with pytest.raises(ValueError, match="cannot read ftp://"):
        open_shards("ftp://host/a.tar")


def test_a_missing_or_truncated_local_shard_is_named_at_once(tmp_path: Path, make_shards: Callable):
    folder = make_shards(tmp_path, [3, 3])
    content = (folder / "set-001.tar").read_bytes()
    (folder / "set-001.tar").write_bytes(content[:-600])
    with pytest.raises(ShardError, match=rf"set-001\.tar: has {len(content) - 600} bytes.*cut short"):
        open_shards(str(folder))
    (folder / "set-001.tar").unlink()
    with pytest.raises(ShardError, match=r"set-001\.tar: the shard is missing"):
        open_shards(str(folder))


def test_photos_that_are_no_shards_yet_get_other_advice(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(
        ValueError, match=r"make shards of these photos first: python -m trainer.shards .*photos shards"
    ):
        open_shards(str(tmp_path / "photos"))
    with pytest.raises(ValueError, match="nothing is there: check the path"):
        open_shards(str(tmp_path / "nowhere.tar"))
