"""A training that begins with a shared pretraining is the training from scratch, bit for bit."""

import fcntl
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch

from evaluator.system.interrupts import StopRequest
from tests.trainer.small_training import SPLIT, small_config, weights
from trainer import warm_start
from trainer.checkpoint import STATE_FILE, read_state
from trainer.components import Parts
from trainer.config import Config, flatten, override
from trainer.config.overrides import annotations
from trainer.loop import Training
from trainer.monitoring.tracker import NullTracker
from trainer.session import Hooks, Session
from trainer.warm_start import find_or_pretrain, fingerprint, shared_pretraining

# Three steps of ColorNet's pretraining, so that the schedules and the optimizer's state can be got wrong.
STEP = 8 / 4096
SHORT = {f"recipe__rounds__{name}": STEP for name in ("pretrain_edit", "ping", "pong")} | {
    "recipe__rounds__pretrain_color": 3 * STEP, "run__checkpoint_every": 1000, "recipe__clicks__interactions": 1
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.session.open_tracker", lambda *_, **__: NullTracker())
    monkeypatch.setattr("trainer.session.conclude", lambda *_: None)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages of all training steps so far."""
    taken: list[str] = []
    step = Training.step

    def counted(self: Training, stage: Any, *rest: Any) -> Any:
        taken.append(stage.name)
        return step(self, stage, *rest)

    monkeypatch.setattr(Training, "step", counted)
    return taken


def train(config: Config, hooks: Hooks) -> Training:
    with Session.open(config, resume=False, hooks=hooks) as session:
        assert session.run(StopRequest())
    return session.training


def pretrain(parts: Parts, folder: Path) -> dict[str, Any]:
    """The state at the end of the pretraining."""
    found = find_or_pretrain(parts, folder)
    assert found is not None
    return read_state(found)


def networks(state: dict[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    return {name: engine["network"] for name, engine in state["engines"].items()}


def assert_same(one: dict[str, dict[str, torch.Tensor]], other: dict[str, dict[str, torch.Tensor]]) -> None:
    for network, tensors in one.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other[network][name]), f"{network}.{name}"


@pytest.mark.training
def test_a_training_from_a_shared_pretraining_equals_one_from_scratch(tmp_path: Path, steps: list[str]):
    config = small_config(tmp_path, **SHORT)
    scratch = train(override(config, {"run.name": "scratch"}), Hooks(quiet=True))
    steps.clear()
    hooks = Hooks(quiet=True, pretrained=tmp_path / "pretrained")
    shared = train(override(config, {"run.name": "shared"}), hooks)
    assert "pretrain-color" in steps
    assert_same(weights(scratch), weights(shared))
    assert shared.progress == scratch.progress
    assert shared.results is not None
    assert scratch.results is not None
    assert shared.results.rows() == scratch.results.rows()
    steps.clear()
    other = override(config, {"run.name": "other", "recipe.loss.entropy": 0.5})
    first, again = ([one for one in t.progress.curve if one["stage"] == 0] for t in (scratch, train(other, hooks)))
    assert first
    assert first == again
    assert set(steps) == {"pretrain-edit", "ping-1", "pong-1"}


def test_a_training_without_that_stage_has_nothing_to_share(tmp_path: Path):
    assert shared_pretraining(small_config(tmp_path, recipe__rounds__pretrain_color=0.0)) is None
    assert not (tmp_path / "pretrained").exists()


def another(name: str, value: Any, config: Config) -> Any:
    """A value that the setting may have and does not."""
    special: dict[str, Any] = {
        "data.train": None, "data.manifest": "elsewhere.json", "data.image_size": 32, "data.batch_size": 16,
        "recipe.color_widths": (8, 12, 16), "recipe.edit_widths": (4, 8, 12), "engine.precision": "bf16",
        "recipe.choice.hint_size": (1, 2), "validation.clicks": (0, 3), "run.work": None,
        "recipe.choice.estimator": "reinmax", "engine.compile": None, "recipe.loss.perceptual": "auto",
        "run.name": "other", "data.validation": None, "recipe.begin_with": None, "recipe.without": ("copy",),
        "recipe.photo_widths": (8, 12, 8, 8), "recipe.click_widths": (8, 12, 8), "recipe.guide_widths": (8, 12,
        8), "recipe.guide": None, "recipe.network": None,
    }  # fmt: skip
    if name in special:
        return special[name]
    wanted = annotations(config)[name]
    if get_origin(wanted) is Literal:
        return next(choice for choice in get_args(wanted) if choice != value)
    if isinstance(value, bool):
        return not value
    return f"{value}x" if isinstance(value, str) else value / 2 if isinstance(value, float) else value + 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", [{}, SPLIT], ids=["unet", "split"])
def test_every_setting_changes_the_fingerprint_or_leaves_the_weights_alone(tmp_path: Path, kind: dict[str, Any]):
    """Each is changed by itself; left out: what needs shards or a compiler, names of files, other networks."""
    base = small_config(tmp_path, **SHORT, **kind, recipe__loss__perceptual="off")
    parts = Parts.of(base, quiet=True)
    name_of_base, before = fingerprint(parts), pretrain(parts, tmp_path / "pretrained")
    changed, unchanged = set(), set()
    for name, value in flatten(base).items():
        other = another(name, value, base)
        if other is None:
            continue
        parts = Parts.of(override(base, {name: other}), quiet=True)
        if fingerprint(parts) != name_of_base:
            changed.add(name)
            continue
        unchanged.add(name)
        after = pretrain(parts, tmp_path / f"with-{name}")
        assert_same(networks(before), networks(after))
    assert changed >= {
        "seed",
        "data.batch_size",
        "recipe.color_widths",
        "recipe.clicks.most_random",
        "recipe.optimizer.color_lr",
    }
    assert changed >= {
        "recipe.rounds.pretrain_color",
        "recipe.choice.hint_size",
        "engine.precision",
        "data.photo_share",
    }
    assert changed >= {
        "recipe.loss.color",
        "recipe.loss.base",
        "recipe.loss.distribution",
        "recipe.clicks.law",
        "recipe.clicks.maps",
    }
    assert changed >= {"recipe.encoder", "recipe.photo_widths", "recipe.click_widths", "recipe.without"}
    assert changed >= {"recipe.optimizer.decay_until"}
    assert unchanged >= {
        "recipe.loss.entropy",
        "recipe.choice.estimator",
        "recipe.choice.tau.start",
        "recipe.edit_widths",
        "recipe.rounds.cycles",
    }
    assert unchanged >= {
        "recipe.loss.target",
        "recipe.loss.gain",
        "recipe.loss.gain_loss",
        "recipe.loss.gain_tries",
        "recipe.loss.recoloured",
    }
    assert unchanged >= {"recipe.guide_widths", "recipe.clicks.interactions"}


def test_the_fingerprint_knows_what_a_split_pretraining_reads(tmp_path: Path):
    """The slow test above trains with every setting; these are the names alone."""
    base = small_config(tmp_path, **SHORT, **SPLIT, recipe__loss__perceptual="off")
    of_base = fingerprint(Parts.of(base, quiet=True))

    def changes(name: str) -> bool:
        other = override(base, {name: another(name, flatten(base)[name], base)})
        return fingerprint(Parts.of(other, quiet=True)) != of_base

    read = (
        "recipe.encoder",
        "recipe.photo_widths",
        "recipe.without",
        "recipe.loss.color",
        "recipe.loss.base",
        "recipe.clicks.maps",
    )
    assert [
        name for name in (*read, "recipe.clicks.law", "recipe.optimizer.decay_until") if not changes(name)
    ] == []
    unread = (
        "recipe.guide_widths",
        "recipe.loss.gain",
        "recipe.loss.gain_loss",
        "recipe.loss.gain_tries",
        "recipe.loss.recoloured",
    )
    assert [name for name in (*unread, "recipe.loss.target", "recipe.clicks.interactions") if changes(name)] == []


@pytest.mark.training
def test_a_shared_pretraining_begins_with_the_other_run_too(tmp_path: Path, steps: list[str]):
    """Like a training from scratch that does, its guides included; another beginning is another pretraining."""
    config = small_config(tmp_path, **SHORT, validation__photos=1)
    for seed in (5, 6):
        train(override(config, {"run.name": f"before-{seed}", "seed": seed}), Hooks(quiet=True))
    config = override(config, {"recipe.begin_with": str(tmp_path / "before-5")})
    scratch = train(override(config, {"run.name": "scratch"}), Hooks(quiet=True))
    hooks = Hooks(quiet=True, pretrained=tmp_path / "pretrained")
    shared = train(override(config, {"run.name": "shared"}), hooks)
    assert_same(weights(scratch), weights(shared))
    steps.clear()
    shutil.copytree(tmp_path / "before-5", tmp_path / "copy")
    train(override(config, {"run.name": "again", "recipe.begin_with": str(tmp_path / "copy")}), hooks)
    assert "pretrain-color" not in steps
    other = override(config, {"run.name": "other", "recipe.begin_with": str(tmp_path / "before-6")})
    train(other, hooks)
    assert "pretrain-color" in steps


def test_shards_with_other_photos_have_another_fingerprint(tmp_path: Path, make_shards: Callable[..., Path]):
    def name(shards: Path) -> str:
        config = small_config(tmp_path, data__train=(str(shards),))
        return fingerprint(Parts.of(config, quiet=True))

    one = make_shards(tmp_path / "one", [7, 12])
    assert name(one) == name(Path(shutil.copytree(one, tmp_path / "copy")))
    assert name(one) != name(make_shards(tmp_path / "other", [7, 13]))


def test_a_pretraining_that_was_killed_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = small_config(tmp_path, recipe__rounds__pretrain_color=6 * STEP, run__checkpoint_every=16)
    whole = pretrain(Parts.of(config, quiet=True), tmp_path / "whole")
    step, taken = Training.step, []

    def killed(self: Training, *words: Any) -> Any:
        taken.append(self.progress.images_seen)
        if len(taken) == 5:
            raise KeyboardInterrupt
        return step(self, *words)

    monkeypatch.setattr(Training, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        find_or_pretrain(Parts.of(config, quiet=True), tmp_path / "killed")
    assert not list((tmp_path / "killed").glob(f"*/{STATE_FILE}"))
    again = pretrain(Parts.of(config, quiet=True), tmp_path / "killed")
    assert taken == [0, 8, 16, 24, 32, 32, 40]
    assert_same(networks(whole), networks(again))


def test_who_comes_while_another_one_pretrains_waits_and_takes_what_was_made(
    tmp_path: Path, steps: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(warm_start, "_SECONDS_BETWEEN_TRIES", 0.01)
    config = small_config(tmp_path, **SHORT)
    made = find_or_pretrain(Parts.of(config, quiet=True), tmp_path / "elsewhere")
    assert made is not None
    parts, target = Parts.of(config, quiet=True), tmp_path / "pretrained" / made.name
    target.parent.mkdir()
    steps.clear()
    found: list[Path | None] = []
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(target=lambda: found.append(find_or_pretrain(parts, target.parent)))
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        made.rename(target)
    waiting.join(10)
    assert found == [target]
    assert not steps
