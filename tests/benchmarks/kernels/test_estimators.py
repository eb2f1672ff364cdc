"""What the benchmark claims of the estimators, checked from outside."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor

from kernels.estimators import ESTIMATORS
from kernels.noise import gumbel, sample_keys
from tests.benchmarks.__main__ import main
from tests.benchmarks.kernels import estimators
from tests.benchmarks.kernels.estimator_problems import Problem, corners, exact_gradient, problems
from tests.benchmarks.kernels.estimators import Method, estimates, moments

ALL = {problem.name: problem for problem in problems()}


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


@pytest.mark.parametrize("problem", ALL.values(), ids=ALL)
@pytest.mark.parametrize("method", [Method("reinmax", 0.5), Method("reinforce", samples=2)])
def test_enumerated_moments_agree_with_drawn_ones(problem: Problem, method: Method):
    exact = moments(problem, method, draws(problem, 1, 2))
    noise = draws(problem, 10000, 2)
    drawn = estimates(problem, method, noise[0], noise[1:])
    scale = exact_gradient(problem).norm()
    assert exact.bias_error == 0
    assert drawn.var(0).sum().sqrt() / scale == pytest.approx(exact.std, rel=0.05)
    bias = (drawn.mean(0) - exact_gradient(problem)).norm() / scale
    assert bias == pytest.approx(exact.bias, abs=exact.std / 25)


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


def test_every_estimator_is_measured_on_every_problem(report_of: Callable):
    content = report_of("estimators", "--draws", 200, "--tau", 1.0, "--conditional", 2, "--repeats", 1)
    assert len(content["rows"]) == 4 * 7
    assert {row["estimator"] for row in content["rows"]} == set(ESTIMATORS)
    assert all(row["ms"] > 0 for row in content["rows"])
    assert [row["cost"] for row in content["rows"] if row["estimator"] == "argmax_ste"] == [1.0] * 4


def test_nothing_is_reported_when_an_unbiased_estimator_is_biased(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(estimators, "estimates", lambda *given: 1.01 * estimates(*given))
    assert main(["estimators", "--draws", "200", "--repeats", "1"]) == 1
    assert "has a bias of 0.01 on linear, n=5; nothing is reported" in capsys.readouterr().err
