"""The alias moves on evidence only, in a real registry with tiny networks; every refusal says why."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from evaluator.benchmark.promote import REFUSED, main
from evaluator.registry import mlflow_registry
from evaluator.registry.contract import Variant
from tests.evaluator.made_up_run import made_up_rows, write_run
from trainer import export
from trainer.monitoring.mlflow_tracker import Place, Tracker
from trainer.networks import ColorNet, EditNet


@dataclass(frozen=True)
class Store:
    uri: str
    work: Path
    described: dict[str, dict[str, Any]]
    """By "name/version": what a benchmark says about it."""


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two versions of a colorizer, of which the first is champion, and two of a guide."""
    work = tmp_path_factory.mktemp("runs")
    uri = f"sqlite:///{work}/mlflow.db"
    described = {}
    variants: dict[str, Variant | None] = {"colornet": None, "editnet-blind": "blind"}
    with Tracker(Place(work=work, folder=work / "run", tracking_uri=uri)) as tracker:
        for number in (1, 2):
            torch.manual_seed(number)
            for name, variant in variants.items():
                network = EditNet(variant, (4, 6)) if variant else ColorNet((4, 6))
                temperature = 0.5 if variant else None
                contract = export.describe(network, name, variant=variant, temperature=temperature)
                folder = export.save(export.export(network, contract), work / f"{name}-{number}")
                version = str(tracker.register(folder))
                described[f"{name}/{version}"] = {
                    "source": f"models:/{name}/{version}",
                    "name": name,
                    "version": version,
                    "sha256": mlflow_registry.load(folder).fingerprint,
                }
    return Store(uri, work, described)


@pytest.fixture
def store(registered: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A copy of the registry for each test; the networks' files stay where they are."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    work = tmp_path / "runs"
    work.mkdir()
    shutil.copy(registered.work / "mlflow.db", work)
    return Store(f"sqlite:///{work}/mlflow.db", work, registered.described)


@pytest.fixture
def bench(store: Store, tmp_path: Path):
    """Writes a benchmark's folder of some version."""

    def write(
        name: str, *, colorizer: str = "colornet/1", guide: str = "editnet-blind/1", rows: Any = None, **about
    ):
        guides = {"guide-blind": store.described[guide]}
        return write_run(tmp_path / name, rows, colorizer=store.described[colorizer], guides=guides, **about)

    return write


@pytest.fixture
def better(bench):
    """Folders of the champion and of a challenger that is better on every metric."""
    return {
        "champion": bench("old", rows=made_up_rows(seed=1)),
        "challenger": bench("new", rows=made_up_rows(seed=2, gain=0.5), colorizer="colornet/2"),
    }


def champion(store: Store, name: str = "colornet") -> str | None:
    return mlflow_registry.champion(store.uri, name)


@pytest.mark.training
def test_a_better_challenger_becomes_champion_and_the_registry_says_why(store, better, capsys):
    assert main(**better, work=store.work) == 0
    assert champion(store) == "2"
    version = next(
        v for v in mlflow_registry.versions(store.uri) if v.name == "colornet" and "champion" in v.aliases
    )
    tags = {key: value for key, value in version.tags.items() if key.startswith("promotion.")}
    assert tags["promotion.over"] == "version 1"
    assert tags["promotion.metric"] == "ab_psnr"
    assert tags["promotion.clicks"] == "random, mean over all numbers of clicks"
    assert tags["promotion.not_worse_on"] == "ab_ssim, rgb_psnr"
    assert tags["promotion.photos"] == "40 of photos.zip"
    assert tags["promotion.photos_sha256"] == "ab" * 32
    assert len(tags["promotion.protocol"]) == 12
    assert tags["promotion.measured_by"] == "0123abc"
    assert tags["promotion.promoted_by"]
    assert tags["promotion.gain"] in str(version.description)
    assert "colornet@champion is version 2 now" in capsys.readouterr().out
    assert mlflow_registry.load_colorizer("models:/colornet@champion", store.uri).source == "models:/colornet/2"


def test_the_gain_is_the_paired_difference_of_photos_means_over_clicks(store, better):
    assert main(**better, work=store.work) == 0
    text = next(v for v in mlflow_registry.versions(store.uri) if "champion" in v.aliases).tags["promotion.gain"]
    gain, low, high = (float(part.strip("[],")) for part in text.split() if part.strip("[+-")[:1].isdigit())
    old, new = (
        rows.query("policy == 'random'").groupby("photo")["ab_psnr"].mean()
        for rows in (made_up_rows(seed=1), made_up_rows(seed=2, gain=0.5))
    )
    assert gain == pytest.approx((new - old).mean(), abs=0.005)
    interval = stats.bootstrap(
        (np.asarray(new - old),), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert low == pytest.approx(interval.low, abs=0.005 + 0.1 * (interval.high - interval.low))
    assert high == pytest.approx(interval.high, abs=0.005 + 0.1 * (interval.high - interval.low))


@pytest.mark.parametrize("gain", [0.0, -0.5])
def test_an_equal_or_worse_challenger_is_refused(store, bench, gain, capsys):
    folders = {
        "champion": bench("old", rows=made_up_rows(seed=1, noise=0.2)),
        "challenger": bench("new", rows=made_up_rows(seed=2, noise=0.2, gain=gain), colorizer="colornet/2"),
    }
    before = [(v.name, v.version, v.aliases, v.tags, v.description) for v in mlflow_registry.versions(store.uri)]
    assert main(**folders, work=store.work) == 3
    text = capsys.readouterr().err
    assert "refused: the challenger is not better beyond its interval: ab PSNR" in text
    assert [
        (v.name, v.version, v.aliases, v.tags, v.description) for v in mlflow_registry.versions(store.uri)
    ] == before


def test_better_on_the_metric_and_worse_on_another_is_refused(store, bench, capsys):
    rows = made_up_rows(seed=2, gain=0.5)
    rows["ab_ssim"] -= 0.05
    folders = {
        "champion": bench("old", rows=made_up_rows(seed=1)),
        "challenger": bench("new", rows=rows, colorizer="colornet/2"),
    }
    assert main(**folders, work=store.work) == 3
    assert "worse beyond its interval: ab SSIM -0.0" in capsys.readouterr().err
    assert champion(store) == "1"


def test_a_metric_alone_or_without_an_interval_shows_too_little(store, bench, capsys):
    alone = {
        "champion": bench("old", rows=made_up_rows(seed=1, metrics=["ab_psnr"])),
        "challenger": bench(
            "new", rows=made_up_rows(seed=2, gain=0.5, metrics=["ab_psnr"]), colorizer="colornet/2"
        ),
    }
    assert main(**alone, work=store.work) == 3
    assert "no other metric was measured" in capsys.readouterr().err
    undefined = {
        "champion": bench("old-2", rows=made_up_rows(seed=1)),
        "challenger": bench(
            "new-2", rows=made_up_rows(seed=2, gain=0.5).assign(ab_ssim=np.nan), colorizer="colornet/2"
        ),
    }
    assert main(**undefined, work=store.work) == 3
    assert "ab SSIM has no interval" in capsys.readouterr().err
    assert champion(store) == "1"


def test_metrics_that_describe_have_no_veto(store, bench):
    """Click distance and colorfulness have no better side; crowding is about the policy."""
    extra = {"colourfulness": 50.0, "click_distance": 0.3, "click_crowding": 0.1}
    folders = {
        "champion": bench("old", rows=made_up_rows(seed=1).assign(**extra)),
        "challenger": bench(
            "new",
            rows=made_up_rows(seed=2, gain=0.5).assign(colourfulness=9.0, click_distance=0.1, click_crowding=0.9),
            colorizer="colornet/2",
        ),
    }
    assert main(**folders, work=store.work) == 0


@pytest.mark.training
def test_one_number_of_clicks_can_decide(store, bench):
    """Better after 20 clicks only."""
    rows = made_up_rows(seed=2)
    rows.loc[rows["clicks"] == 20, ["ab_psnr", "rgb_psnr", "ab_ssim"]] += 0.3
    rows.loc[rows["clicks"] < 20, "ab_psnr"] -= 0.3
    folders = {
        "champion": bench("old", rows=made_up_rows(seed=1)),
        "challenger": bench("new", rows=rows, colorizer="colornet/2"),
    }
    with pytest.raises(ValueError, match="clicks is 7; measured were 0, 1, 5, 20"):
        main(**folders, work=store.work, clicks=7)
    assert main(**folders, work=store.work) == 3
    assert main(**folders, work=store.work, clicks=20) == 0


def test_a_guide_is_promoted_by_its_own_clicks(store, bench):
    rows = made_up_rows(seed=2)
    rows.loc[(rows["policy"] == "guide-blind") & (rows["clicks"] > 0), ["ab_psnr", "ab_ssim", "rgb_psnr"]] += 0.3
    folders = {
        "champion": bench("old", rows=made_up_rows(seed=1)),
        "challenger": bench("new", rows=rows, guide="editnet-blind/2"),
    }
    assert main(**folders, work=store.work, network="guide-blind") == 0
    assert champion(store, "editnet-blind") == "2"
    assert champion(store) == "1"


def test_benchmarks_that_differ_in_two_networks_prove_nothing(store, bench):
    folders = {
        "champion": bench("old", rows=made_up_rows(seed=1)),
        "challenger": bench("new", rows=made_up_rows(gain=0.5), colorizer="colornet/2", guide="editnet-blind/2"),
    }
    with pytest.raises(ValueError, match="differ in their colorizer too"):
        main(**folders, work=store.work, network="guide-blind")
    with pytest.raises(ValueError, match="differ in their guide-blind too"):
        main(**folders, work=store.work, policy="guide-blind")
    assert main(**folders, work=store.work) == 0  # random clicks need no guide


def test_evidence_against_a_former_champion_is_refused(store, better, capsys):
    mlflow_registry.promote(store.uri, "colornet", "2", {"over": "a test"})
    assert main(**better, work=store.work) == 3
    assert "version 2 of colornet is the champion already" in capsys.readouterr().err
    swapped = {"champion": better["challenger"], "challenger": better["champion"]}
    assert main(**swapped, work=store.work) == 3  # it is worse
    mlflow_registry.promote(store.uri, "colornet", "1", {"over": "a test"})
    assert main(**swapped, work=store.work) == 3
    assert "version 1 of colornet is the champion already" in capsys.readouterr().err


def test_without_a_champion_only_first_makes_one(store, better, bench, capsys):
    mlflow_registry.connect(store.uri).delete_registered_model_alias("colornet", "champion")
    assert main(**better, work=store.work) == 3
    assert "colornet has no champion; --first takes version 2 without comparing" in capsys.readouterr().err
    assert main(challenger=better["challenger"], first=True, work=store.work) == 0
    assert champion(store) == "2"
    assert main(challenger=better["champion"], first=True, work=store.work) == 3
    assert "colornet has a champion, version 2" in capsys.readouterr().err
    assert champion(store) == "2"


def test_another_protocol_or_other_photos_are_no_evidence(store, bench, better):
    content = json.loads((better["champion"] / "results.json").read_text())
    other_hint = bench("hint", rows=made_up_rows(seed=1), protocol=content["protocol"] | {"hint_size": 1})
    with pytest.raises(ValueError, match="hint_size is 1 in hint and 3 in new"):
        main(champion=other_hint, challenger=better["challenger"], work=store.work)
    fewer = bench("fewer", rows=made_up_rows(seed=1).query("index > 3"))
    with pytest.raises(ValueError, match=r"36 in fewer, 40 in new.*on the same photos"):
        main(champion=fewer, challenger=better["challenger"], work=store.work)
    assert champion(store) == "1"


def test_a_network_that_is_not_the_registered_one_is_no_evidence(store, bench, better):
    impostor = bench("impostor", rows=made_up_rows(gain=0.5), colorizer="colornet/2")
    content = json.loads((impostor / "results.json").read_text())
    content["colorizer"]["sha256"] = "0" * 64
    (impostor / "results.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"version 2 of colornet .* is not the network"):
        main(champion=better["champion"], challenger=impostor, work=store.work)


@pytest.mark.training
def test_wrong_questions_say_what_to_do(store, bench, better, tmp_path):
    def ask(**change: Any):
        return main(**(better | {"work": store.work} | change))

    with pytest.raises(ValueError, match="names a network; benchmark it"):
        ask(challenger=Path("models:/colornet/2"))
    with pytest.raises(ValueError, match="give --champion"):
        ask(champion=None)
    with pytest.raises(ValueError, match=r"results\.json is missing"):
        ask(champion=tmp_path)
    with pytest.raises(
        ValueError, match="both measured these, which have a better side: ab_psnr, ab_ssim, rgb_psnr"
    ):
        ask(metric="lpips")
    with pytest.raises(ValueError, match="policy is 'greedy'; both measured random, guide-blind, max-error"):
        ask(policy="greedy")
    with pytest.raises(ValueError, match="measured no guide-oracle; it has colorizer, guide-blind"):
        ask(network="guide-oracle")
    file = store.described["colornet/2"] | {"source": "model.pt2", "version": None}
    unregistered = write_run(tmp_path / "file", colorizer=file)
    with pytest.raises(ValueError, match=r"measured model\.pt2, which is no registered version"):
        ask(challenger=unregistered)
    with pytest.raises(ValueError, match="there is no MLflow database"):
        ask(work=tmp_path / "elsewhere")


def test_the_ruler_decides_nothing(store, bench, capsys):
    policies = ("random", "guide-blind", "no network")
    old = bench("old", rows=made_up_rows(seed=1, policies=policies))
    new = bench("new", rows=made_up_rows(seed=2, gain=0.5, policies=policies), colorizer="colornet/2")
    with pytest.raises(ValueError, match="policy is 'no network', which every network shares"):
        main(champion=old, challenger=new, policy="no network", work=store.work)
    assert champion(store) == "1"
    assert main(champion=old, challenger=new, work=store.work) == 0


def test_a_baseline_is_no_champion(bench, store):
    kernel = {"source": "kernel", "name": "kernel", "version": None, "sha256": "ab" * 32}
    folder = write_run(bench("new").parent / "kernel", colorizer=kernel)
    with pytest.raises(ValueError, match="measured kernel, which is no registered version"):
        main(challenger=folder, champion=bench("old"), work=store.work)


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A registry by dictionary, of two colorizers and of guides that read their features; and its champions."""
    champions = {"colornet": "3", "editnet-blind": "3"}

    def load(uri: str, tracking_uri: str):
        name, _, version = uri.removeprefix("models:/").replace("@champion", "/champion").partition("/")
        number = champions[name] if version == "champion" else version
        ours = {"weights": f"{name} {number}", "reads": f"colornet {number}" if name != "colornet" else ""}
        return SimpleNamespace(contract=SimpleNamespace(**ours), fingerprint=f"{name}/{number}")

    monkeypatch.setattr(mlflow_registry, "load", load)
    monkeypatch.setattr(mlflow_registry, "champion", lambda uri, name: champions[name])
    monkeypatch.setattr(
        mlflow_registry, "promote", lambda uri, name, version, why: champions.update({name: version})
    )
    folders = {}
    for version in ("3", "4"):
        networks = [
            {
                "source": f"models:/{name}/{version}",
                "name": name,
                "version": version,
                "sha256": f"{name}/{version}",
            }
            for name in champions
        ]
        rows = made_up_rows(seed=1, gain=0.5 * (version == "4"))
        guides = {"guide-blind": networks[1]}
        folders[version] = write_run(tmp_path / version, rows, colorizer=networks[0], guides=guides)
    return folders, champions


def test_a_new_pair_is_promoted_in_two_steps(pairs, capsys):
    """The old guide cannot read the new colorizer's features, so nothing can compare the guides."""
    folders, champions = pairs

    def promote_guide(version: str) -> int:
        return main(challenger=folders[version], network="guide-blind", first=True)

    assert promote_guide("4") == REFUSED  # the champions fit together
    assert main(challenger=folders["4"], champion=folders["3"]) == 0
    assert champions == {"colornet": "4", "editnet-blind": "3"}
    assert promote_guide("3") == REFUSED  # it is the one left behind
    assert promote_guide("4") == 0
    assert champions == {"colornet": "4", "editnet-blind": "4"}
    assert "which reads the features of another colorizer" in capsys.readouterr().out
    assert promote_guide("3") == REFUSED
