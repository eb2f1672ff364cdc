"""Presets, overrides and what a config refuses."""

import ast
import inspect
from pathlib import Path

import pytest

from tests.trainer.small_training import own
from trainer.config import Config, flatten, override
from trainer.config.presets import PRESETS, paper, tiny, without_effect
from trainer.networks import COLORNET_WIDTHS, EDITNET_WIDTHS


def small_unet() -> Config:
    """`tiny` with the thesis' kind of networks."""
    unet = {
        "recipe.network": "unet",
        "recipe.guide": "own",
        "recipe.loss.target": "region",
        "recipe.clicks.most_random": 4,
    }
    return override(tiny(), {**unet, "recipe.color_widths": (8, 16, 32), "recipe.edit_widths": (4, 8, 8)})


def test_the_paper_preset_is_the_thesis():
    config = paper()
    assert (own(config).color_widths, own(config).edit_widths) == (COLORNET_WIDTHS, EDITNET_WIDTHS)
    assert (config.data.image_size, config.data.scale_jitter) == (256, 20)
    rounds = own(config).rounds
    assert (rounds.pretrain_color, rounds.pretrain_edit, rounds.ping, rounds.pong, rounds.cycles) == (
        2,
        2,
        2,
        2,
        4,
    )
    assert (own(config).optimizer.clip, own(config).choice.hint_size, own(config).loss.target) == (
        1.0,
        (1, 1),
        "error",
    )
    assert not own(config).loss.heatmap_in_pretraining
    assert set(config.validation.clicks) >= {1, 5, 10, 20}


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets_name_themselves(preset: str):
    assert PRESETS[preset]().preset == preset


def test_override_replaces_dotted_fields_and_leaves_the_rest():
    before = flatten(tiny())
    after = flatten(override(tiny(), {"recipe.loss.entropy": 0.02, "recipe.choice.tau.start": 3.0, "seed": 7}))
    assert {name: value for name, value in after.items() if before[name] != value} == {
        "recipe.loss.entropy": 0.02, "recipe.choice.tau.start": 3.0, "seed": 7
    }  # fmt: skip


def test_override_checks_the_whole_whatever_the_order():
    values = {"data.image_size": 16, "recipe.color_widths": (8, 8, 16), "recipe.edit_widths": (4, 8, 8)}
    for order in (values, dict(reversed(values.items()))):
        assert own(override(small_unet(), order)).color_widths == (8, 8, 16)


def test_override_checks_again():
    with pytest.raises(ValueError, match="entropy is -1"):
        override(tiny(), {"recipe.loss.entropy": -1.0})
    with pytest.raises(ValueError, match=r"image_size is 72; these networks need a multiple of 32: change it$"):
        override(tiny(), {"data.image_size": 72})
    for values, deep in (
        ({"recipe.guide": "own"}, "recipe.edit_widths"),
        ({"recipe.guide": "own", "recipe.network": "unet"}, "recipe.color_widths and recipe.edit_widths"),
    ):
        with pytest.raises(ValueError, match=f"change it, or give fewer widths in {deep}$"):
            override(paper(), {"data.image_size": 192, "recipe.network": "split", **values})


@pytest.mark.parametrize("name", ["recipe.loss.entropi", "los.entropy", "recipe.loss.entropy.x", ""])
def test_override_names_what_it_does_not_know(name: str):
    with pytest.raises(ValueError, match="there is no setting"):
        override(tiny(), {name: 1})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data.corrupt_limit": 1.5}, "corrupt_limit is 1.5"),
        ({"recipe.optimizer.color_lr": 0.0}, "recipe.optimizer.color_lr is 0.0"),
        ({"validation.clicks": (5, 1)}, "increasing budgets"),
        ({"recipe.choice.hint_size": (3, 1)}, "smallest <= largest"),
        ({"recipe.clicks.most_random": 4096}, "do not fit"),
        ({"run.name": "../x"}, "plain folder name"),
        ({"recipe.color_widths": (8,)}, "at least two positive widths"),
        ({"data.batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"recipe.rounds.ping": float("nan")}, "ping is nan"),
        (
            {"recipe.optimizer.color_lr": float("inf")},
            "recipe.optimizer.color_lr is inf; it must be a finite number",
        ),
        (
            {"recipe.rounds.pretrain_color": 0.0, "recipe.rounds.pretrain_edit": 0.0, "recipe.rounds.cycles": 0},
            "all rounds are 0",
        ),
        ({"recipe.network": "unet"}, "recipe.guide is head, which reads the split network's features"),
        ({"recipe.click_widths": (8, 3, 8)}, r"recipe.click_widths is \(8, 3, 8\); give at least 4 channels each"),
        ({"recipe.choice.estimator": "gumbel_softmax_soft"}, "clicks every pixel a little"),
        ({"recipe.loss.gain_tries": 7}, "gain_tries is 7; it must be at least 8"),
        ({"recipe.clicks.maps": 0}, "maps is 0"),
        ({"recipe.optimizer.decay_until": 0.0}, "decay_until is 0; give a share of the phase above 0"),
        (
            {"recipe.loss.recoloured": 0.0, "recipe.loss.gain": 0.0},
            "recipe.loss.recoloured is 0, and so is the weight of what",
        ),
    ],
)
def test_impossible_settings_are_named(values: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        override(tiny(), values)


def test_every_setting_explains_itself():
    """The command line's help shows attribute docstrings, so each setting that is not a group needs one."""
    for node in ast.walk(ast.parse(Path(inspect.getfile(Config)).read_text())):
        if not isinstance(node, ast.ClassDef):
            continue
        for field, following in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and not ast.unparse(field.annotation).endswith("Config"):
                explained = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                assert explained, f"{node.name}.{ast.unparse(field.target)} has no docstring"


@pytest.mark.parametrize(
    ("values", "note"),
    [
        ({"data.workers": 3}, "data.workers 3 has no effect: it is for shards"),
        ({"recipe.choice.tau.start": 3.0}, "recipe.choice.tau.start 3.0 has no effect: argmax_ste has no tau"),
        ({"recipe.loss.error_blur": 1.0}, "recipe.loss.error_blur 1.0 has no effect: the target is `gain`"),
        ({"recipe.color_widths": (8, 8)}, "recipe.color_widths (8, 8) has no effect: recipe.network is split"),
        ({"recipe.edit_widths": (8, 8)}, "recipe.edit_widths (8, 8) has no effect: recipe.guide is head"),
        (
            {"recipe.guide": "own", "recipe.edit_widths": (4, 8), "recipe.guide_widths": (8, 8, 8)},
            "recipe.guide_widths (8, 8, 8) has no effect: recipe.guide is own",
        ),
        (
            {"recipe.loss.heatmap": 0.2, "recipe.loss.entropy": 0.0},
            "recipe.loss.heatmap 0.2 has no effect: recipe.loss.entropy is 0",
        ),
        (
            {"recipe.choice.temperature.shape": "exponential"},
            "recipe.choice.temperature.shape exponential has no effect: it starts and ends at the same value",
        ),
        (
            {"data.train": ("a.tar",)},
            "data.validation is empty: validating on the embedded photographs and scenes",
        ),
        ({"data.order": "stream"}, "data.order stream has no effect: it is for shards"),
        (
            {"data.train": ("a.tar",), "data.round_photos": 9},
            "data.round_photos 9 has no effect: data.order is exact",
        ),
        (
            {"data.train": ("a.tar",), "data.order": "stream", "data.cache": "kept"},
            "data.cache kept has no effect: data.order is stream",
        ),
    ],
)
def test_settings_without_effect_are_said(values: dict[str, object], note: str):
    assert any(found.startswith(note) for found in without_effect(override(tiny(), values)))
    assert without_effect(tiny()) == []


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("recipe.encoder", "efficientnet-lite0", "recipe.network is unet"),
        ("recipe.photo_widths", (8, 8, 8, 8), "recipe.network is unet"),
        ("recipe.click_widths", (8, 8, 8), "recipe.network is unet"),
        ("recipe.without", ("copy",), "recipe.network is unet"),
        ("recipe.guide_widths", (8, 8, 8), "recipe.guide is own"),
        ("recipe.loss.base", 0.5, "recipe.network is unet"),
        ("recipe.loss.distribution", 0.5, "recipe.network is unet"),
        ("recipe.loss.gain", 0.5, "the target is `error`"),
        ("recipe.loss.gain_loss", "centred", "the target is `error`"),
        ("recipe.loss.gain_tries", 24, "the target is `error`"),
    ],
)
def test_what_only_a_split_network_or_gains_read_is_said_in_the_thesis_recipe(
    name: str, value: object, reason: str
):
    assert without_effect(override(paper(), {name: value})) == [f"{name} {value} has no effect: {reason}"]


@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_preset_has_no_setting_without_effect(preset: str):
    assert [note for note in without_effect(PRESETS[preset]()) if "no effect" in note] == []


def test_the_serving_preset_is_what_the_page_wants():
    config = PRESETS["serving"]()
    assert (config.data.image_size, own(config).network, own(config).guide) == (256, "split", "head")
    assert (own(config).loss.target, own(config).clicks.law) == ("gain", "geometric")
