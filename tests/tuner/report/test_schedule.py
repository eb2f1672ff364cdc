from dataclasses import replace

import pytest

from tests.tuner.made_up_sweep import PHOTOS, made_up_trial
from trainer.config import override
from tuner.records import Leg
from tuner.report.figures import curves, spans
from tuner.search.presets import smoke

VALUES = {
    "recipe.choice.estimator": "argmax_ste",
    "recipe.loss.entropy": 0.0,
    "recipe.choice.temperature.shape": "exponential",
    "recipe.choice.temperature.start": 2.0,
    "recipe.choice.temperature.end": 0.5,
}


def test_stages_end_where_they_reported_and_the_others_in_proportion():
    config = smoke().base
    found = spans(config, made_up_trial(0, VALUES))
    assert [span.name for span in found] == [
        "pretrain-color",
        "pretrain-edit",
        "ping-1",
        "pong-1",
        "ping-2",
        "pong-2",
    ]
    assert [span.end / PHOTOS for span in found] == pytest.approx([0.5, 0.625, 0.6875, 0.75, 0.8125, 0.875])
    assert [span.start for span in found[1:]] == [span.end for span in found[:-1]]
    early = spans(config, made_up_trial(0, VALUES, 3))
    assert early[-1].end == pytest.approx(0.875 * PHOTOS), "never reached, where it would have ended"


def test_a_schedule_begins_anew_in_each_stage_in_which_a_guide_chooses():
    config = override(smoke().base, VALUES)
    (curve,) = curves(config, made_up_trial(0, VALUES))
    assert len(curve.pieces) == 5
    for photos, values in ((piece.photos, piece.values) for piece in curve.pieces):
        assert (values[0], values[-1]) == pytest.approx((2.0, 0.5))
        assert (values[:-1] > values[1:]).all()
        assert photos[0] >= 0.5 * PHOTOS
    assert curve.words == "T of the heat map, in each stage exponential from 2 to 0.5"


def test_an_estimator_with_a_relaxation_has_a_second_curve():
    values = {**VALUES, "recipe.choice.estimator": "gumbel_softmax", "recipe.choice.temperature.shape": "constant"}
    temperature, tau = curves(override(smoke().base, values), made_up_trial(0, values))
    assert temperature.words == "T of the heat map, constant at 2"
    assert tau.name == "tau of the estimator"


def test_stage_names_that_are_not_the_recipes_still_give_a_scale():
    trial = made_up_trial(0, VALUES)
    renamed = replace(trial, reports=tuple(replace(report, stage="x") for report in trial.reports))
    assert spans(smoke().base, renamed)[-1].end == trial.reports[-1].images_seen


def test_a_schedule_that_changed_on_the_way_is_drawn_as_it_was():
    before = {**VALUES, "recipe.choice.temperature.start": 3.0}
    legs = (Leg(0, before, "other"), Leg(round(0.75 * PHOTOS), VALUES, "mine"))
    (curve,) = curves(override(smoke().base, VALUES), replace(made_up_trial(0, VALUES), legs=legs))
    assert [piece.values[0] for piece in curve.pieces] == pytest.approx([3.0, 3.0, 3.0, 2.0, 2.0])
    assert "from pretrain-edit on in each stage exponential from 3" in curve.words
    assert "from ping-2 on in each stage exponential from 2 to 0.5" in curve.words
