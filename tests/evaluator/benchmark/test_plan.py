from pathlib import Path
from typing import Any

import pytest
import tyro

from evaluator.benchmark.config import Options, make_plan, split
from evaluator.benchmark.presets import PRESETS
from evaluator.metrics import METRICS, unavailable

NEEDED = ["--colorizer", "c.pt2", "--photos", "p.zip", "--out", "out"]


def options(*words: str) -> Options:
    return tyro.cli(Options, args=[*NEEDED, *words])


def plan_of(*words: str) -> Any:
    return make_plan(options(*words), batch_size=4)


def test_lists_take_commas_and_spaces_and_guides_may_be_repeated():
    found = options("--clicks", "0,1", "5", "--guide", "a.pt2", "b.pt2", "--guide", "c.pt2")
    assert split(found.clicks) == ["0", "1", "5"]
    assert found.guide == (("a.pt2", "b.pt2"), ("c.pt2",))
    assert found.photos == Path("p.zip")


def test_the_default_is_the_issue_s_protocol_and_every_metric_that_can_be_measured():
    plan = plan_of()
    assert plan.protocol.clicks == (0, 1, 2, 5, 10, 20, 30, 50, 100)
    assert (plan.protocol.hint_size, plan.cut.size, plan.protocol.seed) == (1, 256, 0)
    assert {*plan.metrics, *plan.not_measured} == set(METRICS)
    assert all(unavailable(name) for name in plan.not_measured)


def test_the_robot_is_stated():
    stated = plan_of("--robot.position-sigma", "2", "--robot.colour-sigma", "4").stated()
    assert stated["robot"] == {"position_sigma": 2.0, "colour_sigma": 4.0}
    assert (stated["size"], stated["grey"], stated["precision"]) == (256, False, "fp32")


def test_a_preset_sets_the_protocol_and_a_flag_wins_over_it():
    plan = plan_of("--preset", "rtug-sweep")
    assert (plan.protocol.clicks, plan.protocol.hint_size) == (PRESETS["rtug-sweep"].clicks, 6)
    assert plan.policies == ("random", "gaussian")
    assert plan.changed == ()
    small = plan_of("--preset", "guidingpainter-nri", "--size", "64", "--clicks", "0,5")
    assert (small.cut.size, small.protocol.clicks) == (64, (0, 5))
    assert small.changed == ("clicks", "size")
    assert [level.value for level in small.levels] == [20.5, 17.5, 19.5]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metrics", "ab_psnr,beauty"], "unknown metrics beauty; choose from ab_psnr"),
        (["--clicks", "0,many"], "clicks has 'many'; give whole numbers"),
        (["--clicks", "5,1"], "give rising numbers of clicks"),
        (["--clicks", "0,300", "--size", "16"], "300 clicks of 1 x 1 pixels do not fit into 16 x 16 = 256 pixels"),
        (["--clicks", "50", "--size", "32", "--hint-size", "5"], "50 clicks of 5 x 5 pixels do not fit"),
        (["--nri", "rgb_psnr"], "write METRIC=LEVEL"),
        (["--nri", "delta_e=3", "--metrics", "ab_psnr"], "nri names delta_e, which is not measured"),
        (["--fid", "7"], "fid is 7, which is not among --clicks"),
        (["--size", "8", "--clicks", "5", "--metrics", "ab_ssim"], "ab_ssim cannot be measured: photos of 8 x 8"),
        (["--size", "0"], "size is 0"),
        (["--least-side", "0"], "least_side is 0"),
        (["--hint-size", "0"], "hint_size is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--workers", "0"], "workers is 0; it must be at least 1"),
        (["--threads", "-1"], "threads is -1; it must be at least 0"),
        (["--nri", "rgb_psnr=inf"], "the level must be a finite number"),
        (["--nri", "rgb_psnr=nan"], "the level must be a finite number"),
    ],
)
def test_bad_input_is_one_clear_line(words: list[str], message: str):
    with pytest.raises(ValueError, match=message) as error:
        plan_of(*words)
    assert "\n" not in str(error.value)


def test_what_a_preset_cannot_measure_here_is_said_and_what_was_asked_for_by_name_is_an_error(monkeypatch):
    monkeypatch.setattr(
        "evaluator.benchmark.config.unavailable", lambda name: "no weights" if name == "lpips" else None
    )
    assert plan_of("--preset", "thesis-table-4.1").not_measured == {"lpips": "no weights"}
    with pytest.raises(ValueError, match="lpips cannot be measured: no weights"):
        plan_of("--metrics", "lpips")


def test_what_would_be_missed_after_hours_is_asked_for_first(monkeypatch):
    with pytest.raises(ValueError, match=r"thesis-table-4\.2 needs --run"):
        plan_of("--preset", "thesis-table-4.2")
    monkeypatch.setattr("evaluator.metrics.fid.unavailable", lambda: "no Inception")
    with pytest.raises(ValueError, match="fid cannot be measured: no Inception"):
        plan_of("--fid", "10")
    monkeypatch.setattr("evaluator.metrics.fid.unavailable", lambda: None)
    assert plan_of("--fid", "0,10").fid == (0, 10)
