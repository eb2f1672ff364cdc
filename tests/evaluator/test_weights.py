"""Networks are packed into the package all or none, and the name `shipped` loads them where they are whole."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluator import weights
from evaluator.__main__ import main
from evaluator.benchmark.networks import Networks, load_networks
from evaluator.registry.contract import FILE_NAME, Contract
from evaluator.registry.mlflow_registry import load_colorizer, load_guide
from evaluator.registry.networks import LoadedSplitColorizer
from evaluator.service.inference.gamut import ab_of
from evaluator.weights import pack
from evaluator.weights.__main__ import main as pack_command
from kernels.color import lab_to_uint8, rgb_to_lab
from tests.evaluator.split_run import write_split_run

pytestmark = pytest.mark.launch

CONFIG = {
    "data.train": "/home/somebody/shards64",
    "data.more": ["s3://bucket/a/b.tar", "/mnt/c d"],
    "recipe.encoder": "fresh",
    "run.tracking": "sqlite:////home/somebody/mlflow.db",
}
COMMANDS = "accelerate launch trainer/main.py tiny --recipe.network split --recipe.guide head"
NOTICE = "of photos"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_split_run(tmp_path_factory.mktemp("run"), config=CONFIG)


@pytest.fixture(scope="module")
def packed(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package folder with the run's networks."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / pack.NOTICE_FILE).write_text(NOTICE)
    commands = folder.parent / "commands.txt"
    commands.write_text(COMMANDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "FOLDER", folder)
        assert pack_command([str(run), "--commands", str(commands)]) == 0
    return folder


@pytest.fixture
def shipped(packed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package folder in place of the real one; not to be changed."""
    monkeypatch.setattr(weights, "FOLDER", packed)
    return packed


@pytest.fixture(scope="module")
def networks(packed: Path) -> Networks:
    """Both shipped networks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "FOLDER", packed)
        return load_networks("shipped", ["shipped"], packed, torch.device("cpu"))


@pytest.fixture
def copied(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to be damaged."""
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "weights")
    return shutil.copytree(packed, tmp_path / "weights")


@pytest.fixture
def other_run(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    return shutil.copytree(run, tmp_path / "run")


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change_contract(folder: Path, **fields: object) -> None:
    file = folder / FILE_NAME
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_what_ships_is_listed_and_the_whole_graph_is_left_out(packed: Path):
    sums = weights.read_sums(packed / weights.SUMS_FILE)
    graphs = {"colornet/parts/embed.pt2", "colornet/parts/color.pt2", "colornet/parts/palette.pt2"}
    assert set(sums) == graphs | {
        "colornet/contract.json",
        "colornet/parts/bins.json",
        "editnet-blind/contract.json",
        "editnet-blind/data/model.pt2",
    }
    assert set(content(packed)) == {*sums, weights.SUMS_FILE, pack.README_FILE, pack.NOTICE_FILE}
    assert all(weights.sha256(packed / path) == digest for path, digest in sums.items())
    readme = (packed / pack.README_FILE).read_text()
    assert COMMANDS in readme
    assert all(f"`{path}`" in readme and digest[:16] in readme for path, digest in sums.items())


def test_paths_of_the_machine_do_not_ship(run: Path, packed: Path):
    contract = Contract.read(packed / "colornet" / FILE_NAME)
    assert contract.config == {
        "data.train": "shards64",
        "data.more": ["s3://bucket/a/b.tar", "c d"],
        "recipe.encoder": "fresh",
        "run.tracking": "mlflow.db",
    }
    here = str(Path(pack.__file__).parents[2]).encode()
    assert any(here in one for one in content(run).values())  # torch notes the source of each operation
    assert not any(here in one or torch.__file__[:-11].encode() in one for one in content(packed).values())


def test_the_shipped_colorizer_gives_the_numbers_of_the_run(run: Path, networks: Networks):
    before, after = load_colorizer(run / "networks" / "colornet"), networks.colorizer
    generator = torch.Generator().manual_seed(0)
    lightness, clicks = torch.rand(2, 1, 70, 90, generator=generator), torch.zeros(2, 3, 70, 90)
    clicks[:, :, 30:33, 40:43] = torch.tensor([1.0, 0.2, -0.3])[:, None, None]
    assert isinstance(after, LoadedSplitColorizer)
    assert torch.equal(before(lightness, clicks), after(lightness, clicks))
    assert after.source == f"shipped:{after.contract.weights[:12]}"
    assert torch.equal(after(lightness, clicks)[:, :, 30:33, 40:43], clicks[:, 1:, 30:33, 40:43])


def test_both_networks_go_by_one_name(networks: Networks):
    guide = networks.guides["guide-blind"]
    assert guide.contract.reads == networks.colorizer.contract.weights
    assert guide.source == f"shipped:{guide.contract.weights[:12]}"
    assert networks.colorizer.contract.kind == "colorizer"


def test_without_weights_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"ships no networks .* models:/colornet@champion, which `accelerate"):
        load_colorizer("shipped")
    with pytest.raises(ValueError, match="models:/editnet-blind@champion"):
        load_guide("shipped")


def test_a_damaged_a_missing_and_an_unlisted_file_are_named(copied: Path):
    graph = copied / "editnet-blind" / "data" / "model.pt2"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    with pytest.raises(ValueError, match=r"editnet-blind/data/model.pt2 .* is damaged: its SHA-256 is .* install"):
        load_guide("shipped")
    (copied / "colornet" / "parts" / "bins.json").unlink()
    with pytest.raises(ValueError, match=r"colornet/parts/bins.json is missing .* install"):
        load_colorizer("shipped")
    (copied / weights.SUMS_FILE).write_text("")
    with pytest.raises(ValueError, match=r"does not list colornet/contract\.json"):
        load_colorizer("shipped")
    (copied / weights.SUMS_FILE).write_text("abc  colornet/contract.json\n")
    with pytest.raises(ValueError, match=r"line 1 of .* it must be a SHA-256"):
        load_colorizer("shipped")


def test_a_guide_of_another_colorizer_is_not_packed(other_run: Path, copied: Path):
    before = content(copied)
    change_contract(other_run / "networks" / "editnet-blind", reads="0" * 64)
    with pytest.raises(ValueError, match="reads 000000000000, not the features of its colorizer"):
        pack.pack(other_run, COMMANDS)
    shutil.rmtree(other_run / "networks" / "editnet-blind")
    with pytest.raises(ValueError, match="there is no contract at"):
        pack.pack(other_run, COMMANDS)
    assert content(copied) == before


def test_pickles_are_not_packed(other_run: Path, copied: Path):
    before = content(copied)
    torch.save(torch.nn.Conv2d(1, 1, 1), other_run / "networks" / "colornet" / "parts" / "embed.pt2")
    with pytest.raises(ValueError, match="is refused"):
        pack.pack(other_run, COMMANDS)
    assert content(copied) == before


def test_what_is_too_large_is_not_packed(run: Path, copied: Path, monkeypatch: pytest.MonkeyPatch):
    before = content(copied)
    monkeypatch.setattr(pack, "MAX_BYTES", 100_000)
    with pytest.raises(ValueError, match=r"MB together; at most 0\.1 MB may ship"):
        pack.pack(run, COMMANDS)
    assert content(copied) == before


def test_a_pack_that_fails_in_between_leaves_what_was_there(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The disk refuses the last of the new files."""
    staged = shutil.copytree(copied, tmp_path / "staged")
    for file in staged.rglob("*.*"):
        if file.is_file():
            file.write_text("new")
    before, real = content(copied), os.replace

    def replace(source: Path, target: Path) -> None:
        if target == copied / weights.SUMS_FILE and "old" not in Path(source).parts:
            raise OSError("no space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="no space left"):
        pack.exchange(staged)
    assert content(copied) == before
    monkeypatch.undo()
    monkeypatch.setattr(weights, "FOLDER", copied)
    shutil.rmtree(staged / "old")
    pack.exchange(staged)
    assert {path for path, data in content(copied).items() if data == b"new"} == {
        path for path in before if path not in (weights.SUMS_FILE, pack.NOTICE_FILE)
    }


def test_bad_commands_are_refused(run: Path, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "commands.txt"
    assert pack_command([str(run), "--commands", str(file)]) == 2
    file.write_text("python trainer/main.py --data.train /home/somebody/shards64")
    assert pack_command([str(run), "--commands", str(file)]) == 2
    file.write_text("\n")
    assert pack_command([str(run), "--commands", str(file)]) == 2
    lines = capsys.readouterr().err.splitlines()
    for line, words in zip(
        lines, ("there is no file", "path of this machine, /home/somebody/", "empty"), strict=True
    ):
        assert words in line


def test_every_archive_is_plain(packed: Path):
    """Raw tensors and JSON, but for the example inputs, which MLflow has checked to be tensors."""
    for file in packed.rglob("*.pt2"):
        with zipfile.ZipFile(file) as archive:
            assert not [name for name in archive.namelist() if name.endswith((".pkl", ".so", ".py"))]


@pytest.fixture
def grey_photo(tmp_path: Path) -> Path:
    """96 x 64 pixels, with a ramp of grey."""
    ramp = np.linspace(90, 180, 96).round().astype(np.uint8)
    Image.fromarray(np.repeat(ramp[None], 64, axis=0)).save(tmp_path / "grey.png")
    return tmp_path / "grey.png"


def test_colorize_gives_clicked_pixels_their_exact_color(
    shipped: Path, grey_photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    clicks = tmp_path / "clicks.json"
    clicks.write_text(json.dumps([{"row": 50, "col": 20, "colour": {"hex": "#7080a0"}}]))
    out = tmp_path / "new" / "colored.png"
    words = [str(grey_photo), "--out", str(out), "--click", "10,60,#a08070", "--clicks", str(clicks)]
    assert main(["colorize", *words, "--suggest", "3", "--threads", "1", "--work", str(tmp_path)]) == 0
    first, head, *places = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{out}: 96 x 64 pixels, 2 clicks, by shipped:")
    assert head.startswith("next places by shipped:")
    assert len(places) == 3
    assert all("row " in place and "column " in place for place in places)
    grey, colored = (np.array(Image.open(file).convert("RGB")) for file in (grey_photo, out))
    assert colored.shape == (64, 96, 3)
    lightness = rgb_to_lab(torch.from_numpy(grey).movedim(-1, 0)[None])[0]
    for row, col, code in ((10, 60, "#a08070"), (50, 20, "#7080a0")):
        ab = torch.tensor(ab_of({"hex": code})).view(1, 2, 1, 1).float()
        expected = lab_to_uint8(lightness[..., row : row + 1, col : col + 1], ab)[0, :, 0, 0]
        assert colored[row, col].tolist() == expected.tolist()


def test_colorize_says_in_one_line_what_is_bad(
    shipped: Path, grey_photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    broken, clicks = tmp_path / "broken.jpg", tmp_path / "clicks.json"
    broken.write_bytes(b"no photo")
    clicks.write_text('[{"row": 1, "col": 2, "colour": {"hex": "red"}}]')
    out = ["--out", str(tmp_path / "out.png"), "--work", str(tmp_path)]
    for words, message in (
        ([str(grey_photo), *out, "--click", "1,2"], "write ROW,COL,#RRGGBB"),
        ([str(grey_photo), *out, "--click", "64,2,#ffffff"], "click 1 is at row 64, column 2"),
        ([str(grey_photo), *out, "--clicks", str(clicks)], "at 0.colour"),
        ([str(grey_photo), *out, "--clicks", str(tmp_path / "none")], "there is no file of clicks"),
        ([str(grey_photo), *out, "--suggest", "-1"], "--suggest is -1"),
        ([str(grey_photo), "--out", str(tmp_path / "out.gif")], "end it in one of .png"),
        ([str(grey_photo), "--out", str(grey_photo)], "--out is the photo itself"),
        ([str(tmp_path / "none.png"), *out], "there is no photo"),
        ([str(broken), *out], "the file is no photo"),
        ([str(grey_photo), *out, "--colorizer", "models:/colornet@champion"], "there is no MLflow database"),
    ):
        assert main(["colorize", *words]) == 2, message
        line = capsys.readouterr().err
        assert message in line
        assert line.count("\n") == 1
    assert not (tmp_path / "out.png").exists()
