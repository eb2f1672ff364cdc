"""Registered networks load by alias, version, run, folder and file, without the trainer; errors name the cause."""

import copy
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from evaluator.baselines import BASELINES, Kernel
from evaluator.registry import mlflow_registry
from evaluator.registry.__main__ import main
from evaluator.registry.contract import FILE_NAME, Variant
from evaluator.registry.mlflow_registry import load, load_colorizer, load_guide
from evaluator.registry.networks import LoadedColorizer, LoadedGuide, load_baseline
from evaluator.registry.tags import described
from trainer import export
from trainer.monitoring.mlflow_tracker import Place, Tracker
from trainer.networks import ColorNet, EditNet

pytestmark = pytest.mark.training

VARIANTS: dict[str, Variant | None] = {"colornet": None, "editnet-blind": "blind", "editnet-oracle": "oracle"}


@dataclass(frozen=True)
class Store:
    """A work folder with three registered networks; `colornet` has a second version."""

    uri: str
    run_id: str
    networks: dict[str, nn.Module]
    folders: dict[str, Path]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    work = tmp_path_factory.mktemp("runs")
    uri = f"sqlite:///{work}/mlflow.db"
    torch.manual_seed(0)
    networks = {
        "colornet": ColorNet((4, 6)),
        "editnet-blind": EditNet("blind", (4, 6)),
        "editnet-oracle": EditNet("oracle", (4, 6)),
    }
    folders = {}
    with Tracker(Place(work=work, folder=work / "run", tracking_uri=uri)) as tracker:
        for name, variant in VARIANTS.items():
            contract = export.describe(
                networks[name],
                name,
                variant=variant,
                temperature=0.5 if variant else None,
                metrics={"ab_psnr@10": 30.0},
            )
            folders[name] = export.save(export.export(networks[name], contract), work / "run" / name)
            tracker.register(folders[name])
        tracker.register(folders["colornet"])
    for network in networks.values():
        network.eval()
    return Store(uri, tracker.run_id, networks, folders)


@pytest.fixture(scope="module")
def colorizer(store: Store) -> LoadedColorizer:
    return load_colorizer(store.folders["colornet"])


def maps(*channels: int, batch: int = 3, height: int = 21, width: int = 35) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(batch, count, height, width, generator=generator) for count in channels]


_CHILD = """
import sys, torch
from evaluator.registry.mlflow_registry import load
uri, file = sys.argv[1:]
inputs = torch.load(file)
outputs = {name: load(f"models:/{name}@champion", uri)(*seen) for name, seen in inputs.items()}
torch.save(outputs, file + ".out")
assert not {"trainer", "accelerate", "webdataset"} & set(sys.modules)
"""


@torch.no_grad()
def test_a_process_without_the_trainer_gets_the_same_outputs(store: Store, tmp_path: Path):
    inputs = {
        "colornet": maps(1, 3, batch=3, height=12, width=20),
        "editnet-blind": maps(1, 2, 3, batch=1, height=10, width=8),
        "editnet-oracle": maps(1, 2, 3, 2, batch=5, height=6, width=14),
    }
    file = tmp_path / "inputs.pt"
    torch.save(inputs, file)
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, store.uri, str(file)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout + child.stderr == ""
    outputs = torch.load(f"{file}.out")
    for name, seen in inputs.items():
        assert (outputs[name] - store.networks[name](*seen)).abs().max() <= 1e-5
    assert {path.name for path in tmp_path.iterdir()} == {"inputs.pt", "inputs.pt.out"}


def test_every_way_to_name_a_network_finds_it(store: Store, tmp_path: Path):
    lightness, clicks = maps(1, 3)
    folder = store.folders["colornet"]
    flat = tmp_path / "flat"
    flat.mkdir()
    shutil.copy(folder / mlflow_registry.GRAPH_FILE, flat / "model.pt2")
    shutil.copy(folder / FILE_NAME, flat)
    sources = {
        "models:/colornet@champion": "models:/colornet/1",
        "models:/colornet/2": "models:/colornet/2",
        f"runs:/{store.run_id}/colornet": f"runs:/{store.run_id}/colornet",
        **{
            str(path): str(path)
            for path in (folder, folder / mlflow_registry.GRAPH_FILE, flat, flat / "model.pt2")
        },
    }
    expected = load_colorizer(folder)(lightness, clicks)
    for uri, source in sources.items():
        network = load_colorizer(uri, store.uri)
        assert network.source == source
        assert torch.equal(network(lightness, clicks), expected)
        assert network.contract.metrics == {"ab_psnr@10": 30.0}


@torch.no_grad()
def test_any_size_is_padded_by_reflection_and_cropped_back(store: Store, colorizer: LoadedColorizer):
    lightness, clicks = maps(1, 3, height=9, width=21)
    padded = [nn.functional.pad(x, (0, 1, 0, 1), mode="reflect") for x in (lightness, clicks)]
    expected = store.networks["colornet"](*padded)[..., :9, :21]
    assert (colorizer(lightness, clicks) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (3, 2), (8, 8)])
def test_tiny_photos_are_colored(colorizer: LoadedColorizer, height: int, width: int):
    ab = colorizer(*maps(1, 3, height=height, width=width))
    assert ab.shape == (3, 2, height, width)
    assert not ab.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[0], r"lightness has shape"),
        (lambda x: x.repeat(1, 3, 1, 1), r"lightness has shape .*\(B, 1, H, W\)"),
        (lambda x: x[:, :, :5], r"has shape .* same B, H and W"),
        (lambda x: x[:0], r"lightness has shape .* none of them 0"),
        (lambda x: x.double(), r"lightness is torch\.float64"),
        (lambda x: x.to("meta"), r"lightness is torch\.float32 on meta"),
    ],
)
def test_a_wrong_input_is_named(colorizer: LoadedColorizer, change, message: str):
    lightness, clicks = maps(1, 3)
    with pytest.raises(ValueError, match=message):
        colorizer(change(lightness), clicks)


def test_swapped_inputs_are_named(colorizer: LoadedColorizer):
    lightness, clicks = maps(1, 3)
    with pytest.raises(ValueError, match="colornet: lightness has shape"):
        colorizer(clicks, lightness)


def test_an_oracle_needs_the_truth_and_a_blind_guide_refuses_it(store: Store):
    lightness, predicted_ab, clicks, truth = maps(1, 2, 3, 2)
    seen = (lightness, predicted_ab, clicks)
    oracle, blind = load_guide(store.folders["editnet-oracle"]), load_guide(store.folders["editnet-blind"])
    assert oracle(*seen, truth).shape == blind(*seen).shape == (3, 21, 35)
    assert torch.equal(blind(*seen, None), blind(*seen, truth_ab=None))
    with pytest.raises(ValueError, match="oracle guide: give it truth_ab"):
        oracle(*seen, truth_ab=None)
    with pytest.raises(ValueError, match="blind guide"):
        blind(*seen, truth)


def test_a_guide_is_not_a_colorizer(store: Store):
    assert isinstance(load(store.folders["editnet-blind"]), LoadedGuide)
    with pytest.raises(ValueError, match="is a guide"):
        load_colorizer(store.folders["editnet-blind"])
    with pytest.raises(ValueError, match="is a colorizer"):
        load_guide(store.folders["colornet"])


@pytest.mark.parametrize(
    "uri",
    [
        "models:/colornet@best",
        "models:/colornet/9",
        "models:/palette@champion",
        "runs:/0123/colornet",
        "RUN/palette",
    ],
)
def test_an_unknown_network_lists_what_is_there(store: Store, uri: str):
    uri = uri.replace("RUN", f"runs:/{store.run_id}")
    with pytest.raises(ValueError, match=r"accelerate launch trainer/main\.py") as error:
        load(uri, store.uri)
    assert "palette" in uri or "colornet @champion=1, editnet-blind @champion=1" in str(error.value)


@pytest.mark.parametrize("uri", ["models:/colornet", "models:/", "models:/@champion", "models:/colornet@"])
def test_a_name_without_a_version_says_how_to_write_it(store: Store, uri: str):
    with pytest.raises(ValueError, match="names no version"):
        load(uri, store.uri)


def test_without_a_database_the_command_that_makes_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"no MLflow database at .*runs/mlflow\.db; `accelerate launch trainer/main"
    ):
        load("models:/colornet@champion")
    assert not list(tmp_path.iterdir())


def test_a_server_that_is_down_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(ConnectionError, match=rf"MLflow at {uri} does not answer"):
        load("models:/colornet@champion", uri)


def test_missing_files_are_named(store: Store, tmp_path: Path):
    with pytest.raises(ValueError, match=r"has no exported graph .*data/model\.pt2 is missing"):
        load(tmp_path)
    shutil.copy(store.folders["colornet"] / mlflow_registry.GRAPH_FILE, tmp_path / "model.pt2")
    with pytest.raises(ValueError, match="there is no contract at"):
        load(tmp_path / "model.pt2")


def test_a_pickle_in_place_of_a_graph_is_refused(store: Store, tmp_path: Path):
    shutil.copy(store.folders["colornet"] / FILE_NAME, tmp_path)
    torch.save(copy.deepcopy(store.networks["colornet"]), tmp_path / "model.pt2")
    with pytest.raises(ValueError, match="is refused"):
        load(tmp_path)


def test_a_file_that_is_no_archive_is_refused(store: Store, tmp_path: Path):
    shutil.copy(store.folders["colornet"] / FILE_NAME, tmp_path)
    (tmp_path / "model.pt2").write_bytes(b"not a graph")
    with pytest.raises(ValueError, match="is refused"):
        load(tmp_path)


def test_another_device_moves_the_whole_graph(store: Store):
    network = load_colorizer(store.folders["colornet"], device="meta")
    lightness, clicks = (x.to("meta") for x in maps(1, 3))
    assert network.device.type == "meta"
    assert network(lightness, clicks).shape == (3, 2, 21, 35)


def test_the_list_shows_versions_aliases_and_metrics(store: Store, capsys: pytest.CaptureFixture[str]):
    assert main(["list"], store.uri) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[::2]] == [
        "colornet/2",
        "colornet/1 @champion",
        "editnet-blind/1 @champion",
        "editnet-oracle/1 @champion",
    ]
    assert all("  commit " in line for line in lines[::2])
    assert set(lines[1::2]) == {"    ab_psnr  10: 30"}


def test_a_network_has_a_line_for_each_metric_and_every_other_tag():
    tags = {
        f"metric.random/{name}_{clicks}": f"{clicks}.5" for name in ("ab_psnr", "mae") for clicks in (10, 0, 5)
    }
    words = described(
        "colornet", "3", ["champion", "new"], {**tags, "commit": "abc", "promotion.why": "it is better"}
    )
    assert words.splitlines() == [
        "colornet/3 @champion @new  commit abc",
        "    random/ab_psnr  0: 0.5  5: 5.5  10: 10.5",
        "    random/mae      0: 0.5  5: 5.5  10: 10.5",
        "    promotion.why: it is better",
    ]
    assert described("colornet", "4", [], {}) == "colornet/4"


@pytest.mark.parametrize("name", ["kernel", "levin"])
def test_a_baseline_is_loaded_like_a_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    loaded = load_colorizer(name)
    assert isinstance(loaded, LoadedColorizer)
    assert (loaded.source, loaded.contract.name, loaded.contract.multiple) == (name, name, 1)
    lightness, clicks = maps(1, 3, height=7, width=9)
    clicks[:, :1] = (clicks[:, :1] > 0.9).float()
    assert torch.equal(loaded(lightness, clicks), BASELINES[name](lightness, clicks * clicks[:, :1]))
    assert loaded.fingerprint == load_colorizer(name).fingerprint
    with pytest.raises(ValueError, match="clicks has shape"):
        loaded(lightness, clicks[:, :2])
    with pytest.raises(ValueError, match="has no exported graph"):
        load_guide(name)
    with pytest.raises(ValueError, match="has no exported graph"):
        load_colorizer(f"./{name}")


def test_another_setting_is_another_fingerprint():
    prints = {load_baseline(one).fingerprint for one in (*BASELINES.values(), Kernel(null=0.1))}
    assert len(prints) == 3


def test_an_unknown_name_is_told_which_baselines_there_are():
    with pytest.raises(ValueError, match=r"kernle has no exported graph .* takes kernel and levin"):
        load_colorizer("kernle")
