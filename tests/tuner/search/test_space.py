import math
from pathlib import Path

import optuna
import pytest

from trainer.config import flatten, override
from trainer.config.presets import tiny
from tuner.search.presets import PRESETS
from tuner.search.space import EXTRA_SHARE, Domain, Space, parse_space, read_space

ENTROPY = Domain(path="recipe.loss.entropy", kind="log_uniform", low=1e-3, high=0.1, extra=(0.0,))
SHAPE = Domain(path="recipe.choice.temperature.shape", kind="choice", values=("constant", "exponential"))
END = Domain(
    path="recipe.choice.temperature.end",
    kind="log_uniform",
    low=0.1,
    high=1.0,
    when={"recipe.choice.temperature.shape": ("exponential",)},
)


def draws(space: Space, count: int, seed: int = 0) -> list[dict]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [space.suggest(study.ask()) for _ in range(count)]


def test_draws_lie_in_the_domain_or_are_extra_values():
    values = [point["recipe.loss.entropy"] for point in draws(Space((ENTROPY,), tiny()), 400)]
    assert all(value == 0 or 1e-3 <= value <= 0.1 for value in values)
    assert 0.5 * EXTRA_SHARE < values.count(0.0) / 400 < 1.5 * EXTRA_SHARE
    inside = [math.log10(value) for value in values if value]
    assert abs(sum(inside) / len(inside) + 2) < 0.1, "uniform in the logarithm: its middle is 0.01"


@pytest.mark.parametrize(
    ("domain", "allowed"),
    [
        (Domain(path="recipe.clicks.interactions", kind="integer", low=1, high=3), {1, 2, 3}),
        (Domain(path="recipe.clicks.most_random", kind="integer", low=8, high=9, extra=(2, 4)), {2, 4, 8, 9}),
        (Domain(path="validation.clicks", kind="choice", values=([0, 1], [0, 5])), {"[0, 1]", "[0, 5]"}),
    ],
)
def test_every_value_of_a_small_domain_is_drawn(domain: Domain, allowed: set):
    found = {
        value if isinstance(value, int) else str(value)
        for value in (point[domain.path] for point in draws(Space((domain,), tiny()), 100))
    }
    assert found == allowed


def test_extra_values_of_a_linear_range_keep_their_share():
    domain = Domain(path="recipe.choice.temperature.warmup", kind="uniform", low=0.1, high=0.5, extra=(0.0, 0.05))
    values = [point[domain.path] for point in draws(Space((domain,), tiny()), 600)]
    assert all(value in (0.0, 0.05) or 0.1 <= value <= 0.5 for value in values)
    assert min(values.count(0.0), values.count(0.05)) > 600 * EXTRA_SHARE / 4


def test_a_condition_leaves_a_setting_out_where_it_has_no_effect():
    space = Space((SHAPE, END), tiny())
    points = draws(space, 60)
    assert {"recipe.choice.temperature.end" in point for point in points} == {True, False}
    for point in points:
        assert ("recipe.choice.temperature.end" in point) == (
            point["recipe.choice.temperature.shape"] == "exponential"
        )
        assert space.active(space.complete(point)) == point


def test_a_condition_on_a_setting_that_is_not_searched_reads_the_base_config():
    with pytest.raises(ValueError, match="never holds"):
        Space((END,), tiny())
    moving = override(tiny(), {"recipe.choice.temperature.shape": "exponential"})
    assert all(point for point in draws(Space((END,), moving), 3))


@pytest.mark.parametrize(
    ("when", "message"),
    [
        (
            {"recipe.choice.temperature.shape": ("warmup_cosine",)},
            "is searched over constant, exponential; did you mean",
        ),
        ({"recipe.clicks.interactions": (9,)}, "searched over 1, 2, 3; did you mean 3?"),
        ({"recipe.loss.entropy": (0.05123,)}, "a range never has exactly this value"),
        ({"recipe.choice.estimator": ("reinmax",)}, "recipe.choice.estimator is not searched and is 'argmax_ste'"),
    ],
)
def test_a_condition_that_never_holds_is_refused(when: dict, message: str):
    number = Domain(path="recipe.clicks.interactions", kind="integer", low=1, high=3)
    end = Domain(path="recipe.choice.temperature.end", kind="uniform", low=0.1, high=1.0, when=when)
    base = override(tiny(), {"recipe.choice.estimator": "argmax_ste"})
    with pytest.raises(ValueError, match=r"choice\.temperature\.end: its condition .* never holds") as refused:
        Space((SHAPE, number, ENTROPY, end), base)
    assert message in str(refused.value)


def test_a_condition_may_hold_at_the_bases_value_of_a_setting_that_is_conditional_itself():
    kept = flatten(tiny())["recipe.choice.temperature.end"]
    warmup = Domain(
        path="recipe.choice.temperature.warmup", kind="uniform", low=0.1, high=0.5, when={END.path: (kept,)}
    )
    Space((SHAPE, END, warmup), tiny())


def test_the_grid_is_every_combination_that_differs():
    grid = Space((ENTROPY, SHAPE, END), tiny()).grid()
    assert len(grid) == 4 * (1 + 3), "0 and 3 of the entropy, times constant, and exponential with 3 ends"
    assert len({tuple(point.items()) for point in grid}) == len(grid)
    values = sorted({point["recipe.loss.entropy"] for point in grid})
    assert values == pytest.approx([0, 1e-3, 1e-2, 1e-1])


@pytest.mark.parametrize(
    ("domain", "values"),
    [
        (Domain(path="recipe.clicks.interactions", kind="integer", low=1, high=2, points=3), (1, 2)),
        (Domain(path="recipe.clicks.most_random", kind="integer", low=1, high=9, points=3), (1, 5, 9)),
        (Domain(path="recipe.loss.lpips", kind="uniform", low=1, high=2, points=5), (1, 1.25, 1.5, 1.75, 2)),
    ],
)
def test_grid_points_of_a_range_are_evenly_spaced(domain: Domain, values: tuple):
    assert domain.grid() == values


def test_a_grid_that_nobody_could_want_is_refused():
    domains = tuple(
        Domain(path=path, kind="log_uniform", low=0.1, high=1, points=30)
        for path in ("recipe.loss.heatmap", "recipe.loss.lpips", "recipe.loss.entropy")
    )
    with pytest.raises(ValueError, match="more than 10,000 points"):
        Space(domains, tiny()).grid()


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        (Domain(path="recipe.loss.entropi", kind="choice", values=(1,)), "did you mean recipe.loss.entropy"),
        (Domain(path="loss", kind="choice", values=(1,)), "no setting 'loss'"),
        (
            Domain(path="recipe.choice.estimator", kind="choice", values=("gumbel_sofmax",)),
            "did you mean gumbel_softmax",
        ),
        (Domain(path="recipe.clicks.interactions", kind="uniform", low=1, high=2.5), "interactions cannot be"),
        (Domain(path="recipe.loss.entropy", kind="choice", values=("high",)), "entropy cannot be 'high'"),
        (
            Domain(path="recipe.loss.entropy", kind="uniform", low=-1, high=1),
            "entropy cannot be -1: entropy is -1.0",
        ),
        (Domain(path="data.image_size", kind="choice", values=(64, 65)), "cannot be 65.*multiple"),
        (
            Domain(path="recipe.loss.entropy", kind="choice", values=(1,), when={"recipe.choice.estimatr": (1,)}),
            "recipe.choice.estimator",
        ),
    ],
)
def test_what_no_trial_could_be_made_of_is_refused(domain: Domain, message: str):
    with pytest.raises(ValueError, match=message):
        Space((domain,), tiny())


def test_order_and_repetition_are_checked():
    with pytest.raises(ValueError, match="must stand before it"):
        Space((END, SHAPE), tiny())
    with pytest.raises(ValueError, match="given twice"):
        Space((SHAPE, SHAPE), tiny())
    with pytest.raises(ValueError, match="empty"):
        Space((), tiny())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "log_uniform", "low": 0, "high": 1}, "above 0"),
        ({"kind": "uniform", "low": 1, "high": 1}, "smaller and a larger"),
        ({"kind": "uniform"}, "smaller and a larger"),
        ({"kind": "integer", "low": 1, "high": 2.5}, "give integers"),
        ({"kind": "uniform", "low": 0, "high": 1, "points": 1}, "at least 2"),
        ({"kind": "uniform", "low": 0, "high": 1, "extra": (0.5,)}, "below the range's 0"),
        ({"kind": "choice"}, "needs values"),
    ],
)
def test_a_domain_that_contradicts_itself_is_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Domain(path="recipe.loss.entropy", **options)


def test_clamping_brings_a_perturbed_value_back():
    assert ENTROPY.clamp(0.5) == 0.1
    assert ENTROPY.clamp(1e-6) == 1e-3
    assert ENTROPY.clamp(0.0) == 0.0
    assert SHAPE.clamp("constant") == "constant"


@pytest.mark.parametrize("name", PRESETS)
def test_the_presets_hold(name: str):
    preset = PRESETS[name]()
    space = Space(preset.domains, preset.base)
    for point in draws(space, 30):
        override(preset.base, point)
    assert {"recipe.choice.estimator", "recipe.loss.entropy", "recipe.choice.temperature.shape"} <= {
        d.path for d in preset.domains
    }


def test_domains_survive_json():
    for domain in PRESETS["small"]().domains:
        assert Domain.from_json(domain.as_json()) == domain


def test_yaml_gives_domains(tmp_path: Path):
    file = tmp_path / "space.yaml"
    file.write_text(
        """
        recipe.loss.entropy: {log_uniform: [1e-3, 0.1], extra: [0]}
        recipe.choice.temperature.shape: [constant, exponential]
        recipe.choice.temperature.end:
          log_uniform: [0.1, 1.0]
          when: {recipe.choice.temperature.shape: exponential}
        recipe.clicks.interactions: {integer: [1, 4], points: 2}
        """
    )
    assert read_space(file)[:3] == (ENTROPY, SHAPE, END)
    assert read_space(file)[3].grid() == (1, 4)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (0.1, "write recipe.loss.entropy:"),
        ({"log_unifrom": [1, 2]}, "did you mean log_uniform"),
        ({"extra": [0]}, "no kind"),
        ({"uniform": [0, 1], "choice": [1]}, "uniform and choice"),
        ({"uniform": [0]}, "uniform is"),
        ({"uniform": ["a", 1]}, "'a' is no number"),
        ({"uniform": [True, 2]}, "True is no number"),
    ],
)
def test_a_wrong_entry_says_what_to_write(entry: object, message: str):
    with pytest.raises(ValueError, match=message):
        parse_space({"recipe.loss.entropy": entry})


def test_a_file_that_is_no_space_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="cannot be read"):
        read_space(tmp_path / "missing.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ValueError, match="must map"):
        read_space(tmp_path / "list.yaml")


def test_every_default_path_is_a_setting():
    names = flatten(tiny())
    for preset in PRESETS.values():
        assert all(domain.path in names for domain in preset().domains)
