import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from kernels.choose_click import Click, choose_click
from kernels.choose_click.reference import choose_click_chain
from kernels.estimators import ESTIMATORS
from tests.benchmarks.kernels import choose_click as bench
from tests.benchmarks.kernels.choose_click import (
    GOAL_ESTIMATORS,
    Arguments,
    Case,
    Measured,
    make_goals,
    make_rows,
    measure,
    parse,
    run,
)
from tests.benchmarks.kernels.choose_click_paths import PASSES, check, compulsory_bytes, make_inputs
from tests.benchmarks.kernels.choose_click_tables import main as write_table
from tests.benchmarks.kernels.choose_click_tables import markdown, pivot, replace

CPU = torch.device("cpu")
QUICK = Arguments(estimators=("gumbel_softmax",), cases=((2, 16),), threads=(1,), repeats=2, compiled=False)
CASE = Case("gumbel_softmax", 2, 16, 1)


@pytest.fixture(autouse=True)
def _same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def changed(change: Any, *arguments: Any, **settings: Any) -> Click:
    click = choose_click(*arguments, **settings)
    return click._replace(**change(click))


def scaled(factor: float, *arguments: Any, **settings: Any) -> Click:
    """The right results, and a gradient of the click map that is not."""
    click = choose_click(*arguments, **settings)
    return click._replace(clicks=click.clicks.detach() + factor * (click.clicks - click.clicks.detach()))


def forgets_a_pixel(click: Click) -> dict[str, Any]:
    clicks = click.clicks.clone()
    clicks[-1, -1, -1, -1] = torch.nan
    return {"clicks": clicks}


WRONG = {
    "the next pixel": partial(changed, lambda click: {"choice": click.choice + 1}),
    "other noise": partial(choose_click, stream=1),
    "a forgotten pixel": partial(changed, forgets_a_pixel),
    "an entropy in bits": partial(changed, lambda click: {"entropy": click.entropy / 0.6931}),
    "an entropy without gradient": partial(changed, lambda click: {"entropy": click.entropy.detach()}),
    "a gradient that is 1 % off": partial(scaled, 1.01),
    "no gradient": partial(scaled, 0.0),
}


@pytest.mark.parametrize("operation", [choose_click, choose_click_chain])
def test_the_operation_and_the_chain_itself_pass_the_check(operation: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.benchmarks.kernels.choose_click_paths.CHECKED_SHAPES", ((3, 37, 53), (2, 64, 64)))
    check(CPU, operation)


@pytest.mark.parametrize("what", WRONG)
def test_nothing_is_timed_when_the_operation_is_wrong(what: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.benchmarks.kernels.choose_click_paths.CHECKED_SHAPES", ((3, 9, 11),))
    with pytest.raises(SystemExit, match="nothing is timed"):
        check(CPU, WRONG[what])


def test_a_red_check_ends_the_benchmark_with_code_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def wrong(device: torch.device) -> None:
        check(device, WRONG["a forgotten pixel"])

    monkeypatch.setattr(bench, "check", wrong)
    with pytest.raises(SystemExit) as stopped:
        run(dataclasses.replace(QUICK, json=tmp_path / "figures.json"), CPU)
    assert isinstance(stopped.value.code, str), "Python prints it and exits with code 1"
    assert not (tmp_path / "figures.json").exists()


def test_the_least_traffic_is_every_input_and_output_once():
    inputs = make_inputs(1, 4, 4, CPU)
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


def quantiles_of(**medians: float) -> dict[str, dict[str, float]]:
    return {name: {"p20": p50, "p50": p50, "p80": p50} for name, p50 in medians.items()}


def found(**medians: float) -> Measured:
    seconds = {which: quantiles_of(**medians) for which in PASSES}
    return Measured(seconds, {"eager": 400, "ours": 90}, {})


def test_without_a_gpu_its_goals_are_open():
    measured = {Case(name, 16, 256, 1): found(eager=3.0, ours=1.5, copy=0.5) for name in GOAL_ESTIMATORS}
    goals = make_goals(measured, CPU)
    assert {goal.met for goal in goals if "on a GPU" in goal.name} == {None}
    assert [goal.measured for goal in goals if "on a CPU" in goal.name] == [2.0, 2.0]
    assert {goal.met for goal in make_goals({}, CPU)} == {None}


def test_on_a_gpu_its_goals_are_measured():
    measured = {
        Case(name, 64, 256, 1): found(eager=6.0, compiled=1.4, ours=1.0, copy=0.8) for name in GOAL_ESTIMATORS
    }
    goals = [goal for goal in make_goals(measured, torch.device("cuda")) if "argmax_ste" in goal.name]
    assert [goal.measured for goal in goals] == [6.0, 1.4, 0.8, 90 / 400, None]
    assert [goal.met for goal in goals] == [True, False, True, True, None]


def test_a_path_that_cannot_be_compiled_says_so(monkeypatch: pytest.MonkeyPatch):
    def compile_nothing(function: Any, **options: Any) -> Any:
        def broken(*arguments: Any, **settings: Any) -> None:
            raise RuntimeError("no compiler here\nand a long story")

        return broken

    monkeypatch.setattr(torch, "compile", compile_nothing)
    measured = measure(CASE, dataclasses.replace(QUICK, compiled=True, repeats=1), CPU)
    rows = list(make_rows(CASE, measured))
    reason = "RuntimeError: no compiler here"
    assert [row["path"] for row in rows[-2:]] == [f"compiled: {reason}", f"compiled, torch's noise: {reason}"]
    assert {row["path"] for row in rows[:-2]} == {"eager", "eager, torch's noise", "ours", "copy"}
    assert pivot(rows)[-1]["ours"] == f"compiled, torch's noise: {reason}"


def test_an_error_of_our_own_path_is_not_a_row_of_the_report(monkeypatch: pytest.MonkeyPatch):
    def broken(*arguments: Any, **settings: Any) -> None:
        raise RuntimeError("illegal memory access")

    monkeypatch.setattr(bench, "choose_click", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        measure(CASE, QUICK, CPU)


def test_a_case_that_does_not_fit_is_skipped_and_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def full(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(bench, "check", lambda device: None)
    monkeypatch.setattr(bench, "make_inputs", full)
    content: Any = run(QUICK, CPU)
    assert [row["path"] for row in content["rows"]] == ["all: do not fit in memory"]


def test_a_run_reports_every_pass_and_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("tests.benchmarks.kernels.choose_click_paths.CHECKED_SHAPES", ((1, 9, 11),))
    run(dataclasses.replace(QUICK, json=tmp_path / "figures.json"), CPU)
    written = json.loads((tmp_path / "figures.json").read_text())
    paths = ["eager", "eager, torch's noise", "ours", "copy"]
    assert [(row["pass"], row["path"]) for row in written["rows"]] == [(a, b) for a in PASSES for b in paths]
    row = written["rows"][2]
    assert row["p20 ms"] <= row["p50 ms"] <= row["p80 ms"]
    assert row["MB to move"] == pytest.approx(28 * 2 * 16 * 16 / 1e6)
    assert row["times eager"] == pytest.approx(written["rows"][0]["p50 ms"] / row["p50 ms"])
    peaks = {row["path"]: row["peak MiB"] for row in written["rows"] if row["pass"] == "both"}
    # Ours returns the click map and the gradient, 16 bytes a pixel, and the noise until the gradient is there.
    assert peaks["eager"] > peaks["ours"] >= (16 + 4) * 2 * 16 * 16 / 2**20
    assert {goal["met"] for goal in written["goals"]} == {None}

    (tmp_path / "doc.md").write_text("before\n<!-- begin cpu -->\nold\n<!-- end cpu -->\nafter\n")
    write_table(tmp_path / "figures.json", tmp_path / "doc.md")
    document = (tmp_path / "doc.md").read_text()
    assert "old" not in document
    assert document.startswith("before")
    assert document.endswith("after\n")
    assert document.count("gumbel_softmax 2 x 16 px") == len(PASSES)


def test_a_document_without_a_place_for_the_table_is_refused():
    with pytest.raises(ValueError, match="begin gpu"):
        replace("<!-- begin cpu -->\n<!-- end cpu -->", "gpu", "table")


def test_a_table_has_only_columns_with_figures():
    rows = list(make_rows(CASE, found(eager=3e-3, ours=1.5e-3, copy=0.3e-3)))
    lines = pivot(rows)
    assert "compiled" not in lines[0]
    assert [line["x eager"] for line in lines] == ["2.00"] * 3
    assert [line["of a copy"] for line in lines] == ["20 %"] * 3
    assert [line["eager MiB"] for line in lines] == ["-", "-", "0.000381"]
    assert {row.count("|") for row in markdown(lines).splitlines()} == {len(lines[0]) + 1}


def test_the_command_line_knows_every_estimator_and_sizes_for_each_device():
    given = parse(CPU, ["--estimators", *ESTIMATORS, "--cases", "4x32", "1x64", "--threads", "1", "2"])
    assert given.estimators == tuple(ESTIMATORS)
    assert given.cases == ((4, 32), (1, 64))
    assert given.threads == (1, 2)
    assert (16, 256) in parse(CPU, []).cases
    assert {(64, 256), (256, 512)} < set(parse(torch.device("cuda"), []).cases)
    with pytest.raises(SystemExit):
        parse(CPU, ["--estimators", "magic"])
    with pytest.raises(SystemExit):
        parse(CPU, ["--repeats", "0"])
