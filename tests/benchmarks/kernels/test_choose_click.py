"""The benchmark of `choose_click`: what it reports, what it refuses, and what it counts."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kernels.choose_click import Click, choose_click
from tests.benchmarks.__main__ import main
from tests.benchmarks.kernels import choose_click as benchmark
from tests.benchmarks.kernels import choose_click_paths
from tests.benchmarks.kernels.choose_click_paths import PASSES, compulsory_bytes, make_inputs
from tests.benchmarks.kernels.choose_click_traffic import SIDE, traffic

QUICK = ["--estimators", "gumbel_softmax", "--cases", "2x16", "--threads", "1", "--repeats", "2", "--no-compiled"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A small check, on a CPU, and the same threads afterwards."""
    monkeypatch.setattr(choose_click_paths, "CHECKED_SHAPES", ((3, 9, 11),))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_pass_and_path_is_reported_and_goes_into_a_document(report_of: Callable, tmp_path: Path):
    content = report_of("choose_click", *QUICK)
    paths = ["eager", "eager, torch's noise", "ours", "copy"]
    assert [(row["pass"], row["path"]) for row in content["rows"]] == [(a, b) for a in PASSES for b in paths]
    assert all(row["p20 ms"] <= row["p50 ms"] <= row["p80 ms"] for row in content["rows"])
    peaks = {row["path"]: row["peak MiB"] for row in content["rows"] if row["pass"] == "both"}
    # Ours returns the click map and the gradient, 16 bytes a pixel, and the noise until the gradient is there.
    assert peaks["eager"] > peaks["ours"] >= (16 + 4) * 2 * 16 * 16 / 2**20
    assert {goal["met"] for goal in content["goals"]} == {None}

    document = tmp_path / "document.md"
    document.write_text("before\n<!-- begin cpu -->\nold\n<!-- end cpu -->\nafter\n")
    figures = tmp_path / "choose_click.json"
    assert main(["choose_click", "--figures", str(figures), "--document", str(document)]) == 0
    written = document.read_text()
    assert written.startswith("before")
    assert written.endswith("after\n")
    assert "old" not in written
    assert written.count("gumbel_softmax 2 x 16 px") == len(PASSES)


def next_pixel(click: Click) -> dict[str, Any]:
    return {"choice": click.choice + 1}


def forgotten_pixel(click: Click) -> dict[str, Any]:
    clicks = click.clicks.clone()
    clicks[-1, -1, -1, -1] = torch.nan
    return {"clicks": clicks}


def gradient_1_percent_off(click: Click) -> dict[str, Any]:
    value = click.clicks.detach()
    return {"clicks": value + 1.01 * (click.clicks - value)}


def entropy_without_gradient(click: Click) -> dict[str, Any]:
    return {"entropy": click.entropy.detach()}


@pytest.mark.parametrize("change", [next_pixel, forgotten_pixel, gradient_1_percent_off, entropy_without_gradient])
def test_nothing_is_timed_when_the_operation_is_wrong(
    change: Callable[[Click], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    def wrong(*inputs: Any, **settings: Any) -> Click:
        click = choose_click(*inputs, **settings)
        return click._replace(**change(click))

    monkeypatch.setattr(benchmark, "choose_click", wrong)
    assert main(["choose_click", *QUICK, "--json", str(tmp_path / "figures.json")]) == 1
    assert "nothing is timed" in capsys.readouterr().err
    assert not (tmp_path / "figures.json").exists()


def test_the_least_traffic_is_every_input_and_output_once():
    inputs = make_inputs(1, 4, 4, torch.device("cpu"))
    mask, (clicks, truth) = inputs.clicks[:, :1], inputs[1:3]

    def size(*tensors: torch.Tensor) -> float:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 16

    forward = size(inputs.logits, clicks, clicks)
    backward = size(inputs.logits, mask, inputs.of_clicks, truth, inputs.logits)
    assert compulsory_bytes("argmax_ste", "forward") == forward == 28
    assert compulsory_bytes("argmax_ste", "backward") == backward == 32
    assert compulsory_bytes("argmax_ste", "both") == 60
    assert compulsory_bytes("gumbel_softmax_soft", "forward") == forward + size(truth)
    assert compulsory_bytes("reinforce", "backward") == size(inputs.logits, mask, inputs.logits)


def test_passes_and_bytes_are_those_of_the_operations():
    x, row = torch.rand(SIDE, SIDE), torch.rand(SIDE)

    def run() -> torch.Tensor:
        y = x.view(-1).mul(2.0)  # reads and writes 4 bytes a pixel; the view moves nothing
        y.add_(1.0)  # as much
        row.add(1.0)  # less than a pass
        y.new_zeros(3)
        return (y.view(SIDE, SIDE) + row.expand(SIDE, SIDE)).sum()  # 8 bytes and a row; 4 bytes and a number

    found, result = traffic(run)
    assert found.operations == Counter(mul=1, add_=1, add=1, sum=1)
    assert found.bytes == 8 + 8 + 8 + 4 * SIDE / SIDE**2 + 4 + 4 / SIDE**2
    torch.testing.assert_close(result, (2 * x + 1 + row).sum())


def test_a_cpu_moves_fewer_bytes_than_the_chain(report_of: Callable):
    moved = Counter()
    for row in report_of("choose_click", "--traffic")["rows"]:
        assert sum(row["operations"].values()) == row["passes"]
        moved[row["estimator"], row["path"]] += row["bytes/pixel"]
    for estimator in ("argmax_ste", "gumbel_softmax"):
        assert moved[estimator, "ours on a CPU"] < 0.7 * moved[estimator, "chain"]
