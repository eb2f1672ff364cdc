"""The loop's own promises: alternation, joint training, broken losses, stopping, what is saved."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from evaluator.protocol.no_network import measure_ruler
from evaluator.system.interrupts import StopRequest
from kernels.estimators import ESTIMATORS
from tests.trainer.small_training import Recorder, build, own, small_config
from trainer.config import override
from trainer.config.presets import PRESETS
from trainer.engines import Engine
from trainer.loop import Training
from trainer.recipes.base import Optimizer, Phase, Published, Recipe, Stage, Step, Term
from trainer.step import TrainingBroke


class OneConv(nn.Module):
    """A network of one layer with the colorizer's signature."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 2, 1)

    def forward(self, lightness: Tensor, clicks: Tensor) -> Tensor:
        return self.conv(torch.cat([lightness, clicks], 1))


def kernel(engine: Engine) -> Tensor:
    return engine.module.get_parameter("conv.weight").detach()


def color(step: Step, name: str) -> Tensor:
    return step.networks[name](
        step.scene.lightness, torch.zeros_like(step.scene.truth_ab[:, :1]).expand(-1, 3, -1, -1)
    )


COLORIZER_A = (Published(name="a", kind="colorizer", network="a"),)


def two_networks(stages: tuple[Stage, ...]) -> Recipe:
    return Recipe(name="test", networks={"a": OneConv, "b": OneConv}, stages=stages, published=COLORIZER_A)


def train(folder: Path, recipe: Recipe | None = None, **settings) -> Training:
    training = build(small_config(folder, **settings), folder, recipe=recipe)
    assert training.run(StopRequest())
    return training


def phase(
    name: str, trains: tuple[str, ...], borrows: tuple[str, ...], loss: Callable[[Step], Mapping[str, Term]]
):
    return Phase(name=name, trains=trains, borrows=borrows, loss=loss, optimizer=Optimizer(lr=0.01))


def test_phases_of_one_stage_alternate_on_the_same_batches_as_a_gan_needs(tmp_path: Path):
    """A "discriminator" b that raises its output on a's colors and a "generator" a that lowers b's on them."""
    order: list[tuple[str, int, bool]] = []

    def loss(step: Step, name: str, other: str, sign: float) -> Mapping[str, Term]:
        lent = step.networks[other]
        assert isinstance(lent, nn.Module)  # a borrowed network is bare
        frozen = not any(parameter.requires_grad for parameter in lent.parameters())
        order.append((name, step.images_seen, frozen))
        mixed = color(step, name) * color(step, other)
        return {"adversarial": Term(sign * mixed.mean())}

    gan = Stage(
        name="gan",
        phases=(
            phase("generator", ("a",), ("b",), lambda step: loss(step, "a", "b", 1.0)),
            phase("discriminator", ("b",), ("a",), lambda step: loss(step, "b", "a", -1.0)),
        ),
        rounds=24 / 4096,
    )
    training = build(small_config(tmp_path), tmp_path, recipe=two_networks((gan,)))
    before = {name: kernel(engine).clone() for name, engine in training.engines.items()}
    assert training.run(StopRequest())
    assert order == [(name, images, True) for images in (0, 8, 16) for name in ("a", "b")]
    for name, engine in training.engines.items():
        assert not torch.equal(kernel(engine), before[name])
        assert all(parameter.requires_grad for parameter in engine.module.parameters())


def test_one_phase_can_train_two_networks_together(tmp_path: Path):
    def loss(step: Step) -> Mapping[str, Term]:
        return {"l1": Term((color(step, "a") + color(step, "b") - step.scene.truth_ab).abs().mean())}

    together = Stage(name="joint", phases=(phase("joint", ("a", "b"), (), loss),), rounds=24 / 4096)
    training = build(small_config(tmp_path), tmp_path, recipe=two_networks((together,)))
    before = {name: kernel(engine).clone() for name, engine in training.engines.items()}
    assert training.run(StopRequest())
    assert all(not torch.equal(kernel(e), before[name]) for name, e in training.engines.items())


def test_a_phase_does_not_change_what_it_borrows(tmp_path: Path):
    """Weights and batch-norm statistics of ColorNet stand still through EditNet's phases, and the reverse."""
    config = small_config(tmp_path, recipe__rounds__cycles=0, recipe__rounds__pretrain_color=0.0)
    training = build(config, tmp_path)
    before = {name: tensor.clone() for name, tensor in training.engines["color"].module.state_dict().items()}
    assert training.run(StopRequest())
    after = training.engines["color"].module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def nan_at(photos: set[int]) -> Callable[[Step], Mapping[str, Term]]:
    def loss(step: Step) -> Mapping[str, Term]:
        error = (color(step, "a") - step.scene.truth_ab).abs().mean()
        spoiled = error * float("nan") if step.images_seen in photos else error
        return {"fine": Term(error), "spoiled": Term(spoiled)}

    return loss


def one_stage(loss: Callable[[Step], Mapping[str, Term]], steps: int) -> Recipe:
    return two_networks((Stage(name="s", phases=(phase("s", ("a",), (), loss),), rounds=steps * 8 / 4096),))


def test_a_step_without_a_finite_loss_is_skipped_and_counted(tmp_path: Path):
    training = build(small_config(tmp_path), tmp_path, recipe=one_stage(nan_at({8, 24}), 5))
    assert training.run(StopRequest())
    assert training.progress.skipped_steps == 2
    assert torch.isfinite(kernel(training.engines["a"])).all()
    metrics = training.metrics
    assert isinstance(metrics, Recorder)
    steps = [step for step, values in metrics.logged if "s/fine" in values]
    assert steps == [8, 24, 40]


def test_a_skipped_step_leaves_weights_and_optimizer_as_they_were(tmp_path: Path):
    plain = build(small_config(tmp_path / "plain"), tmp_path / "plain", recipe=one_stage(nan_at({8}), 2))
    assert plain.run(StopRequest())
    shorter = build(small_config(tmp_path / "short"), tmp_path / "short", recipe=one_stage(nan_at(set()), 1))
    assert shorter.run(StopRequest())
    for name, tensor in shorter.engines["a"].module.state_dict().items():
        assert torch.equal(tensor, plain.engines["a"].module.state_dict()[name])


class WithStatistics(OneConv):
    """The same with a batch norm before it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, lightness: Tensor, clicks: Tensor) -> Tensor:
        return self.conv(self.norm(torch.cat([lightness, clicks], 1)))


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_skipped_step_leaves_batch_norm_statistics_as_they_were(tmp_path: Path, broken: str):
    """A batch with an infinity makes the statistics NaN in the forward already."""

    def loss(step: Step) -> Mapping[str, Term]:
        lightness = step.scene.lightness
        if step.images_seen == 8 and broken == "loss":
            lightness = torch.full_like(lightness, torch.inf)
        clicks = torch.zeros_like(step.scene.truth_ab[:, :1]).expand(-1, 3, -1, -1)
        predicted = step.networks["a"](lightness, clicks)
        if step.images_seen == 8 and broken == "gradient":
            return {"root": Term((predicted * 0).abs().sum().sqrt() + 1)}
        return {"l1": Term((predicted - step.scene.truth_ab).abs().mean())}

    def recipe(steps: int) -> Recipe:
        stage = Stage(name="s", phases=(phase("s", ("a",), (), loss),), rounds=steps * 8 / 4096)
        return Recipe(name="t", networks={"a": WithStatistics}, stages=(stage,), published=COLORIZER_A)

    skipped = build(small_config(tmp_path / "two"), tmp_path / "two", recipe=recipe(2))
    assert skipped.run(StopRequest())
    assert skipped.progress.skipped_steps == 1
    one = build(small_config(tmp_path / "one"), tmp_path / "one", recipe=recipe(1))
    assert one.run(StopRequest())
    for name, tensor in one.engines["a"].module.state_dict().items():
        assert torch.equal(tensor, skipped.engines["a"].module.state_dict()[name]), name


def test_a_broken_gradient_of_one_network_skips_the_step_of_both(tmp_path: Path):
    def loss(step: Step) -> Mapping[str, Term]:
        return {"joint": Term((color(step, "a") * 0).abs().sum().sqrt() + color(step, "b").mean())}

    recipe = two_networks((Stage(name="s", phases=(phase("s", ("a", "b"), (), loss),), rounds=9 * 8 / 4096),))
    training = build(small_config(tmp_path, run__patience=3), tmp_path, recipe=recipe)
    before = kernel(training.engines["b"]).clone()
    with pytest.raises(TrainingBroke, match="gradient of a was not finite in 3 steps in a row"):
        training.run(StopRequest())
    assert torch.equal(kernel(training.engines["b"]), before)


def test_several_broken_steps_in_a_row_stop_and_name_phase_place_and_term(tmp_path: Path):
    config = small_config(tmp_path, run__patience=3)
    training = build(config, tmp_path, recipe=one_stage(nan_at({8, 24, 32, 40}), 9))
    with pytest.raises(
        TrainingBroke, match="spoiled was not finite in 3 steps in a row, last in phase s at photo 40"
    ):
        training.run(StopRequest())


def test_a_gradient_that_is_not_finite_is_skipped_too(tmp_path: Path):
    def loss(step: Step) -> Mapping[str, Term]:
        # sqrt at 0: a finite value with an infinite gradient.
        return {"root": Term((color(step, "a") * 0).abs().sum().sqrt() + color(step, "a").mean())}

    training = build(small_config(tmp_path), tmp_path, recipe=one_stage(loss, 2))
    assert training.run(StopRequest())
    assert training.progress.skipped_steps == 2
    assert torch.isfinite(kernel(training.engines["a"])).all()


@pytest.mark.training
def test_a_stop_request_saves_and_the_next_run_continues(tmp_path: Path):
    stop = StopRequest()
    config = small_config(tmp_path)
    training = build(config, tmp_path)

    class StopAt(Recorder):
        def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
            if step == 40:
                stop.signal_name = "SIGTERM"

    training.metrics = StopAt()
    assert not training.run(stop)
    assert training.progress.images_seen == 48  # the step after the request is the first that can answer it
    continued = build(config, tmp_path)
    assert continued.progress.images_seen == 48
    assert continued.run(StopRequest())
    whole = train(tmp_path / "whole")
    for name, engine in whole.engines.items():
        for key, tensor in engine.module.state_dict().items():
            assert torch.equal(tensor, continued.engines[name].module.state_dict()[key]), f"{name}.{key}"


def test_a_stop_request_during_validation_is_answered_after_it(tmp_path: Path):
    stop = StopRequest()
    config = small_config(tmp_path)
    training = build(config, tmp_path)

    class StopAtValidation(Recorder):
        def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
            if any(name.startswith("validation/") for name in metrics):
                assert training.checkpoints.list(), "the stage is saved before it is validated"
                stop.signal_name = "SIGTERM"

    training.metrics = StopAtValidation()
    assert not training.run(stop)
    assert (training.progress.stage, training.progress.stage_images) == (1, 0)


@pytest.mark.training
def test_training_can_only_continue_on_the_data_it_was_reading(tmp_path: Path):
    train(tmp_path)
    with pytest.raises(ValueError, match="cannot continue in the middle of an epoch: image_size was 16 and is 24"):
        build(small_config(tmp_path, data__image_size=24), tmp_path)


@pytest.mark.training
def test_every_stage_is_validated_with_the_guides_trained_so_far(tmp_path: Path):
    training = train(tmp_path)
    stages = groupby(training.progress.curve, key=itemgetter("stage"))
    policies = [{one["policy"] for one in curve} for _, curve in stages]
    alone = {"random", "no network"}
    guided = {*alone, "editnet-oracle", "editnet-blind"}
    assert policies == [alone, guided, guided, guided]


@pytest.mark.training
def test_the_ruler_is_measured_once_and_joins_every_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls = []

    def counted(*given, **more):
        calls.append(more["first_index"])
        return measure_ruler(*given, **more)

    monkeypatch.setattr("trainer.validation.measure_ruler", counted)
    training = train(tmp_path)
    assert calls == [0]
    name = {"policy": "no network", "metric": "ab_psnr", "clicks": 2}
    values = [one["value"] for one in training.progress.curve if name.items() <= one.items()]
    assert len(values) == 4
    assert len(set(values)) == 1
    alone = measure_ruler(training.validation.photos, training.validation.protocol)
    assert values[0] == pytest.approx(alone.values("no network", "ab_psnr")[:, 2].mean())
    assert training.results is not None
    assert training.results.policies[-1] == "no network"


@pytest.mark.training
def test_the_estimators_all_train(tmp_path: Path):
    alone = {"recipe__rounds__pretrain_color": 0.0, "recipe__rounds__pretrain_edit": 0.0, "validation__photos": 2}
    for estimator in ESTIMATORS:
        training = train(
            tmp_path / estimator, recipe__choice__estimator=estimator, recipe__choice__hint_size=(1, 3), **alone
        )
        assert training.progress.images_seen > 0
        assert training.progress.skipped_steps == 0


@pytest.mark.training
def test_both_targets_train_and_differ(tmp_path: Path):
    weights = []
    for target in ("error", "region"):
        training = train(tmp_path / target, recipe__loss__target=target)
        assert training.progress.skipped_steps == 0
        weights.append(training.engines["edit_oracle"].module.get_parameter("unet.final_conv.weight"))
    assert not torch.equal(*weights)


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.training
def test_every_preset_takes_a_step_of_each_phase(tmp_path: Path, preset: str):
    """With its own settings, but small photos and networks of one channel, so that none is broken unseen."""
    config = PRESETS[preset]()
    side = 2 ** (len(own(config).color_widths) - 1)
    small = {
        "data.image_size": side, "data.batch_size": 2, "data.workers": 0, "run.work": str(tmp_path),
        "recipe.color_widths": (4,) * len(own(config).color_widths), "recipe.edit_widths": (4,) *
        len(own(config).edit_widths), "validation.photos": 2, "validation.clicks": (0, 1),
        "recipe.loss.perceptual": "off", **{f"recipe.rounds.{name}": 2 / 4096 for name in ("pretrain_color",
        "pretrain_edit", "ping", "pong")}, "recipe.rounds.cycles": 1, "engine.threads": 1,
    }  # fmt: skip
    training = build(override(config, small), tmp_path)
    assert training.run(StopRequest())
    assert training.progress.skipped_steps == 0


def test_the_recipe_is_the_thesis(tmp_path: Path):
    recipe = small_config(tmp_path, recipe__rounds__cycles=2).recipe.build()
    assert [stage.name for stage in recipe.stages] == [
        "pretrain-color", "pretrain-edit", "ping-1", "pong-1", "ping-2", "pong-2"
    ]  # fmt: skip
    ping, pong = recipe.stages[2], recipe.stages[3]
    assert [(p.trains, set(p.borrows)) for p in ping.phases] == [(("color",), {"edit_oracle", "edit_blind"})]
    assert [(p.trains, p.borrows) for p in pong.phases] == [
        (("edit_oracle",), ("color",)),
        (("edit_blind",), ("color",)),
    ]


def test_a_recipe_that_names_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match=r"phase x names \['c'\]"):
        two_networks((Stage(name="x", phases=(phase("x", ("c",), (), nan_at(set())),), rounds=1.0),))
    with pytest.raises(ValueError, match="name each once"):
        phase("x", ("a",), ("a",), nan_at(set()))


def test_stages_of_zero_rounds_are_left_out(tmp_path: Path):
    recipe = small_config(tmp_path, recipe__rounds__pretrain_edit=0.0, recipe__rounds__cycles=0).recipe.build()
    assert [stage.name for stage in recipe.stages] == ["pretrain-color"]


def test_a_stage_is_at_least_as_long_as_its_rounds():
    stage = replace(
        two_networks((Stage(name="s", phases=(phase("s", ("a",), (), nan_at(set())),), rounds=1.5),)).stages[0]
    )
    assert stage.batches(samples_per_epoch=100, batch_size=16) == 10
    assert replace(stage, rounds=1e-4).batches(samples_per_epoch=4096, batch_size=16) == 1
    assert replace(stage, rounds=1.0).batches(samples_per_epoch=96, batch_size=16) == 6
