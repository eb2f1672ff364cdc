"""Jobs of one and two processes take turns; what is reported follows from what they answered."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import ROOT
from tests.benchmarks.__main__ import main
from tests.benchmarks.harness import Refused
from tests.benchmarks.trainer.scaling import Arguments, Kind, check, goals, link_of, predict, row
from tests.benchmarks.trainer.scaling_job import Job, JobArguments, RunningJob, union
from tests.benchmarks.trainer.scaling_model import Link
from tests.benchmarks.trainer.step_costs import Gradient, PhaseCost

COSTS = ROOT / "docs" / "results" / "step_costs_paper.json"


class FakeJob(RunningJob):
    """Answers without processes."""

    def __init__(self, processes: int, **answers: Callable[..., Any]) -> None:
        self.processes, self.answers = processes, answers

    def ask(self, question: str, **words: Any) -> Any:
        return self.answers[question](**words)


@pytest.mark.slow
@pytest.mark.launch
def test_one_and_two_processes_take_turns(report_of: Callable):
    rows = report_of("scaling", "--photos", 2, "--repeats", 1)["rows"]
    both = [found for found in rows if "communication share" in found]
    assert {found["phase"] for found in both} == {"pretrain-color", "pretrain-edit", "ping-1", "pong-1"}
    # verdict, statistics, metrics, and two buckets or one: once or twice, as a stage has one update or two
    assert [found["collectives per step"] for found in both] == [5, 8, 5, 8]
    assert all(found["predicted from no-sync ms"] > found["no-sync ms"] for found in both)


def test_a_row_compares_with_one_process():
    arguments = Arguments(processes=(1, 2), photos=4)
    times = {Kind(1, 4): 1.0, Kind(1, 8): 1.8, Kind(2, 4): 1.25, Kind(2, 4, silent=True): 1.0}
    seconds = {kind: {"p20": time, "p50": time, "p80": time} for kind, time in times.items()}
    shares = {"busy": 0.5, "calls": 5.0, "seconds": 2.0}
    found = row("ping-1", FakeJob(2), seconds, arguments, lambda compute: 1.2 * compute, shares)
    assert found["weak photos/s"] == 6.4
    assert found["weak efficiency"] == 0.8
    assert found["strong photos/s"] == 6.4
    assert found["strong efficiency"] == pytest.approx(0.72)
    assert found["communication share"] == pytest.approx(0.2)
    assert found["collectives share"] == 0.25
    assert found["predicted ms"] == 1200
    assert [goal.measured for goal in goals([found])] == pytest.approx([0.04, 0.04])
    assert [goal.met for goal in goals([])] == [None, None]


def test_the_link_is_what_explains_two_all_reduces():
    link = Link(bandwidth=1e8, latency=2e-4)
    job = FakeJob(4, reduce=lambda size: 6 * link.latency + (0 if size == 16 else 1.5 * size / link.bandwidth))
    found = link_of(job, 10**7, 3)
    assert (found.bandwidth, found.latency) == pytest.approx((1e8, 2e-4))


def test_the_prediction_adds_what_is_shared():
    cost = PhaseCost(
        phase="test",
        forward_flops=1.0,
        backward_flops=2.0,
        operators=10,
        gradients=(Gradient(size=4_000_000, left=0.0),),
        statistics=4000,
    )
    small = 2 * 1e-3 + 16 / 1e8
    shared = 4_000_000 / 1e8 + 2e-3 + 4000 / 1e8 + 2e-3 + 2 * small
    found = predict([cost], 1.0, 2, Link(bandwidth=1e8, latency=1e-3), overlap=False)
    assert found == pytest.approx(1 + shared)


@pytest.mark.parametrize(
    ("name", "message"), [("alike", "weights differ between processes"), ("apart", "should share nothing")]
)
def test_steps_that_are_not_what_they_are_called_are_not_timed(name: str, message: str):
    answer = {"trained": True, "alike": True, "apart": True, "sound": True, name: False}
    with pytest.raises(Refused, match=f"2 processes: .*{message}.*; nothing is timed"):
        check({2: FakeJob(2, check=lambda: answer)})


def test_overlapping_collectives_count_once():
    assert union([(0.0, 2.0), (1.0, 3.0), (1.5, 2.0), (5.0, 6.0)]) == 4.0


def test_one_process_answers(tmp_path: Path):
    threads = torch.get_num_threads()
    job = Job(JobArguments(socket=tmp_path / "none", photos=2), tmp_path)
    torch.set_num_threads(threads)
    assert job.describe()["stages"] == ["pretrain-color", "pretrain-edit", "ping-1", "pong-1"]
    assert job.step(0, 2) > 0
    assert job.check() == {"trained": True, "alike": True, "apart": True, "sound": True}


def test_the_model_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    document = tmp_path / "document.md"
    document.write_text("<!-- begin model -->\n<!-- end model -->\n")
    assert main(["scaling", "--model", "--costs", str(COSTS), "--document", str(document)]) == 0
    printed = capsys.readouterr().out.strip()
    assert "**pretrain-color** stops scaling first" in printed
    assert document.read_text() == f"<!-- begin model -->\n\n{printed}\n\n<!-- end model -->\n"
