import io
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tests.tuner.test_record import SWEEP, trial
from tuner.records import Report, Trial
from tuner.report.console import Screen, conclusion, settings

TRIALS = [
    trial(0, "finished", 20.0),
    replace(trial(1, "failed"), error="the loss was not finite"),
    trial(2, "running", 25.0),
    trial(3, "finished", 22.5),
    trial(4, "stopped", 15.0),
]


def screen(*, terminal: bool) -> tuple[Screen, io.StringIO]:
    file = io.StringIO()
    return Screen(SWEEP, Console(file=file, force_terminal=terminal, width=110)), file


def test_a_plain_output_gets_a_line_for_each_event():
    shown, file = screen(terminal=False)
    shown.open()
    started, reported = replace(TRIALS[0], reports=(), status="running"), replace(TRIALS[0], status="running")
    events: list[tuple[Trial | None, Trial]] = [(None, started), (started, reported), (reported, TRIALS[0])]
    for before, now in events:
        shown.event(before, now, TRIALS[0])
        shown.show([now])
    shown.event(None, TRIALS[1], None)
    shown.event(replace(TRIALS[1], status="running"), TRIALS[1], None)
    assert file.getvalue().splitlines() == [
        "trial 0: entropy=0.1",
        "trial 0: after ping-1, 0 photos, 0 s: ab_psnr 20 (best)",
        "trial 0: finished, 0 s (best)",
        "trial 1: entropy=0.1",
        "trial 1: failed: the loss was not finite",
    ]


def test_a_terminal_gets_a_table_that_is_drawn_again():
    shown, file = screen(terminal=True)
    shown.open()
    shown.show(TRIALS)
    shown.event(None, TRIALS[0], None)
    shown.close(TRIALS)
    assert file.getvalue().count("the loss was not finite") >= 2
    assert "trial 0:" not in file.getvalue()


def test_the_table_begins_with_what_runs_and_then_the_best():
    shown, file = screen(terminal=False)
    shown.close(TRIALS)
    lines = [line.split() for line in file.getvalue().splitlines()]
    rows = [line[0] for line in lines if line and line[0].isdigit()]
    assert rows == ["2", "3", "0", "4", "1"]
    assert "1 running, 2 finished, 1 stopped, 1 failed" in file.getvalue()


def test_several_metrics_end_with_the_trials_that_no_other_beats_on_all():
    trials = [
        replace(trial(number, "finished"), reports=(Report(9, "ping-1", 1.0, {"ab_psnr": psnr, "lpips": lpips}),))
        for number, (psnr, lpips) in enumerate([(20.0, 0.2), (21.0, 0.3), (19.0, 0.25), (22.0, 0.4)])
    ]
    shown, file = screen(terminal=False)
    shown.close(trials)
    _, _, last = file.getvalue().partition("Pareto front")
    rows = [line.split() for line in last.splitlines() if line[:6].strip().isdigit()]
    assert [row[0] for row in rows] == ["3", "1", "0"]
    assert rows[0][-2:] == ["22", "0.4"]


def test_the_conclusion_names_the_best_and_how_to_train_it():
    text = conclusion(SWEEP, TRIALS, Path("runs/sweeps/first"))
    assert "best: trial 3, ab PSNR, dB: 22.5; entropy=0.1" in text
    assert "--config runs/sweeps/first/best.json" in text
    assert "no trial measured ab_psnr" in conclusion(SWEEP, TRIALS[1:2], Path("there"))


def test_settings_are_named_as_shortly_as_they_stay_clear():
    values = {"recipe.choice.temperature.start": 0.123456, "seed": 3, "recipe.choice.estimator": "reinmax"}
    assert settings(values) == "temperature.start=0.123 seed=3 estimator=reinmax"
