import pytest

from tuner.records import Measure, Report, Trial
from tuner.report.analysis import NOWHERE, MetricScale, SettingScale, written
from tuner.search.space import EXTRA_SHARE, Domain


def test_a_logarithmic_range_lies_above_its_extra_values():
    scale = SettingScale(
        Domain(path="recipe.loss.entropy", kind="log_uniform", low=1e-4, high=1e-1, extra=(0.0, 1e-6))
    )
    places = [scale.place(value) for value in (0.0, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1)]
    above = 1 - EXTRA_SHARE
    wanted = [
        EXTRA_SHARE / 4,
        3 * EXTRA_SHARE / 4,
        EXTRA_SHARE,
        EXTRA_SHARE + above / 3,
        EXTRA_SHARE + above * 2 / 3,
    ]
    assert places == pytest.approx([*wanted, 1.0])
    assert [text for _, text in scale.ticks] == ["0", "1e-06", "0.0001", "0.001", "0.01", "0.1"]
    assert [place for place, _ in scale.ticks] == pytest.approx(places)


def test_a_range_without_extra_values_fills_the_axis_and_nothing_leaves_it():
    scale = SettingScale(Domain(path="recipe.clicks.interactions", kind="integer", low=1, high=3))
    assert [scale.place(value) for value in (1, 2, 3, 9)] == [0.0, 0.5, 1.0, 1.0]
    assert scale.place(None) == NOWHERE
    assert scale.thirds()[1] == pytest.approx((1 + 2 / 3, 1 + 4 / 3))


def test_choices_are_evenly_spaced_and_lists_are_choices_too():
    scale = SettingScale(Domain(path="recipe.choice.hint_size", kind="choice", values=((1, 1), (3, 3), (1, 5))))
    assert [scale.place(value) for value in ([1, 1], (3, 3), [1, 5])] == [0.0, 0.5, 1.0]
    assert scale.ticks[2] == (1.0, "1 5")
    assert SettingScale(Domain(path="seed", kind="choice", values=(7,))).place(7) == 0.5


def test_a_metric_has_its_best_value_at_the_top():
    trials = [
        Trial(f"t{n}", n, "finished", {}, (Report(1, "a", 1.0, {"lpips": value}),))
        for n, value in enumerate((0.3, 0.1, None))
    ]
    scale = MetricScale.of(Measure("lpips", "min", "LPIPS"), trials)
    assert [scale.place(value) for value in (0.3, 0.2, 0.1, None)] == pytest.approx([0.0, 0.5, 1.0, NOWHERE])
    assert [text for _, text in scale.ticks] == ["0.3", "0.2", "0.1"]
    level = MetricScale.of(Measure("lpips", "min", "LPIPS"), trials[:1])
    assert level.place(0.3) == 0.5
    assert level.ticks == [(0.5, "0.3")]


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.123456, "0.1235"), (3, "3"), (True, "True"), ([1, 0.5], "1 0.5")]
)
def test_values_are_written_for_people(value: object, text: str):
    assert written(value) == text
