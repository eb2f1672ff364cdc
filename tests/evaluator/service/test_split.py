"""A split colorizer in the service: photos are looked at once, and all answers come from one coloring."""

import asyncio
import base64
import io
from collections.abc import Callable, Coroutine, Iterator
from inspect import unwrap
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient
from torch import Tensor

from evaluator.registry.mlflow_registry import load_colorizer, load_guide
from evaluator.registry.networks import LoadedGuide, LoadedSplitColorizer
from evaluator.registry.session import MODE_DISTANCE
from evaluator.service.app import create_app
from evaluator.service.inference import networks as networks_module
from evaluator.service.inference.engine import Engine
from evaluator.service.inference.gamut import shown
from evaluator.service.inference.networks import Mismatch, Networks, load_runner, runner_of
from evaluator.service.inference.runtimes import Unusable, convert, example, open_converted
from evaluator.service.inference.suggest import colors_at, places, uncertainty
from evaluator.service.inference.suggest_colors import modes_in_gamut
from evaluator.service.settings import Settings
from tests.evaluator.service import fakes
from tests.evaluator.service.conftest import BASE_URL, wait_until_ready
from tests.evaluator.split_run import write_split_run

pytestmark = pytest.mark.launch


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 120))


def grey(seed: int = 0, height: int = 40, width: int = 56) -> Tensor:
    return torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(seed))


def clicked(row: int, col: int, ab: tuple[float, float] = (0.3, 0.2)) -> Tensor:
    clicks = torch.zeros(1, 3, 40, 56)
    clicks[0, :, row, col] = torch.tensor([1.0, *ab])
    return clicks


# Photos are looked at once --------------------------------------------------------------------------------------


def test_a_photo_is_looked_at_once_and_each_click_is_answered_from_that():
    async def test() -> None:
        split = fakes.Split()
        engine = Engine.from_networks(split, fakes.Head())
        for step in range(4):
            clicks = clicked(3 * step, 5)
            now = await engine.look(grey(), clicks)
            assert torch.equal(now.ab, fakes.spread(grey(), clicks))
            assert now.features is not None
            logits = await engine.logits(grey(), now.ab, clicks, features=now.features)
            assert torch.equal(logits, fakes.Head()(grey(), now.ab, clicks, features=now.features))
        assert torch.equal(await engine.colorize(grey(1), clicked(1, 1)), fakes.spread(grey(1), clicked(1, 1)))
        assert (split.embedded, split.colored) == (2, 5)
        await engine.close()

    run(test)


def test_photos_that_were_not_used_for_longest_are_looked_at_again():
    async def test() -> None:
        split = fakes.Split()
        engine = Engine.from_networks(split, fakes.Head(), embeddings_mib=1)
        photos = [grey(seed, 400, 400) for seed in range(2)]  # 640 kB each
        for number in (0, 1, 1, 0):
            await engine.colorize(photos[number], torch.zeros(1, 3, 400, 400))
        assert split.embedded == 3
        await engine.close()

    run(test)


def test_a_photo_that_nobody_works_on_pushes_none_out():
    async def test() -> None:
        split = fakes.Split()
        engine = Engine.from_networks(split, fakes.Head(), embeddings_mib=1)
        opened, of_a_batch = grey(0, 400, 400), [grey(seed, 400, 400) for seed in (1, 2)]
        clicks = torch.zeros(1, 3, 400, 400)
        await engine.look(opened, clicks)
        for photo in of_a_batch:
            await engine.look(photo, clicks, keep=False)
        assert split.embedded == 3
        await engine.look(opened, clicks)
        await engine.look(opened, clicks, keep=False)  # what is known already serves a batch, too
        assert split.embedded == 3
        await engine.close()

    run(test)


def test_another_network_never_gets_what_the_first_one_saw():
    class Warm(fakes.Split):
        def embed(self, lightness: Tensor) -> tuple[Tensor, ...]:
            return super().embed(lightness)[0], torch.ones(1)

        def color(self, embedding, lightness, clicks):
            assert float(embedding[1]) == 1.0
            ab, features = super().color(embedding, lightness, clicks)
            return ab + 0.1, features

    async def test() -> None:
        first, second = (
            Networks(
                colorizer=runner_of(split, "colorizer", hint_size=3, temperature=1.0),
                guide=runner_of(fakes.Head(), "guide", hint_size=3, temperature=1.0),
            )
            for split in (fakes.Split(), Warm())
        )
        engine = Engine.from_pair(first)
        before = await engine.colorize(grey(), clicked(3, 3))
        engine._use(second)
        assert torch.equal(await engine.colorize(grey(), clicked(3, 3)), before + 0.1)
        assert torch.equal(await engine.colorize(grey(), clicked(3, 3), first), before)  # a request under way
        await engine.close()

    run(test)


def test_a_head_needs_a_split_colorizer_and_its_features():
    with pytest.raises(ValueError, match="reads a split colorizer's features, and colorizer by formula is none"):
        Engine.from_networks(fakes.spread, fakes.Head())

    async def test() -> None:
        engine = Engine.from_networks(fakes.Split(), fakes.Head())
        with pytest.raises(ValueError, match="pass those of look"):
            await engine.logits(grey(), torch.zeros(1, 2, 40, 56), clicked(1, 1))
        await engine.close()

    run(test)


def test_a_split_colorizer_goes_with_a_guide_of_its_own():
    async def test() -> None:
        engine = Engine.from_networks(fakes.Split(), fakes.detail)
        found = await places(engine, grey(), clicked(3, 3), 2)
        other = Engine.from_networks(fakes.spread, fakes.detail)
        assert found == await places(other, grey(), clicked(3, 3), 2)
        for one in (engine, other):
            await one.close()

    run(test)


# What the palette says ------------------------------------------------------------------------------------------


def test_modes_are_likely_apart_and_can_be_shown():
    bins = fakes.Split.bins
    logits = torch.randn(len(bins), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probability = (3 * logits).softmax(0)
    found = modes_in_gamut(probability, bins, 0.6, 5)
    assert len(found) == 5
    shares = [share for _, share in found]
    assert shares == sorted(shares, reverse=True)
    inside = shown(0.6, bins)
    assert inside.any()
    assert not inside.all()
    best = int(probability.masked_fill(~inside, 0.0).argmax())
    assert found[0] == (
        tuple(bins[best].tolist()),
        pytest.approx(float(probability[best] / probability[inside].sum())),
    )
    colours = torch.tensor([ab for ab, _ in found])
    assert shown(0.6, colours).all()
    distance = 128 * torch.cdist(colours, colours) + 99 * torch.eye(5)
    assert distance.min() >= MODE_DISTANCE


def test_black_has_one_color():
    bins = fakes.Split.bins
    assert modes_in_gamut(torch.full((len(bins),), 1 / len(bins)), bins, 0.0, 5) == [((0.0, 0.0), 1.0)]


def test_uncertainty_is_of_the_photo_without_its_padding():
    features = torch.zeros(1, 5, 16, 16)
    features[0, 3, :5, :7] = 0.5
    features[0, 3, 5:] = features[0, 3, :, 7:] = 1.0
    found = uncertainty(features, 20, 28)
    assert found.shape == (1, 20, 28)
    assert float(found[0, :18, :26].max()) == 0.5
    assert float(found.max()) <= 1.0


def test_the_predicted_color_is_the_likeliest_suggestion():
    async def test() -> None:
        engine = Engine.from_networks(fakes.Split(), fakes.Head())
        lightness, clicks = torch.full((1, 1, 40, 56), 0.6), clicked(8, 8, (20 / 128, 30 / 128))
        clicks[0, :, 4:12, 4:12] = clicks[0, :, 8:9, 8:9]
        ab, features = await engine.look(lightness, clicks)
        given = await colors_at(engine, lightness, clicks, ab, 8, 8, 5, features=features)
        assert given == await colors_at(engine, lightness, clicks, ab, 8, 8, 5)
        assert torch.dist(torch.tensor(given[0].ab) * 128, torch.tensor([20.0, 30.0])) < 10
        assert sum(one.probability for one in given) <= 1 + 1e-9
        await engine.close()

    run(test)


# Over HTTP ------------------------------------------------------------------------------------------------------


@pytest.fixture
def split() -> fakes.Split:
    return fakes.Split()


@pytest.fixture
def split_client(tmp_path: Path, split: fakes.Split) -> Iterator[TestClient]:
    settings = Settings(store=str(tmp_path), rate=0.0, upload_workers=1)
    app = create_app(settings, Engine.from_networks(split, fakes.Head()))
    with TestClient(app, base_url=BASE_URL) as client:
        wait_until_ready(client)
        yield client


def test_everything_about_one_set_of_clicks_comes_from_one_coloring(
    split_client: TestClient, split: fakes.Split, picture: Callable[..., bytes]
):
    sent = split_client.post("/v1/photos", files={"file": ("photo", picture(1, 320, 240))}).json()
    assert split_client.get("/v1/models").json()["colorizer"]["split"] is True
    for number in range(1, 4):
        click = {"row": 20 * number, "col": 30, "colour": {"hex": "#c03020"}}
        asked = {"photo": sent["id"], "clicks": [click]}
        for path, more in (
            ("colorize", {"format": "png"}),
            ("suggest", {"places": 2}),
            ("colours", {"row": 5, "col": 6}),
            ("heatmap", {}),
            ("uncertainty", {}),
        ):
            answer = split_client.post(f"/v1/{path}", json={**asked, **more})
            assert answer.status_code == 200, answer.text
        assert (split.embedded, split.colored) == (1, number)


def test_a_batch_leaves_what_people_work_on(
    split_client: TestClient, split: fakes.Split, picture: Callable[..., bytes]
):
    def send(seed: int) -> str:
        return split_client.post("/v1/photos", files={"file": ("photo", picture(seed, 64, 48))}).json()["id"]

    async def finished(job: str) -> str:
        service = cast(FastAPI, split_client.app).state.service
        while (state := service.jobs.state(job).state) in ("queued", "running"):
            await asyncio.sleep(0.01)
        return state

    engine = cast(FastAPI, split_client.app).state.service.engine
    opened = send(1)
    split_client.post("/v1/colorize", json={"photo": opened}).raise_for_status()
    kept = len(engine._embeddings)
    job = split_client.post("/v1/batch", json={"items": [{"photo": send(2)}, {"photo": send(3)}]}).json()["job"]
    assert split_client.portal is not None
    assert split_client.portal.call(asyncio.wait_for, finished(job), 120) == "done"
    assert (split.embedded, len(engine._embeddings)) == (3, kept)


def test_preview_places_and_colors_come_in_one_answer_where_that_is_asked_for(
    split_client: TestClient, split: fakes.Split, picture: Callable[..., bytes]
):
    sent = split_client.post("/v1/photos", files={"file": ("photo", picture(1, 320, 240))}).json()
    asked = {"photo": sent["id"], "clicks": [{"row": 9, "col": 30, "colour": {"hex": "#c03020"}}]}
    answer = split_client.post("/v1/suggest", json={**asked, "preview": 128}).json()
    assert len(answer["places"]) == 3
    start, _, content = answer["preview"].partition(",")
    assert start == "data:image/jpeg;base64"
    alone = split_client.post("/v1/colorize", json={**asked, "preview": 128})
    assert base64.b64decode(content) == alone.content
    assert split.colored == 1
    assert split_client.post("/v1/suggest", json=asked).json()["preview"] is None


def test_uncertainty_is_a_transparent_picture_with_the_entropy_as_its_alpha(
    split_client: TestClient, picture: Callable[..., bytes]
):
    sent = split_client.post("/v1/photos", files={"file": ("photo", picture(1, 256, 192))}).json()
    answer = split_client.post("/v1/uncertainty", json={"photo": sent["id"], "size": 128})
    assert answer.headers["content-type"] == "image/png"
    unsure = Image.open(io.BytesIO(answer.content))
    assert (unsure.mode, unsure.size) == ("RGBA", (128, 96))
    store = cast(FastAPI, split_client.app).state.service.store
    working = store.get(sent["id"]).working
    split = fakes.Split()
    features = split.color(split.embed(working), working, torch.zeros(1, 3, *working.shape[-2:]))[1]
    mean = float(uncertainty(features, *working.shape[-2:]).mean())
    assert np.asarray(unsure)[..., 3].mean() / 255 == pytest.approx(mean, abs=0.01)


def test_a_colorizer_that_is_not_split_has_no_uncertainty(client: TestClient, picture: Callable[..., bytes]):
    sent = client.post("/v1/photos", files={"file": ("photo", picture(1, 96, 64))}).json()
    answer = client.post("/v1/uncertainty", json={"photo": sent["id"]})
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    assert "gives no distribution of colours" in answer.json()["detail"]
    assert client.get("/v1/models").json()["colorizer"]["split"] is False


# Exported -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small untrained split colorizer and its guide."""
    networks = write_split_run(tmp_path_factory.mktemp("run")) / "networks"
    return networks / "colornet", networks / "editnet-blind"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("converted")


def test_a_photo_of_another_shape_is_refused_before_it_is_looked_at(folders: tuple[Path, Path]):
    colorizer = load_colorizer(folders[0])
    assert isinstance(colorizer, LoadedSplitColorizer)
    embed = unwrap(LoadedSplitColorizer.embed)  # without the tests' check of types
    for bad in (torch.zeros(1, 2, 64, 64), torch.zeros(64, 64), torch.zeros(1, 1, 0, 64)):
        with pytest.raises(ValueError, match=r"colornet: lightness has shape .* it must be \(B, 1, H, W\)"):
            embed(colorizer, bad)
    with pytest.raises(ValueError, match=r"lightness is torch\.float64 on cpu; it must be torch\.float32"):
        embed(colorizer, torch.zeros(1, 1, 64, 64).double())


def test_both_parts_run_in_onnx_runtime_and_are_kept(
    folders: tuple[Path, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
):
    sizes = ((64, 64), (70, 40))
    networks = load_colorizer(folders[0]), load_guide(folders[1])
    for network in networks:
        convert(network, cache)
    assert len(list(cache.glob("*.onnx"))) == 3
    colorizer, guide = (open_converted(network, sizes, cache) for network in networks)
    assert isinstance(colorizer, LoadedSplitColorizer)
    assert isinstance(guide, LoadedGuide)
    lightness, clicks = example(networks[0], 50, 90, 2)
    clicks[0] = 0  # another number of clicks for each photo
    ab, features = colorizer.color(colorizer.embed(lightness), lightness, clicks)
    right, right_features = networks[0].color(networks[0].embed(lightness), lightness, clicks)  # pyright: ignore
    assert (ab - right).abs().max() <= 1e-5
    assert (features - right_features).abs().max() <= 1e-4
    logits = guide(lightness, ab, clicks, features=features)
    assert (logits - networks[1](lightness, ab, clicks, features=features)).abs().max() <= 1e-4


def test_torch_runs_what_onnx_runtime_cannot_and_the_log_says_why(
    folders: tuple[Path, Path], cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    async def other_numbers(*given: object) -> None:
        raise Unusable("it differs by 0.5")

    async def test() -> None:
        monkeypatch.setattr(networks_module, "converted", other_numbers)
        options = {"working_size": 64, "cache": cache, "refresh_seconds": 0.0}
        engine = Engine(*map(str, folders), **options)
        await engine.start()
        await engine.settled()
        for about in engine.describe().values():
            assert (about["runtime"], about["skipped"]) == ("torch", {"onnxruntime": "it differs by 0.5"})
        assert "runs in torch, not in onnxruntime: it differs by 0.5" in caplog.text
        assert (await engine.colorize(grey(), clicked(9, 9))).shape == (1, 2, 40, 56)
        await engine.close()
        forced = Engine(*map(str, folders), runtimes=("onnxruntime",), **options)
        with pytest.raises(ValueError, match="runs in none of the runtimes"):
            await forced.start()
        await forced.close()

    run(test)


def test_exported_networks_serve_clicks_places_and_colors(folders: tuple[Path, Path], cache: Path):
    async def test() -> None:
        engine = Engine(*map(str, folders), working_size=64, cache=cache, refresh_seconds=0.0)
        await engine.start()
        assert [about["runtime"] for about in engine.describe().values()] == ["torch", "torch"]
        await engine.settled()
        assert [about["runtime"] for about in engine.describe().values()] == ["onnxruntime", "onnxruntime"]
        assert engine.describe()["colorizer"]["split"] is True
        lightness, clicks = grey(), clicked(9, 9)
        now = await engine.look(lightness, clicks)
        whole = load_colorizer(folders[0])(lightness, clicks)
        assert (now.ab - whole).abs().max() <= 1e-5
        assert now.ab[0, :, 9, 9].tolist() == pytest.approx([0.3, 0.2])
        assert len(await places(engine, lightness, clicks, 3, now.ab, features=now.features)) == 3
        given = await colors_at(engine, lightness, clicks, now.ab, 39, 55, 5, features=now.features)
        assert len({one.ab for one in given}) == len(given) == 5
        await engine.close()

    run(test)


def test_a_guide_of_another_colorizer_is_refused(folders: tuple[Path, Path]):
    guide = load_runner("guide", str(folders[1]), None, ((64, 64),))
    other = runner_of(fakes.Split(), "colorizer", hint_size=3, temperature=1.0)
    with pytest.raises(Mismatch, match="reads the features of one colorizer"):
        Networks(colorizer=other, guide=guide)
