"""Counts against sums over the networks' layers, and against each other."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests import ROOT
from tests.benchmarks.trainer.step_costs import PhaseCost, RecipeCost, count_recipe, count_stages
from tests.trainer.small_training import SPLIT, small_config
from trainer.config import override
from trainer.config.presets import paper
from trainer.networks import ColorNet

COUNTED = ROOT / "docs" / "results" / "step_costs_paper.json"


def layers_flops(network: nn.Module, *inputs: torch.Tensor) -> int:
    """Two operations per weight and place it is applied at, layer by layer."""
    flops = 0

    def add(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal flops
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
        places = output.numel() // layer.weight.shape[0]
        if isinstance(layer, nn.ConvTranspose2d):  # stride = kernel: each input pixel meets the whole kernel
            places = output.numel() // layer.weight.shape[1] // 4
        flops += 2 * layer.weight.numel() * places

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            layer.register_forward_hook(add)
    network(*inputs)
    return flops


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[PhaseCost, ...]]:
    config = small_config(tmp_path_factory.mktemp("costs"), recipe__clicks__interactions=3)
    return count_stages(config, perceptual=False, fake=False)


def test_a_forward_costs_what_its_layers_cost(counted: dict[str, tuple[PhaseCost, ...]]):
    network = ColorNet((8, 8, 16))
    flops = layers_flops(network, torch.zeros(1, 1, 16, 16), torch.zeros(1, 3, 16, 16))
    (cost,) = counted["pretrain-color"]
    assert cost.forward_flops == flops
    # Twice that, without the first layers' gradients with respect to the photo.
    assert 1.8 * flops < cost.backward_flops < 2 * flops


def test_every_parameter_is_shared_once(counted: dict[str, tuple[PhaseCost, ...]]):
    network = ColorNet((8, 8, 16))
    for stage in ("pretrain-color", "ping-1"):
        (cost,) = counted[stage]
        assert cost.gradient_bytes == 4 * sum(parameter.numel() for parameter in network.parameters())
        assert len(cost.gradients) == len(list(network.parameters()))
        assert cost.statistics == 4 * sum(b.numel() for b in network.buffers() if b.is_floating_point())
        left = [gradient.left for gradient in cost.gradients]
        assert left == sorted(left, reverse=True)


def test_gradients_of_several_interactions_come_at_the_end(counted: dict[str, tuple[PhaseCost, ...]]):
    (pretraining,), (ping,) = counted["pretrain-color"], counted["ping-1"]
    assert ping.backward_flops == 4 * pretraining.backward_flops
    assert max(gradient.left for gradient in ping.gradients) <= pretraining.backward_flops


def test_two_counts_say_what_three_interactions_cost(counted: dict[str, tuple[PhaseCost, ...]], tmp_path: Path):
    config = small_config(tmp_path)
    one, two = (
        count_stages(override(config, {"recipe.clicks.interactions": n}), perceptual=False, fake=False)
        for n in (1, 2)
    )
    recipe = RecipeCost(one=one, two=two)
    assert recipe.at(3) == counted
    recipe.write(tmp_path / "costs.json")
    assert RecipeCost.read(tmp_path / "costs.json") == recipe
    assert len(json.loads((tmp_path / "costs.json").read_text())) == 12


@pytest.mark.training
def test_stages_do_not_share_the_clicks_that_were_tried(tmp_path: Path):
    """Both guides' phases of one batch do: the second has fewer to try."""
    config = small_config(tmp_path, **SPLIT, recipe__clicks__interactions=1)
    counted = count_stages(config, perceptual=False, fake=False)
    for pretraining, pong in zip(counted["pretrain-edit"], counted["pong-1"], strict=True):
        assert pretraining.forward_flops == pong.forward_flops
    oracle, blind = counted["pong-1"]
    assert blind.forward_flops < oracle.forward_flops


def test_tensors_without_memory_cost_the_same(counted: dict[str, tuple[PhaseCost, ...]], tmp_path: Path):
    config = small_config(tmp_path, recipe__clicks__interactions=3)
    (fake,) = count_stages(config, perceptual=False, stages=slice(1))["pretrain-color"]
    (real,) = counted["pretrain-color"]
    assert replace(fake, operators=0) == replace(real, operators=0)
    assert fake.operators >= real.operators, "calls within calls are counted too: an upper bound"


def test_the_kept_counts_are_the_paper_presets():
    kept = RecipeCost.read(COUNTED).at(5)
    assert count_stages(paper(), stages=slice(1))["pretrain-color"] == kept["pretrain-color"]
    assert kept["ping-1"][0].gradient_bytes == 146_118_728
    assert kept["pong-1"][0].gradient_bytes == 1_351_892


@pytest.mark.slow
def test_all_kept_counts_are_the_paper_presets():
    assert count_recipe(paper()) == RecipeCost.read(COUNTED)
