"""Exported split networks and guides: the whole, the parts and what is loaded give what the networks give."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from evaluator.registry.contract import FILE_NAME, Contract, pad_to_multiple
from evaluator.registry.mlflow_registry import GRAPH_FILE, PART_FILES, load, load_colorizer, load_guide
from evaluator.registry.networks import LoadedGuide, LoadedSplitColorizer
from tests.trainer.split_networks import click_map, guide_head, photos, split_network
from trainer import export
from trainer.networks import GuideHead, SplitColorNet
from trainer.networks.split import color_bins

pytestmark = pytest.mark.training


@dataclass(frozen=True)
class Published:
    """Networks, and their folders as a training leaves them."""

    colorizer: SplitColorNet
    guides: dict[str, GuideHead]
    folder: Path

    def load_colorizer(self) -> LoadedSplitColorizer:
        found = load_colorizer(self.folder / "colornet")
        assert isinstance(found, LoadedSplitColorizer)
        return found

    def load_guide(self, variant: str) -> LoadedGuide:
        return load_guide(self.folder / variant)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    folder = tmp_path_factory.mktemp("published")
    colorizer = split_network()
    guides = {variant: guide_head(variant) for variant in ("blind", "oracle")}
    export.save(export.export(colorizer, export.describe(colorizer, "colornet")), folder / "colornet")
    for variant, guide in guides.items():
        contract = export.describe(
            guide, f"editnet-{variant}", variant=guide.variant, temperature=1.0, colorizer=colorizer
        )
        export.save(export.export(guide, contract), folder / variant)
    return Published(colorizer, guides, folder)


@pytest.fixture(scope="module")
def loaded(published: Published) -> LoadedSplitColorizer:
    return published.load_colorizer()


@pytest.fixture(scope="module")
def guides(published: Published) -> dict[str, LoadedGuide]:
    return {variant: published.load_guide(variant) for variant in published.guides}


@pytest.fixture(scope="module")
def whole(published: Published) -> torch.nn.Module:
    """The graph that every colorizer has."""
    return torch.export.load(published.folder / "colornet" / GRAPH_FILE).module()


def scene(batch: int, height: int, width: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    lightness, truth_ab = photos(batch, height, width)
    return lightness, click_map(truth_ab, count), truth_ab


@pytest.mark.parametrize(
    ("batch", "height", "width", "count"),
    [(1, 64, 64, 0), (1, 96, 160, 1), (3, 64, 96, 90), (2, 128, 64, 5), (1, 64, 64, 64 * 64)],
)
@torch.no_grad()
def test_whole_graph_and_parts_give_what_the_network_gives(
    published: Published, loaded: LoadedSplitColorizer, whole, batch: int, height: int, width: int, count: int
):
    lightness, clicks, _ = scene(batch, height, width, count)
    network = published.colorizer
    expected = network(lightness, clicks)
    assert (whole(lightness, clicks) - expected).abs().max() <= 1e-5
    assert (loaded(lightness, clicks) - expected).abs().max() <= 1e-5
    embedding = loaded.embed(lightness)
    ab, features = loaded.color(embedding, lightness, clicks)
    assert torch.equal(ab, loaded(lightness, clicks))
    _, of_network = network.color(network.embed(lightness), lightness, clicks)
    assert (features - of_network).abs().max() <= 1e-4
    taken = (clicks[:, :1] > 0).expand_as(ab)
    assert torch.equal(ab[taken], clicks[:, 1:][taken])


@pytest.mark.parametrize(("height", "width"), [(65, 100), (20, 64), (7, 9), (64, 97)])
@torch.no_grad()
def test_photos_of_any_size_are_padded(
    published: Published, loaded: LoadedSplitColorizer, guides: dict[str, LoadedGuide], height: int, width: int
):
    lightness, clicks, truth_ab = scene(2, height, width, 4)
    padded = [pad_to_multiple(x, 32, 64) for x in (lightness, clicks, truth_ab)]
    expected = published.colorizer(*padded[:2])
    ab, features = loaded.color(loaded.embed(lightness), lightness, clicks)
    assert ab.shape == truth_ab.shape
    assert (ab - expected[..., :height, :width]).abs().max() <= 1e-5
    assert torch.equal(loaded(lightness, clicks), ab)
    for variant, guide in guides.items():
        truth = truth_ab if variant == "oracle" else None
        logits = guide(lightness, ab, clicks, truth, features=features)
        seen = [pad_to_multiple(x, 32, 64) for x in (lightness, ab, clicks)]
        truth = padded[2] if truth is not None else None
        by_network = published.guides[variant](*seen, truth, features=features)[..., :height, :width]
        assert logits.shape == (2, height, width)
        assert (logits - by_network).abs().max() <= 1e-4


@torch.no_grad()
def test_one_photos_embedding_serves_several_click_maps(published: Published, loaded: LoadedSplitColorizer):
    lightness, _, truth_ab = scene(1, 64, 96, 0)
    maps = torch.cat([click_map(truth_ab, count, seed=count) for count in (0, 2, 7)])
    many = lightness.expand(3, -1, -1, -1)
    ab, _ = loaded.color(loaded.embed(lightness), many, maps)
    assert (ab - published.colorizer(many, maps)).abs().max() <= 1e-5


@torch.no_grad()
def test_the_palette_is_the_networks(published: Published, loaded: LoadedSplitColorizer):
    lightness, clicks, _ = scene(1, 64, 64, 5)
    _, features = loaded.color(loaded.embed(lightness), lightness, clicks)
    places = torch.tensor([[3, 100, 255]])
    cells = features.flatten(2)[0, :, places[0]].T
    expected = published.colorizer.bin_logits(features, places)[0].T
    assert (loaded.palette(cells) - expected).abs().max() <= 1e-5
    assert torch.allclose(loaded.bins, color_bins())


@torch.no_grad()
def test_guides_under_their_own_names_give_what_the_networks_give(
    published: Published, loaded: LoadedSplitColorizer, guides: dict[str, LoadedGuide]
):
    lightness, clicks, truth_ab = scene(3, 96, 64, 6)
    ab, features = loaded.color(loaded.embed(lightness), lightness, clicks)
    for variant, guide in guides.items():
        guide.check_reads(loaded)
        truth = truth_ab if variant == "oracle" else None
        expected = published.guides[variant](lightness, ab, clicks, truth, features=features)
        assert (guide(lightness, ab, clicks, truth, features=features) - expected).abs().max() <= 1e-4
        with pytest.raises(ValueError, match="reads its colorizer's features: pass them"):
            guide(lightness, ab, clicks, truth)
        with pytest.raises(ValueError, match=r"features has shape .*; it must be \(B, 23, 24, 16\)"):
            guide(lightness, ab, clicks, truth, features=features[..., :-1])


def test_a_guide_refuses_another_colorizer(
    published: Published, loaded: LoadedSplitColorizer, guides: dict[str, LoadedGuide]
):
    other = LoadedSplitColorizer.__new__(LoadedSplitColorizer)
    other.contract, other.source = replace(loaded.contract, weights="0" * 64), "models:/colornet/7"
    for guide in guides.values():
        with pytest.raises(ValueError, match=r"reads the features of one colorizer .* models:/colornet/7 is not"):
            guide.check_reads(other)
        with pytest.raises(ValueError, match="this colorizer is not"):
            guide.check_reads(published.colorizer)


@pytest.mark.parametrize("dtype", [torch.bfloat16])
@torch.no_grad()
def test_autocast_neither_blurs_the_kernel_nor_the_copies(
    published: Published, loaded: LoadedSplitColorizer, dtype: torch.dtype
):
    """An exported graph has forgotten what the network says about precision."""
    lightness, clicks, _ = scene(2, 64, 192, 20)
    expected = loaded(lightness, clicks)
    with torch.autocast("cpu", dtype):
        embedding = loaded.embed(lightness)
        ab, features = loaded.color(embedding, lightness, clicks)
        again = loaded(lightness, clicks)
        by_network = published.colorizer(lightness, clicks)
    assert ab.dtype == features.dtype == again.dtype == torch.float32
    assert torch.equal(ab, again)
    taken = (clicks[:, :1] > 0).expand_as(ab)
    assert torch.equal(ab[taken], clicks[:, 1:][taken])
    allowed = 2 * (by_network - expected).abs().max() + 0.01
    assert (ab - expected).abs().max() <= allowed


def test_contracts_name_features_and_weights(published: Published, loaded: LoadedSplitColorizer, guides):
    contract = loaded.contract
    assert Contract.from_json(contract.to_json()) == contract
    assert (contract.multiple, contract.min_size, contract.features) == (32, 64, 23)
    assert contract.weights == export.weights_hash(published.colorizer)
    for guide in guides.values():
        assert Contract.from_json(guide.contract.to_json()) == guide.contract
        assert guide.contract.reads == contract.weights
        port = guide.contract.inputs[-1]
        assert (port.name, port.channels, port.cell) == ("features", 23, 4)
    other = export.weights_hash(split_network(seed=1))
    assert other != contract.weights == export.weights_hash(split_network(seed=0))


def test_a_folder_without_its_parts_says_what_is_missing(published: Published, tmp_path: Path):
    shutil.copytree(published.folder / "colornet", tmp_path / "colornet")
    (tmp_path / "colornet" / PART_FILES["color"]).unlink()
    with pytest.raises(ValueError, match=r"color\.pt2 is missing"):
        load(tmp_path / "colornet")


def test_a_contract_of_a_guide_that_reads_nobodys_features_is_refused(published: Published, tmp_path: Path):
    content = json.loads((published.folder / "blind" / FILE_NAME).read_text())
    with pytest.raises(ValueError, match="contract field 'reads' is ''"):
        Contract.from_json(json.dumps({**content, "reads": ""}))
    guide = published.guides["blind"]
    with pytest.raises(ValueError, match="contract field 'reads' is ''"):
        export.describe(guide, "editnet-blind", variant="blind", temperature=1.0)
