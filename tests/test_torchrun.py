"""The elastic launcher: its words by torchrun's own parser; tests/test_launch_runs.py trains and kills with it."""

import subprocess
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser, parse_min_max_nnodes

from tests import ROOT
from tests.launch_stubs import calls, environment, write_stubs
from trainer.main import parse

pytestmark = pytest.mark.infra

SCRIPT = ROOT / "launch" / "torchrun.sh"
STUBS = {
    "torchrun": 'printf "%s\\n" "$@" > "$CALLS"\n'
    + 'printf "%s\\n" "$TORCH_DISABLE_SHARE_RDZV_TCP_STORE" > "$CALLS.store"\n'
    + 'printf "%s\\n" "$TORCH_ELASTIC_SHUTDOWN_TIMEOUT" > "$CALLS.seconds"\nexit 5\n'
}


def run(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    write_stubs(folder, STUBS)
    return subprocess.run(
        [SCRIPT, *words], env=environment(folder, **variables), capture_output=True, text=True, cwd=folder
    )


def test_on_several_machines_they_meet_and_may_be_one_to_four(tmp_path: Path):
    done = run(tmp_path, "paper", "--run.name", "coco", RENDEZVOUS="alpha:29400", JOB="coco")
    assert done.returncode == 5, "the training's own exit code"
    parsed = get_args_parser().parse_args(calls(tmp_path))
    assert parse_min_max_nnodes(parsed.nnodes) == (1, 4)
    assert (parsed.rdzv_backend, parsed.rdzv_endpoint, parsed.rdzv_id) == ("c10d", "alpha:29400", "coco")
    assert parsed.max_restarts == 3
    assert parsed.nproc_per_node == "auto"
    assert parsed.training_script == "trainer/main.py"
    arguments = parse(parsed.training_script_args)
    assert (arguments.config.preset, arguments.config.run.name) == ("paper", "coco")
    assert arguments.resume_or_start


def test_every_restart_has_a_store_of_its_own(tmp_path: Path):
    """Else ranks of the next try may read addresses of the last one's (pytorch/pytorch issue 167288)."""
    run(tmp_path, "--run.name", "coco")
    assert (tmp_path / "calls.store").read_text() == "1\n"


@pytest.mark.parametrize(("given", "seconds"), [({}, "240"), ({"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "9"}, "9")])
def test_a_save_has_more_time_than_torchrun_s_half_minute(tmp_path: Path, given: dict[str, str], seconds: str):
    run(tmp_path, "--run.name", "coco", **given)
    assert (tmp_path / "calls.seconds").read_text() == f"{seconds}\n"


def test_on_one_machine_it_waits_for_nobody(tmp_path: Path):
    run(tmp_path, "--run.name=coco", PROCESSES="2", RESTARTS="1")
    parsed = get_args_parser().parse_args(calls(tmp_path))
    assert parse_min_max_nnodes(parsed.nnodes) == (1, 1)
    assert parsed.rdzv_endpoint == "localhost:0"
    assert (parsed.nproc_per_node, parsed.max_restarts) == ("2", 1)


@pytest.mark.parametrize("words", [(), ("paper",), ("--help",), ("--run.work", "x")])
def test_a_run_without_a_name_is_refused_before_anything_starts(tmp_path: Path, words: tuple[str, ...]):
    done = run(tmp_path, *words)
    assert done.returncode == 2
    assert "launch/torchrun.sh [PRESET] --run.name NAME" in done.stderr
    assert "which run a restart goes on with" in done.stderr
    assert not calls(tmp_path)
