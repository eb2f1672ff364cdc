"""What is watched: paces, slow ranks, figures for Prometheus and MLflow, traces, corrupt photos."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from evaluator.photos.manifest import ShardError
from evaluator.system.interrupts import StopRequest
from tests.trainer.small_training import Recorder, build, small_config
from trainer.monitoring.monitor import Watch
from trainer.monitoring.profiler import STEPS, Traces
from trainer.monitoring.prometheus import HELP, PREFIX, Figure, MetricsFile, losses_and_norms
from trainer.monitoring.stragglers import Meter, Pace, Stragglers, slowest


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_pace_is_the_mean_of_some_steps_and_of_nothing_between_them():
    clock = Clock()
    meter = Meter(every=2, host="a", clock=clock)
    paces = []
    for reading, waiting in ((1.0, 0.0), (3.0, 2.0), (0.0, 0.0), (0.0, 4.0)):
        with meter.reading():
            clock.now += reading
        clock.now += 5
        with meter.waiting():
            clock.now += waiting
        paces.append(meter.step())
        clock.now += 1000  # a checkpoint or a validation
    assert paces[0] is paces[2] is None
    assert paces[1] == Pace(host="a", step=8.0, reading=2.0, waiting=1.0)
    assert paces[3] == Pace(host="a", step=7.0, reading=0.0, waiting=2.0)


def paces(*own: float, reading: float = 0.0) -> list[Pace]:
    """Ranks whose steps all take 9 s, as steps of ranks that wait for each other do."""
    return [Pace(host=f"h{n}", step=9.0, reading=reading, waiting=9.0 - s) for n, s in enumerate(own)]


def test_the_slowest_rank_is_compared_with_the_median_of_the_others():
    assert slowest(paces(2.0, 1.0, 4.0, 2.0)) == (2, 2.0)
    assert slowest(paces(3.0, 1.5)) == (0, 2.0)
    assert slowest(paces(3.0)) == (0, 1.0)


def test_a_rank_is_named_once_when_it_is_slow_time_after_time():
    watcher = Stragglers(factor=1.3, patience=3)
    slow, even, other = paces(1.0, 2.0, 1.0), paces(1.0, 1.1, 1.0), paces(2.0, 1.0, 1.0)
    said = [watcher.update(now) for now in (slow, slow, even, slow, other, slow, slow, slow, slow)]
    assert [bool(text) for text in said] == [False] * 7 + [True, False]
    assert said[7] == (
        "rank 1 on h1 slows the others down: 2 s a step by itself, 2.0 times the others' median; "
        "not for want of photos"
    )
    reader = Stragglers(patience=1)
    assert "it waits for photos in 75% of that" in reader.update(paces(1.0, 2.0, reading=1.5))


def parsed(path: Path) -> dict[tuple[str, ...], float]:
    """Values by name and labels, as Prometheus reads them."""
    families = text_string_to_metric_families(path.read_text())
    samples = [sample for family in families for sample in family.samples]
    return {(s.name.removeprefix(PREFIX), *(v for _, v in sorted(s.labels.items()))): s.value for s in samples}


def test_figures_are_a_file_that_prometheus_reads(tmp_path: Path):
    losses = {"ping/l1": 0.5, "ping/gradient_norm_color": 2.0, "ping/lr": 1e-3}
    file = MetricsFile(tmp_path / "new" / "a.prom", "my run", pytest.fail)
    file.write([Figure("running", 1), Figure("images_seen", 8), *losses_and_norms(losses)])
    assert parsed(tmp_path / "new" / "a.prom") == {
        ("running", "my run"): 1,
        ("images_seen", "my run"): 8,
        ("loss", "ping", "my run", "l1"): 0.5,
        ("gradient_norm", "color", "my run"): 2.0,
    }
    assert not file.is_due()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.prom"], "no half-written file is left"


def test_a_file_that_cannot_be_written_is_said_once(tmp_path: Path):
    (tmp_path / "file").touch()
    said: list[str] = []
    file = MetricsFile(tmp_path / "file" / "a.prom", "r", said.append)
    for _ in range(2):
        file.write([Figure("running", 1)])
    assert len(said) == 1
    assert "a.prom" in said[0]


def test_a_trace_has_ten_steps_after_the_first_ones_and_each_kind_of_stage_has_one(tmp_path: Path):
    said: list[str] = []
    traces = Traces(tmp_path / "traces", said.append)
    for name, steps in (("ping-1", 20), ("ping-2", 20), ("pong-1", 3)):
        with traces.stage(name):
            for _ in range(steps):
                torch.mm(torch.ones(8, 8), torch.ones(8, 8))
                traces.step()
    assert [path.name for path in (tmp_path / "traces").iterdir()] == ["ping.json.gz"]
    with gzip.open(tmp_path / "traces" / "ping.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    steps = {event["name"] for event in events if event["name"].startswith("ProfilerStep")}
    assert len(steps) == STEPS
    assert sum(event["name"] == "aten::mm" and event["ph"] == "X" for event in events) == STEPS
    assert len(said) == 2
    assert said[1] == "no trace of pong: it is shorter than 8 steps"


def test_the_first_step_of_a_stage_and_validations_may_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    training = build(small_config(tmp_path), tmp_path)
    config = small_config(tmp_path, engine__compile=True)
    watch = Watch(config, training.cluster, training.engines, training.screen)
    noted: list[bool] = []
    monkeypatch.setattr(watch.dog, "compiling", noted.append)
    with watch.stage("ping-1"):
        assert noted == [True]
        watch.step({}, {})
    assert noted == [True, False]
    with watch.validating():
        assert noted == [True, False, True]
    assert noted == [True, False, True, False]


def test_a_training_logs_its_pace_and_writes_its_figures(tmp_path: Path):
    training = build(small_config(tmp_path, run__watch_every=3, recipe__rounds__cycles=0), tmp_path)
    training.watch.metrics_file = MetricsFile(tmp_path / "a.prom", "r", pytest.fail)
    with training.watch:
        assert training.run(StopRequest())
    assert isinstance(training.metrics, Recorder)
    logged = [(step, values) for step, values in training.metrics.logged if "step_seconds" in values]
    assert [step for step, _ in logged] == list(range(24, training.progress.images_seen + 1, 24))
    assert all(0 <= values["data_wait_share"] < 1 < 2 + values["step_seconds"] for _, values in logged)
    assert "data wait" in training.watch.in_words()
    found = {key[0]: value for key, value in parsed(tmp_path / "a.prom").items()}
    assert found["running"] == 0
    assert found["gradient_norm"] > 0
    assert set(found) <= set(HELP)
    assert {"images_seen", "images_per_second", "rank_own_seconds", "loss"} <= set(found)


def test_corrupt_photos_count_from_the_beginning_also_after_a_resume(tmp_path: Path):
    """1 % of an epoch of 4096 photos is 40."""
    config = small_config(tmp_path)
    first = build(config, tmp_path)
    first.progress.skipped_photos = 41
    first.save()
    resumed = build(config, tmp_path)
    assert resumed.progress.skipped_photos == 41
    with pytest.raises(ShardError, match=r"41 of 8 photos read are corrupt, more than 1.00%"):
        resumed.run(StopRequest())


def test_a_metrics_file_that_nobody_would_read_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"run.metrics_file is a.txt; its name must end in .prom"):
        small_config(tmp_path, run__metrics_file="a.txt")
