"""The engine: networks out of the registry, asked by many at once, exchanged without a restart."""

import asyncio
import shutil
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evaluator import weights
from evaluator.registry import mlflow_registry as registered
from evaluator.service.inference import engine as engine_module
from evaluator.service.inference import networks
from evaluator.service.inference.batcher import Closed
from evaluator.service.inference.engine import Engine
from tests.evaluator.service import fakes
from trainer import export
from trainer.networks import EditNet

pytestmark = pytest.mark.training

PATIENCE = 120.0
"""Seconds after which a test that hangs fails."""
TORCH = {"runtimes": ("torch",), "working_size": 32, "refresh_seconds": 0.0}


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), PATIENCE))


def photo(width: int = 28) -> tuple[Tensor, Tensor]:
    """Lightness and clicks."""
    lightness, clicks = maps(1, 3, width=width)
    return lightness, clicks


def maps(*channels: int, height: int = 20, width: int = 28) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, count, height, width, generator=generator) for count in channels]


@pytest.fixture
def uri(registry, tmp_path: Path) -> str:
    """A registry of this test's own: the files are shared, aliases are not."""
    shutil.copy(registry.work / "mlflow.db", tmp_path)
    return f"sqlite:///{tmp_path}/mlflow.db"


class Held:
    """A colorizer that answers once it is let on."""

    def __init__(self) -> None:
        self.busy, self.open = threading.Event(), threading.Event()

    def __call__(self, lightness: Tensor, clicks: Tensor) -> Tensor:
        self.busy.set()
        assert self.open.wait(PATIENCE)
        return torch.full((len(lightness), 2, *lightness.shape[-2:]), 0.25)


def test_formulas_are_ready_at_once_and_give_their_numbers():
    async def test() -> None:
        engine = Engine.from_networks(fakes.spread, fakes.detail, hint_size=5, temperature=0.5)
        assert engine.ready
        await engine.start()
        lightness, predicted, clicks = maps(1, 2, 3)
        assert torch.equal(await engine.colorize(lightness, clicks), fakes.spread(lightness, clicks))
        heat = await engine.score(lightness, predicted, clicks)
        expected = (fakes.detail(lightness, predicted, clicks).double() / 0.5).flatten().softmax(0)
        assert heat.shape == (1, 20, 28)
        assert (heat.flatten() - expected).abs().max() <= 1e-6
        assert float(heat.sum()) == pytest.approx(1, abs=1e-5)
        assert engine.hint_size == engine.describe()["colorizer"]["hint_size"] == 5
        await engine.close()

    run(test)


def test_registered_networks_are_loaded_warmed_and_described(uri: str):
    async def test() -> None:
        engine = Engine(tracking_uri=uri, **TORCH)
        assert not engine.ready
        with pytest.raises(RuntimeError, match="not loaded"):
            _ = engine.networks
        await engine.start()
        lightness, predicted, clicks = maps(1, 2, 3)
        colorizer = registered.load_colorizer("models:/colornet/1", uri)
        assert (await engine.colorize(lightness, clicks) - colorizer(lightness, clicks)).abs().max() <= 1e-6
        guide = registered.load_guide("models:/editnet-blind/1", uri)
        logits = guide(lightness, predicted, clicks)
        assert guide.contract.temperature == 0.5
        assert (await engine.logits(lightness, predicted, clicks) - logits / 0.5).abs().max() <= 1e-5
        about = engine.describe()
        assert {name: (about[name]["source"], about[name]["version"]) for name in about} == {
            "colorizer": ("models:/colornet/1", "1"),
            "guide": ("models:/editnet-blind/1", "1"),
        }
        assert about["colorizer"]["sha256"] == colorizer.fingerprint
        assert (about["colorizer"]["runtime"], about["colorizer"]["skipped"]) == ("torch", {})
        assert (about["colorizer"]["hint_size"], about["colorizer"]["multiple"]) == (3, 4)
        await engine.close()

    run(test)


def test_an_alias_that_moved_is_followed(uri: str):
    async def test() -> None:
        engine = Engine(tracking_uri=uri, **TORCH)
        await engine.start()
        before = engine.networks
        assert not await engine.refresh()
        registered.promote(uri, "colornet", "2", {})
        assert await engine.refresh()
        assert engine.describe()["colorizer"]["source"] == "models:/colornet/2"
        assert engine.networks.guide is before.guide
        assert not await engine.refresh()
        await engine.close()

    run(test)


def test_aliases_are_looked_up_in_the_background(uri: str):
    async def test() -> None:
        engine = Engine(tracking_uri=uri, **{**TORCH, "refresh_seconds": 0.01})
        await engine.start()
        registered.promote(uri, "editnet-blind", "2", {})
        while engine.describe()["guide"]["source"] != "models:/editnet-blind/2":
            await asyncio.sleep(0.01)
        await engine.close()

    run(test)


def test_another_alias_than_champion_is_followed_too(uri: str):
    async def test() -> None:
        client = registered.connect(uri)
        client.set_registered_model_alias("colornet", "trial", "1")
        engine = Engine(colorizer="models:/colornet@trial", tracking_uri=uri, **TORCH)
        await engine.start()
        client.set_registered_model_alias("colornet", "trial", "2")
        assert await engine.refresh()
        assert engine.describe()["colorizer"]["source"] == "models:/colornet/2"
        client.delete_registered_model_alias("colornet", "trial")
        with pytest.raises(ValueError, match="no version of colornet has the alias trial any more"):
            await engine.refresh()
        assert engine.describe()["colorizer"]["source"] == "models:/colornet/2"
        await engine.close()

    run(test)


def test_a_registry_that_is_gone_leaves_the_networks_at_work(uri: str, caplog: pytest.LogCaptureFixture):
    async def test() -> None:
        engine = Engine(tracking_uri=uri, **{**TORCH, "refresh_seconds": 0.01})
        await engine.start()
        Path(uri.removeprefix("sqlite:///")).unlink()
        with pytest.raises(ValueError, match="no MLflow database"):
            await engine.refresh()
        while "the present networks stay" not in caplog.text:
            await asyncio.sleep(0.01)
        assert (await engine.colorize(*photo())).shape == (1, 2, 20, 28)
        await engine.close()

    run(test)


def test_requests_under_way_finish_on_the_old_network_and_new_ones_get_the_new(uri: str):
    async def test() -> None:
        held = Held()
        engine = Engine.from_networks(held, fakes.detail, tracking_uri=uri, **TORCH)
        lightness, clicks = photo()
        old = engine.networks
        computed = asyncio.create_task(engine.colorize(lightness, clicks))
        assert await asyncio.to_thread(held.busy.wait, PATIENCE)
        waits = asyncio.create_task(engine.colorize(lightness, clicks))
        await asyncio.sleep(0)
        await engine.switch("models:/colornet@champion")
        late = asyncio.create_task(engine.colorize(lightness, clicks))
        kept = asyncio.create_task(engine.colorize(lightness, clicks, old))
        await asyncio.sleep(0)
        held.open.set()
        assert {float(x.max()) for x in await asyncio.gather(computed, waits, kept)} == {0.25}
        expected = registered.load_colorizer("models:/colornet/1", uri)(lightness, clicks)
        assert (await late - expected).abs().max() <= 1e-6
        assert engine.networks.guide is old.guide
        await engine.close()

    run(test)


def test_a_switch_that_fails_changes_nothing(uri: str, tmp_path: Path):
    network = EditNet("oracle", (4, 6))
    contract = export.describe(network, "editnet-oracle", variant="oracle", temperature=1.0)
    oracle = export.save(export.export(network, contract), tmp_path / "oracle")

    async def test() -> None:
        engine = Engine.from_networks(fakes.spread, fakes.detail, tracking_uri=uri, **TORCH)
        before = engine.networks
        for colorizer, guide, message in (
            (None, None, "neither a colorizer nor a guide"),
            ("models:/colornet/9", None, "accelerate launch"),
            ("models:/editnet-blind/1", None, "is a guide"),
            ("models:/colornet/1", str(oracle), "needs the true colours"),
        ):
            with pytest.raises(ValueError, match=message):
                await engine.switch(colorizer, guide)
            assert engine.networks is before
        await engine.close()

    run(test)


def test_without_networks_the_command_that_makes_them_is_named(tmp_path: Path):
    async def test() -> None:
        engine = Engine(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", **TORCH)
        with pytest.raises(ValueError, match=r"accelerate launch trainer/main\.py"):
            await engine.start()
        assert not engine.ready
        await engine.close()

    run(test)


CHAMPIONS = ("models:/colornet@champion", "models:/editnet-blind@champion")


@pytest.mark.parametrize("named", [("", ""), ("", CHAMPIONS[1]), CHAMPIONS])
def test_champions_that_are_no_pair_are_left_for_what_ships_unless_they_were_named(
    named: tuple[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """The champion guide reads features, and the champion colorizer has none."""
    by_name = {
        CHAMPIONS[0]: fakes.spread, CHAMPIONS[1]: fakes.Head(),
        "colorizer shipped": fakes.Split(), "guide shipped": fakes.Head(),
    }  # fmt: skip

    def load(kind: str, uri: str, *where: object) -> networks.Runner:
        network = by_name[f"{kind} {uri}" if uri == "shipped" else uri]
        return networks.runner_of(network, kind, hint_size=3, temperature=1.0)

    async def test() -> None:
        engine = Engine(*named, **TORCH)
        if any(named):
            with pytest.raises(networks.Mismatch, match="reads a split colorizer's features"):
                await engine.start()
        else:
            await engine.start()
            assert engine.describe()["colorizer"]["source"] == fakes.Split.source
            (line,) = caplog.messages
            assert "the networks that ship are used until a start finds one" in line
        await engine.close()

    monkeypatch.setattr(engine_module, "names_to_load", lambda *given: CHAMPIONS)
    monkeypatch.setattr(engine_module, "load_runner", load)
    monkeypatch.setattr(weights, "available", lambda: True)
    with caplog.at_level("WARNING", "chromaclick"):
        run(test)


def test_closing_answers_what_waits():
    async def test() -> None:
        held = Held()
        engine = Engine.from_networks(held, fakes.detail)
        computed = asyncio.create_task(engine.colorize(*photo()))
        assert await asyncio.to_thread(held.busy.wait, PATIENCE)
        waits = asyncio.create_task(engine.colorize(*photo(width=9)))
        await asyncio.sleep(0)
        closing = asyncio.create_task(engine.close())
        with pytest.raises(Closed):
            await waits
        held.open.set()
        assert float((await computed).max()) == 0.25
        await closing

    run(test)
