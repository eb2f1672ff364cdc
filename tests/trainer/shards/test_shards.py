import errno
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2lab

from evaluator.photos.grey import grey_share
from tests import ROOT
from trainer.data.reader import open_shards
from trainer.shards import build
from trainer.shards.__main__ import main


@pytest.fixture
def photos(tmp_path: Path, jpeg: Callable) -> Path:
    """A folder of 25 photos in two levels."""
    folder = tmp_path / "photos"
    for number in range(25):
        path = folder / ("below" if number % 3 == 0 else ".") / f"p{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    return folder


def make(*words: object) -> int:
    return main([str(word) for word in words])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def members(folder: Path) -> dict[str, bytes]:
    """Name and bytes of everything in a folder's tars, read by tarfile."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                found[member.name] = file.read()
    return found


def test_photos_are_stored_byte_by_byte_in_shards_of_the_given_size(photos: Path, tmp_path: Path):
    assert make(photos, tmp_path / "out", "--shard-size", 10, "--jobs", 1) == 0
    originals = {path.relative_to(photos).as_posix(): path.read_bytes() for path in photos.rglob("*.jpg")}
    assert members(tmp_path / "out") == originals
    shards = open_shards(str(tmp_path / "out"))
    assert shards.counts == [10, 10, 5]
    assert shards.manifest.image_sizes.short_side == (40, 40, 40)


def test_the_manifest_says_what_hashlib_and_tarfile_say(photos: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert make(photos, out, "--jobs", 1) == 0
    content = json.loads((out / "manifest.json").read_text())
    entry = content["shards"][0]
    tar_bytes = (out / entry["name"]).read_bytes()
    assert entry["sha256"] == hashlib.sha256(tar_bytes).hexdigest()
    assert entry["bytes"] == len(tar_bytes)
    with tarfile.open(out / entry["name"]) as tar:
        found = tar.getmembers()
    assert entry["starts"] == [member.offset_data for member in found]
    assert entry["sizes"] == [member.size for member in found]
    assert content["samples"] == entry["samples"] == 25


def test_the_bytes_are_those_of_tarfile_without_times_and_owners(photos: Path, tmp_path: Path):
    assert make(photos, tmp_path / "out", "--jobs", 1) == 0
    expected = io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members(tmp_path / "out").items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    assert (tmp_path / "out" / "photos-000.tar").read_bytes() == expected.getvalue()


@pytest.mark.training
def test_two_runs_and_any_number_of_processes_give_the_same_bytes(photos: Path, tmp_path: Path):
    for name, jobs in (("first", 1), ("second", 2)):
        assert make(photos, tmp_path / name, "--shard-size", 9, "--jobs", jobs, "--quality", 80) == 0
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_photos_are_shuffled_by_the_seed_or_stay_sorted(photos: Path, tmp_path: Path):
    orders = []
    for name, flags in (("a", []), ("b", ["--seed", 1]), ("c", ["--no-shuffle"])):
        make(photos, tmp_path / name, "--jobs", 1, *flags)
        orders.append(list(members(tmp_path / name)))
    assert orders[2] == sorted(orders[2])
    assert len({tuple(order) for order in orders}) == 3


def test_a_coco_zip_gives_the_same_photos_as_its_folder(photos: Path, tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "train2017.zip", "w") as archive:
        for path in photos.rglob("*.jpg"):
            archive.write(path, path.relative_to(photos))
    make(photos, tmp_path / "a", "--jobs", 1)
    make(tmp_path / "train2017.zip", tmp_path / "b", "--jobs", 1)
    assert members(tmp_path / "a") == members(tmp_path / "b")


def test_what_is_no_photo_is_named_and_counted(photos: Path, tmp_path: Path, jpeg: Callable, capsys):
    (photos / "notes.txt").write_text("no photo")
    (photos / "cut.jpg").write_bytes(jpeg(99)[:300])
    Image.new("RGB", (8, 8)).save(photos / "old.bmp")
    assert make(photos, tmp_path / "out", "--jobs", 1) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["files"] == 28
    assert report["stored"] == 25
    assert report["left_out"] == {"broken": 1, "format that needs --quality or --short-side": 1, "not an image": 1}
    assert "cut.jpg (" in report["names"]["broken"][0]
    assert report["names"]["not an image"][0].endswith("notes.txt")
    shown = capsys.readouterr().out
    assert "stored 25 of 28 files" in shown
    assert "notes.txt" in shown


def test_an_encrypted_photo_in_a_zip_is_named_and_the_rest_stored(tmp_path: Path, jpeg: Callable):
    source = tmp_path / "train2017.zip"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("a.jpg", jpeg(0))
        archive.writestr("b.jpg", jpeg(1))
    content = bytearray(source.read_bytes())
    content[content.index(b"PK\x03\x04") + 6] |= 1  # the flag "encrypted": in the member's header...
    content[content.index(b"PK\x01\x02") + 8] |= 1  # ...and in the directory
    source.write_bytes(content)
    assert make(source, tmp_path / "out", "--jobs", 1) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["stored"] == 1
    assert "a.jpg (" in report["names"]["broken"][0]
    assert "encrypted" in report["names"]["broken"][0]


def test_photos_of_one_name_are_all_kept(tmp_path: Path, jpeg: Callable):
    for number, name in enumerate(["a/x.jpg", "b/x.jpg", "b/x.jpeg", "b/x-2.jpg", "b/x.y.jpg"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(number))
    assert make(tmp_path / "a", tmp_path / "b", tmp_path / "a" / "x.jpg", tmp_path / "out", "--jobs", 1) == 0
    assert sorted(members(tmp_path / "out")) == ["x-2.jpg", "x-3.jpg", "x-4.jpg", "x-5.jpg", "x.jpg", "x_y.jpg"]


def test_photos_are_shrunk_turned_upright_and_encoded(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    source = tmp_path / "in"
    source.mkdir()
    Image.new("RGB", (100, 60), (200, 30, 30)).save(source / "a.jpg", exif=exif)
    Image.new("RGB", (30, 20), (200, 30, 30)).save(source / "small.bmp")
    assert make(source, tmp_path / "out", "--short-side", 40, "--quality", 75, "--jobs", 1) == 0
    found = {name: Image.open(io.BytesIO(data)) for name, data in members(tmp_path / "out").items()}
    assert {name: image.size for name, image in found.items()} == {"a.jpg": (40, 67), "small.jpg": (30, 20)}
    assert all(image.format == "JPEG" and not image.getexif() for image in found.values())


def test_grey_photos_are_left_out_and_named(photos: Path, tmp_path: Path):
    Image.new("RGB", (32, 32), (90, 92, 91)).save(photos / "grey.jpg")
    assert make(photos, tmp_path / "out", "--max-grey-share", 0.7, "--jobs", 1) == 0
    names = json.loads((tmp_path / "out" / "report.json").read_text())["names"]
    assert [name.rpartition(": ")[2] for name in names["too grey"]] == ["grey.jpg (100% near grey)"]


def test_the_grey_share_is_scikit_image_s(jpeg: Callable):
    image = Image.open(io.BytesIO(jpeg(5)))
    chroma = np.linalg.norm(rgb2lab(np.asarray(image))[..., 1:], axis=-1)
    assert grey_share(np.array(image), 30.0) == pytest.approx((chroma < 30.0).mean(), abs=1e-3)


def test_finished_shards_are_reused_and_changed_ones_built_again(photos: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    flags = [photos, out, "--shard-size", 5, "--no-shuffle", "--jobs", 1]
    make(*flags)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    (photos / "p23.jpg").write_bytes((photos / "p01.jpg").read_bytes())
    make(*flags)
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert {name for name in after if after[name] != before[name]} == {"photos-004.tar"}
    assert "4 of them from an earlier run" in capsys.readouterr().out
    assert members(out)["p23.jpg"] == (photos / "p01.jpg").read_bytes()


def test_a_finished_set_of_which_nothing_stays_is_replaced_only_when_asked(photos: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    make(photos, out, "--shard-size", 5, "--jobs", 1)
    before = contents(out)
    assert make(photos, out, "--shard-size", 20, "--jobs", 1) == 2
    assert "holds a finished set of other photos or settings" in capsys.readouterr().err
    assert contents(out) == before
    assert make(photos, out, "--shard-size", 20, "--jobs", 1, "--replace") == 0
    assert sorted(path.name for path in out.glob("*.tar")) == ["photos-000.tar", "photos-001.tar"]
    assert open_shards(str(out)).counts == [20, 5]


@pytest.fixture
def killed(tmp_path: Path, jpeg: Callable) -> Iterator[tuple[list[str], list[int]]]:
    """The options of a run that was killed in the middle, and its processes, which stand still."""
    source = tmp_path / "in"
    source.mkdir()
    for number in range(60):
        (source / f"{number:02d}.jpg").write_bytes(jpeg(number, 240, 200))
    out = tmp_path / "killed"
    options = ["--shard-size", "4", "--quality", "90", "--jobs", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.shards", str(source), str(out), *options],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    while len(list((out / ".parts").glob("*.json"))) < 2:
        assert process.poll() is None
    orphans = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    for pid in orphans:
        os.kill(pid, signal.SIGSTOP)
    process.send_signal(signal.SIGKILL)
    process.wait()
    yield [str(source), *options], orphans
    for pid in orphans:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.training
def test_a_killed_run_continues_and_ends_with_the_same_bytes(killed: tuple[list[str], list[int]], tmp_path: Path):
    (source, *options), orphans = killed
    out = tmp_path / "killed"
    assert not (out / "manifest.json").exists()
    for pid in orphans:
        os.kill(pid, signal.SIGCONT)
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert main([source, str(out), *options]) == 0
    assert main([source, str(tmp_path / "straight"), *options]) == 0
    assert contents(out) == contents(tmp_path / "straight")
    kept = [name for name, time in finished.items() if (out / name).stat().st_mtime_ns == time]
    assert len(kept) >= 2


@pytest.mark.training
def test_a_run_waits_until_the_processes_of_a_killed_one_have_left_its_folder(
    killed: tuple[list[str], list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    (source, *options), _ = killed
    monkeypatch.setattr(build, "LEAVING_S", 0.0)
    before = contents(tmp_path / "killed")
    assert main([source, str(tmp_path / "killed"), *options]) == 2
    assert "is being written to by another run" in capsys.readouterr().err
    assert contents(tmp_path / "killed") == before


def test_a_full_disk_leaves_no_manifest_and_the_next_run_ends_well(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    out = tmp_path / "out"
    flags = [photos, out, "--shard-size", 10, "--jobs", 1]
    synced = os.fsync
    calls = []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 3:  # the tar and the description of the first shard, then the second's tar
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(handle)

    monkeypatch.setattr(build.os, "fsync", full)
    assert make(*flags) == 1
    assert "No space left on device; finished shards are kept" in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == [".parts", "photos-000.tar"]
    monkeypatch.undo()
    assert make(*flags) == 0
    make(photos, tmp_path / "straight", *flags[2:])
    assert contents(out) == contents(tmp_path / "straight")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing", "out"], "missing does not exist"),
        (["photos"], "give at least one source and the folder"),
        (["photos", "photos/out"], "lies inside the source"),
        (["photos", "out", "--quality", "200"], "quality is 200"),
        (["photos", "out", "--short-side", "0"], "short side is 0"),
        (["photos", "out", "--max-grey-share", "70"], "max grey share is 70"),
        (["photos", "out", "--shard-size", "0"], "shard size is 0"),
        (["photos", "out", "--jobs", "-1"], "--jobs is -1"),
        (["empty", "out"], "no file there"),
        (["text", "out"], "none of the 1 files is a photo"),
        (["photos", "others"], "made elsewhere"),
        (["index", "missing.tar"], "missing.tar: cannot be opened"),
        (["index", "text/a.txt"], "no tar, a compressed tar"),
    ],
)
def test_bad_input_ends_with_code_2_and_one_message(
    photos: Path, make_shards: Callable, monkeypatch: pytest.MonkeyPatch, capsys, words: list[str], message: str
):
    monkeypatch.chdir(photos.parent)
    Path("empty").mkdir()
    Path("text").mkdir()
    Path("text/a.txt").write_text("no photo" * 200)
    make_shards(Path("others"), [2])
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_wrong_flag_is_refused_with_a_suggestion(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["a", "b", "--shard-sizes", "3"])
    assert stopped.value.code == 2
    assert "--shard-size" in capsys.readouterr().err


def test_the_help_of_both_forms_is_complete(capsys):
    for words, flag in ((["--help"], "--max-grey-share"), (["index", "--help"], "--out")):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 0
        assert flag in capsys.readouterr().out


def test_others_tars_are_described_as_they_are(make_shards: Callable, tmp_path: Path, monkeypatch):
    folder = make_shards(tmp_path / "set", [7, 12])
    expected = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    assert make("index", f"{folder}/set-{{000..001}}.tar") == 0
    assert json.loads((folder / "manifest.json").read_text()) == expected


def test_a_manifest_elsewhere_names_whole_paths(numbered_shards: Path, tmp_path: Path):
    assert make("index", numbered_shards / "set-000.tar", "--out", tmp_path / "mine.json") == 0
    assert open_shards(str(tmp_path / "mine.json")).urls == (str(numbered_shards / "set-000.tar"),)


def test_other_members_are_left_out_and_told(tmp_path: Path, jpeg: Callable, capsys):
    path = tmp_path / "mixed.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in {"a.jpg": jpeg(0), "a.json": b"{}", "b.jpg": b"no photo", "c.txt": b"a cat"}.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    assert make("index", path) == 0
    assert open_shards(str(path)).counts == [1]
    shown = capsys.readouterr().out
    assert "not an image: 1: mixed.tar: b.jpg" in shown
    assert "{'.json': 1, '.txt': 1}" in shown


@pytest.mark.parametrize("cut", [1000, 2600, 4096])
def test_a_truncated_tar_is_not_indexed(make_shards: Callable, tmp_path: Path, capsys, cut: int):
    folder = make_shards(tmp_path / "set", [4])
    (folder / "manifest.json").unlink()
    tar = folder / "set-000.tar"
    tar.write_bytes(tar.read_bytes()[:cut])
    assert make("index", tar) == 2
    assert "cut short" in capsys.readouterr().err
    assert not (folder / "manifest.json").exists()


def test_a_tar_with_a_damaged_header_is_not_indexed(make_shards: Callable, tmp_path: Path, capsys):
    folder = make_shards(tmp_path / "set", [4])
    tar = folder / "set-000.tar"
    place = json.loads((folder / "manifest.json").read_text())["shards"][0]["starts"][2]
    content = bytearray(tar.read_bytes())
    content[place - 400] ^= 0xFF
    tar.write_bytes(content)
    assert make("index", tar) == 2
    assert "cut short or damaged after byte" in capsys.readouterr().err
