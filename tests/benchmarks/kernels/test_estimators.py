"""What the benchmark claims of the estimators, measured with its own functions and checked from outside."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor

from kernels.estimators import ESTIMATORS
from kernels.noise import gumbel, sample_keys
from tests.benchmarks.kernels import estimators
from tests.benchmarks.kernels.estimator_problems import Problem, corners, exact_gradient, problems
from tests.benchmarks.kernels.estimators import (
    Arguments,
    Method,
    enumeration,
    estimates,
    main,
    measure,
    methods,
    moments,
)

ALL = {problem.name: problem for problem in problems()}
QUICK = Arguments(draws=2000, repeats=1)


def draws(problem: Problem, rows: int, count: int) -> Tensor:
    keys = sample_keys(1, 0, rows)
    noise = torch.stack([gumbel(keys, 0, problem.logits.numel(), draw) for draw in range(count)]).double()
    return noise.view(count, rows, *problem.logits.shape)


@pytest.mark.parametrize("problem", ALL.values(), ids=ALL)
def test_the_exact_gradient_is_that_of_the_enumerated_expectation(problem: Problem):
    values = problem.loss(corners(problem)).numpy()
    logits = problem.logits.numpy().ravel()

    def expected(z: np.ndarray) -> float:
        return float(special.softmax(z) @ values)

    step = 1e-5 * np.eye(len(logits))
    differences = [(expected(logits + move) - expected(logits - move)) / 2e-5 for move in step]
    np.testing.assert_allclose(exact_gradient(problem), differences, atol=1e-8)


def test_problems_have_the_degree_that_they_state():
    """A polynomial of degree d along a line has no difference of order d + 1, and has one of order d."""
    for problem in ALL.values():
        ends = corners(problem)[[0, 3]]
        along = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None, None]
        values = problem.loss(ends[:1] * along + ends[1:] * (1 - along)).numpy()
        degree = min(problem.degree, 4)
        assert np.abs(np.diff(values, int(degree))).max() > 1e-5
        if problem.degree < 3:
            assert np.abs(np.diff(values, int(degree) + 1)).max() < 1e-12


def test_a_click_improves_the_colouring():
    colouring = ALL["colouring, n=64"]
    without = colouring.loss(torch.zeros(1, 8, 8, dtype=torch.float64))
    assert colouring.loss(corners(colouring)).mean() < without


@pytest.mark.parametrize("problem", ALL.values(), ids=ALL)
@pytest.mark.parametrize("method", [Method("reinmax", 0.5), Method("reinforce", samples=2)])
def test_enumerated_moments_agree_with_drawn_ones(problem: Problem, method: Method):
    exact = moments(problem, method, draws(problem, 1, 2))
    noise = draws(problem, 10000, 2)
    drawn = estimates(problem, method, noise[0], noise[1:])
    scale = exact_gradient(problem).norm()
    assert exact.bias_error == 0
    assert drawn.var(0).sum().sqrt() / scale == pytest.approx(exact.std, rel=0.05)
    assert (drawn.mean(0) - exact_gradient(problem)).norm() / scale == pytest.approx(
        exact.bias, abs=exact.std / 25
    )


def test_enumerated_outcomes_are_all_of_them():
    for method in (Method("argmax_ste"), Method("reinmax"), Method("reinforce", samples=2)):
        outcomes = enumeration(ALL["linear, n=5"], method)
        assert outcomes is not None
        assert outcomes[0].sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("problem", ALL.values(), ids=ALL)
def test_estimators_are_unbiased_exactly_where_theory_says(problem: Problem):
    for method in (
        Method("argmax_ste"),
        Method("reinmax"),
        Method("reinmax", 0.5),
        Method("reinforce", samples=2),
    ):
        bias = moments(problem, method, draws(problem, 1, 2)).bias
        if problem.degree <= method.exact_degree:
            assert bias < 1e-12, method
        else:
            assert bias > 0.1, method


@pytest.mark.parametrize("problem", ALL.values(), ids=ALL)
def test_gumbel_rao_has_the_bias_of_gumbel_softmax_and_less_spread(problem: Problem):
    noise = draws(problem, 4000, 11)
    plain = moments(problem, Method("gumbel_softmax", 0.5), noise)
    averaged = moments(problem, Method("gumbel_rao", 0.5, samples=10), noise)
    assert averaged.std < 0.9 * plain.std
    assert abs(averaged.bias - plain.bias) < 4 * plain.bias_error


def test_a_lower_tau_trades_bias_for_spread():
    problem = ALL["quadratic, n=5"]
    noise = draws(problem, 10000, 1)
    found = [moments(problem, Method("gumbel_softmax", tau), noise) for tau in (0.1, 0.5, 1.0)]
    assert found[0].bias < found[1].bias < found[2].bias
    assert found[0].std > found[1].std > found[2].std


def test_argmax_ste_has_no_spread_and_can_point_the_wrong_way():
    problem = ALL["colouring, n=64"]
    found = moments(problem, Method("argmax_ste"), draws(problem, 1, 1))
    assert found.std == 0
    assert found.cosine < 0


def test_more_choices_shrink_the_spread_of_the_score_function():
    problem = ALL["colouring, n=64"]
    noise = draws(problem, 2000, 8)
    few, many = (moments(problem, Method("reinforce", samples=k), noise) for k in (2, 8))
    assert many.std < 0.6 * few.std
    assert many.bias < 4 * many.bias_error


def test_every_estimator_is_measured():
    assert {method.estimator for method in methods(QUICK)} == set(ESTIMATORS)


def test_nothing_is_reported_when_an_unbiased_estimator_is_biased(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(estimators, "estimates", lambda *arguments: 1.01 * estimates(*arguments))
    with pytest.raises(SystemExit, match=r"has a bias of 0\.01 on linear, n=5; nothing is reported"):
        measure(ALL["linear, n=5"], QUICK)


def test_the_report_has_a_row_for_each_problem_and_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "170")
    main(Arguments(draws=200, tau=(1.0,), conditional=2, repeats=1, json=tmp_path / "report.json"))
    content = json.loads((tmp_path / "report.json").read_text())
    assert set(content) == {"machine", "versions", "commit", "rows", "goals"}
    assert len(content["rows"]) == 4 * 7
    assert all(row["ms"] > 0 for row in content["rows"])
    base = next(row for row in content["rows"] if row["estimator"] == "argmax_ste")
    assert base["cost"] == 1
    assert "reinmax" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["draws", "conditional", "repeats"])
def test_counts_of_nothing_are_refused(name: str):
    nothing: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=f"--{name} is 0; give at least 1"):
        Arguments(**nothing)
