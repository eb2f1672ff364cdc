"""An exported graph equals its network at any batch and size, and exporting leaves the training alone."""

import copy

import pytest
import torch
from torch import Tensor, nn

from evaluator.registry.contract import Contract
from evaluator.registry.mlflow_registry import load_colorizer
from trainer import export
from trainer.networks import ColorNet, EditNet


def small_colornet() -> ColorNet:
    torch.manual_seed(0)
    network = ColorNet((4, 6, 8))
    for module in network.modules():  # statistics of a trained network, unlike the initial 0 and 1
        if (
            isinstance(module, nn.BatchNorm2d)
            and module.running_mean is not None
            and module.running_var is not None
        ):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network


class Noisy(nn.Module):
    """Differs at every call, as a forgotten dropout would."""

    multiple = 4

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 2, 1)

    def forward(self, lightness: Tensor, clicks: Tensor) -> Tensor:
        y = self.conv(torch.cat([lightness, clicks], 1))
        return y + torch.rand_like(y)


class Seven(nn.Module):
    """A seven-level U-Net of one channel: the paper's depth without its weight."""

    def __init__(self):
        super().__init__()
        self.colornet = ColorNet((2,) * 8)
        self.multiple = self.colornet.multiple

    def forward(self, lightness: Tensor, clicks: Tensor) -> Tensor:
        return self.colornet(lightness, clicks)


@torch.no_grad()
def test_a_saved_graph_equals_its_network_at_other_batches_and_sizes(tmp_path):
    network = small_colornet()
    folder = export.save(export.export(network, export.describe(network, "colornet")), tmp_path)
    loaded = load_colorizer(folder)
    network.eval()
    for batch, height, width in ((1, 8, 8), (1, 12, 8), (3, 8, 20), (2, 64, 32)):
        lightness, clicks = torch.rand(batch, 1, height, width), torch.rand(batch, 3, height, width)
        assert (loaded(lightness, clicks) - network(lightness, clicks)).abs().max() <= 1e-5


@torch.no_grad()
@pytest.mark.training
def test_seven_levels_keep_height_and_width_free():
    network = Seven()
    exported = export.export(network, export.describe(network, "colornet"))
    assert (exported.contract.multiple, exported.contract.min_size) == (128, 256)
    graph = exported.program.module()
    network.eval()
    for batch, height, width in ((1, 256, 384), (3, 256, 256)):
        inputs = torch.rand(batch, 1, height, width), torch.rand(batch, 3, height, width)
        assert (graph(*inputs) - network(*inputs)).abs().max() <= 1e-5


@pytest.mark.parametrize(("variant", "inputs"), [("blind", 3), ("oracle", 4)])
@torch.no_grad()
@pytest.mark.training
def test_guides_export_with_and_without_the_truth(variant, inputs):
    network = EditNet(variant, (4, 6, 8))
    contract = export.describe(network, f"editnet-{variant}", variant=variant, temperature=0.5)
    graph = export.export(network, contract).program.module()
    maps = [torch.rand(3, port.channels or 1, 8, 12) for port in contract.inputs]
    assert len(maps) == inputs
    network.eval()
    assert (graph(*maps) - network(*maps)).abs().max() <= 1e-5


def test_exporting_leaves_the_network_and_the_random_state_alone():
    network = small_colornet().train().to(torch.float64).to(memory_format=torch.channels_last)
    before, random = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    export.export(network, export.describe(network, "colornet"))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert next(network.parameters()).dtype == torch.float64


def test_a_graph_that_differs_from_its_network_is_refused():
    network = Noisy()
    with pytest.raises(RuntimeError, match="differs from its network"):
        export.export(network, export.describe(network, "colornet"))


def test_the_contract_tells_where_a_network_came_from():
    network = EditNet("blind", (4, 6, 8))
    contract = export.describe(
        network,
        "editnet-blind",
        variant="blind",
        hint_size=(1, 7),
        temperature=0.7,
        config={"network": {"edit": (4, 6, 8)}},
        metrics={"ab_psnr/10": 30.0, "lpips": float("nan")},
    )
    assert Contract.from_json(contract.to_json()) == contract
    assert (contract.kind, contract.multiple, contract.min_size) == ("guide", 4, 8)
    assert contract.metrics == {"ab_psnr/10": 30.0}
    assert contract.config == {"network": {"edit": [4, 6, 8]}}
    assert torch.__version__.startswith(contract.versions["torch"])
    assert contract.commit


def test_a_network_without_a_multiple_is_refused():
    with pytest.raises(ValueError, match=r"Conv2d\.multiple"):
        export.describe(nn.Conv2d(1, 1, 1), "colornet")
