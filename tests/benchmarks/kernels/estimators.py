"""Gradient estimators of the click against exact gradients, on problems small enough to enumerate; and their cost.

    python -m tests.benchmarks estimators [--draws 10000] [--json FILE]

The exact gradient of E[f(D)] comes from summing over all choices. An estimator that depends on nothing but the
choice is enumerated as well, so its bias and spread are exact; the others are drawn. Nothing is reported when an
estimator that is unbiased by theory is not.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from kernels.estimators import choose, heatmap, leave_one_out_loss, log_heatmap, log_probability
from kernels.noise import gumbel, sample_keys
from tests.benchmarks.harness import Refused, interleave, quantiles, report
from tests.benchmarks.kernels.estimator_problems import Problem, corners, exact_gradient, normal, problems

SEED = 20
RELAXED = ("gumbel_softmax", "gumbel_softmax_soft", "gumbel_rao", "reinmax")
"""The estimators with a temperature tau of their own."""
ROUNDING = 1e-12
"""Largest relative bias of an estimator that is unbiased, enumerated in float64."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Measure bias, spread and cost of every estimator."""

    draws: int = 10_000
    """Estimates drawn where the estimator cannot be enumerated."""
    tau: tuple[float, ...] = (0.1, 0.5, 1.0, 2.0)
    """Temperatures of the relaxation."""
    conditional: int = 10
    """Conditional samples of Gumbel-Rao."""
    repeats: int = 11
    """Timed rounds."""
    json: Path | None = None
    """Also write the report to this file."""

    def __post_init__(self) -> None:
        counts = {"draws": self.draws, "conditional": self.conditional, "repeats": self.repeats}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"--{name} is {count}; give at least 1")


class Method(NamedTuple):
    """An estimator with its settings."""

    estimator: str
    tau: float = 1.0
    samples: int = 1
    """Conditional samples of `gumbel_rao`, choices of `reinforce`."""

    @property
    def evaluations(self) -> int:
        """How often one estimate evaluates the loss."""
        return self.samples if self.estimator == "reinforce" else 1

    @property
    def noises(self) -> int:
        """Draws of Gumbel noise that one estimate takes."""
        return {"argmax_ste": 0, "gumbel_rao": 1 + self.samples, "reinforce": self.samples}.get(self.estimator, 1)

    @property
    def exact_degree(self) -> float:
        """The highest degree of a loss for which it is unbiased (arXiv 2304.08612); 0: not even linear ones."""
        if self.estimator == "reinmax":
            return 2.0 if self.tau == 1 else 0.0
        return {"argmax_ste": 1.0, "reinforce": math.inf}.get(self.estimator, 0.0)


class Moments(NamedTuple):
    """What an estimator does on a problem, in units of the exact gradient's norm."""

    bias: float
    """Norm of mean - exact."""
    bias_error: float
    """Standard error of the drawn mean: a bias of about this size means none was seen. 0 when enumerated."""
    std: float
    """Root of the summed variances of one estimate."""
    cosine: float
    """Between the mean and the exact gradient, -1 ... 1."""


def methods(arguments: Arguments) -> list[Method]:
    """Every estimator at every tau that it has."""
    sweep = [
        Method(name, tau, arguments.conditional if name == "gumbel_rao" else 1)
        for name, tau in product(RELAXED, arguments.tau)
    ]
    return [Method("argmax_ste"), *sweep, Method("reinforce", samples=2), Method("reinforce", samples=8)]


def estimates(
    problem: Problem, method: Method, noise: Float[Tensor, "b h w"], more: Float[Tensor, "k b h w"]
) -> Float[Tensor, "b n"]:
    """One estimate of the gradient at the logits for each row of noise.

    Args:
        problem: scores and loss.
        method: the estimator.
        noise: Gumbel noise of the choice.
        more: further noise: the conditional samples of `gumbel_rao`, the other choices of `reinforce`.
    """
    logits = problem.logits.repeat(len(noise), 1, 1).requires_grad_()
    taken = torch.zeros(logits.shape, dtype=torch.bool)
    if method.estimator == "reinforce":
        chosen = [choose(logits, taken, estimator="reinforce", noise=row) for row in (noise, *more)]
        log_heat = log_heatmap(logits, 1.0)
        loss = leave_one_out_loss(
            torch.stack([problem.loss(selection.weights) for selection in chosen]),
            torch.stack([log_probability(log_heat, selection.choice) for selection in chosen]),
        )
        return torch.autograd.grad(loss * len(noise), logits)[0].flatten(1)
    selection = choose(
        logits, taken, estimator=method.estimator, tau=method.tau, noise=noise, conditional_noise=more
    )
    return torch.autograd.grad(problem.loss(selection.weights).sum(), logits)[0].flatten(1)


def moments(problem: Problem, method: Method, noise: Float[Tensor, "k b h w"]) -> Moments:
    """Bias and spread: exact where the choices decide everything, else over the rows of `noise`."""
    outcomes = enumeration(problem, method)
    probabilities, choice, more = outcomes or (None, noise[0], noise[1 : method.noises])
    found = estimates(problem, method, choice, more)
    if probabilities is None:
        probabilities = torch.full((len(found),), 1 / len(found)).double()
    exact = exact_gradient(problem)
    mean = probabilities @ found
    std = (probabilities @ (found - mean).square()).sum().sqrt().item()
    scale = exact.norm().item()
    return Moments(
        bias=(mean - exact).norm().item() / scale,
        bias_error=0.0 if outcomes else std / math.sqrt(len(found)) / scale,
        std=std / scale,
        cosine=torch.cosine_similarity(mean, exact, dim=0).item(),
    )


def enumeration(problem: Problem, method: Method) -> tuple[Tensor, Tensor, Tensor] | None:
    """All outcomes' probabilities, the noise of the choice and the further noise that make each of them happen.

    None where they are infinitely many, or too many (`reinforce` with more than two choices).
    """
    pi = heatmap(problem.logits[None], 1.0).flatten()
    # Larger than any difference between the scores.
    forcing = 100.0 * corners(problem)
    if method.estimator == "argmax_ste":
        return torch.ones_like(pi[:1]), forcing[:1], forcing[None, :1]
    if method.estimator == "reinmax":
        return pi, forcing, forcing[None]
    if method.estimator == "reinforce" and method.samples == 2:
        pairs = torch.cartesian_prod(torch.arange(len(pi)), torch.arange(len(pi)))
        return pi[pairs].prod(1), forcing[pairs[:, 0]], forcing[None, pairs[:, 1]]
    return None


def measure(problem: Problem, arguments: Arguments) -> list[tuple[Method, Moments]]:
    """All estimators on one problem, with common random numbers.

    Raises:
        Refused: an estimator that must be unbiased is not; its bias is named.
    """
    keys = sample_keys(SEED, 0, arguments.draws)
    draws = max(method.noises for method in methods(arguments))
    noise = torch.stack([gumbel(keys, 0, problem.logits.numel(), draw) for draw in range(draws)]).double()
    noise = noise.view(draws, -1, *problem.logits.shape)
    measured = [(method, moments(problem, method, noise)) for method in methods(arguments)]
    for method, found in measured:
        if problem.degree <= method.exact_degree and found.bias > ROUNDING + 4 * found.bias_error:
            raise Refused(f"{method} has a bias of {found.bias:.3g} on {problem.name}; nothing is reported")
    return measured


def timed(method: Method, *, draw: bool) -> Callable[[], float]:
    """A function that makes one estimate for 4 photos of 256 x 256 px with a linear loss, and returns its seconds.

    The noise is drawn as part of it, or given.
    """
    logits, slope = (normal(stream, 256, 256).float() for stream in range(2))
    problem = Problem("cost", logits, lambda weights: (weights * slope).sum((1, 2)), 1.0)
    keys = sample_keys(SEED, 0, 4)

    def drawn() -> Tensor:
        rows = [gumbel(keys, 0, logits.numel(), row).view(4, 256, 256) for row in range(method.noises)]
        return torch.stack(rows or [torch.zeros(4, 256, 256)])

    given = drawn()

    def run() -> float:
        started = time.perf_counter()
        noise = drawn() if draw else given
        estimates(problem, method, noise[0], noise[1:])
        return time.perf_counter() - started

    return run


def costs(arguments: Arguments) -> dict[Method, tuple[float, float]]:
    """Median seconds of one estimate by each method at tau = 1: with the noise given, and with drawing it."""
    kinds = dict.fromkeys(_at_tau_1(method) for method in methods(arguments))
    paths = {f"{kind} {draw}": timed(kind, draw=draw) for kind in kinds for draw in (False, True)}
    seconds = interleave(paths, arguments.repeats)
    return {
        kind: (quantiles(seconds[f"{kind} False"])["p50"], quantiles(seconds[f"{kind} True"])["p50"])
        for kind in kinds
    }


def _at_tau_1(method: Method) -> Method:
    return method._replace(tau=1.0)


def rows(arguments: Arguments) -> list[dict[str, object]]:
    """One row for each problem and method: moments, and the cost as a multiple of ArgmaxSTE's."""
    measured = {problem.name: measure(problem, arguments) for problem in problems()}
    seconds = costs(arguments)
    base = seconds[Method("argmax_ste")]
    return [
        {
            "problem": name,
            "estimator": method.estimator,
            "tau": method.tau if method.estimator in RELAXED else None,
            "samples": method.samples,
            **found._asdict(),
            "evaluations": method.evaluations,
            "ms": 1e3 * seconds[_at_tau_1(method)][0],
            "cost": seconds[_at_tau_1(method)][0] / base[0],
            "cost_with_noise": seconds[_at_tau_1(method)][1] / base[0],
        }
        for name, found_here in measured.items()
        for method, found in found_here
    ]


def main(args: Sequence[str]) -> int:
    """Measure, print and write the report."""
    arguments = tyro.cli(Arguments, prog="python -m tests.benchmarks estimators", args=args)
    title = f"one estimate against the exact gradient, {arguments.draws} draws where not enumerated"
    report(title, rows(arguments), [], arguments.json)
    return 0
