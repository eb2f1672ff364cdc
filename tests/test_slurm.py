"""The Slurm batch script, run with stand-ins for Slurm's programs; tests/test_launch_runs.py trains with it."""

import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

from tests import ROOT
from tests.launch_stubs import NOTE, calls, environment, session, write_stubs
from trainer.main import parse

pytestmark = pytest.mark.infra

SCRIPT = ROOT / "launch" / "slurm.sbatch"
LINES = SCRIPT.read_text().splitlines()
WORDS = [line.removeprefix("#SBATCH --").partition("=") for line in LINES if line.startswith("#SBATCH")]
DIRECTIVES = {name: value for name, _, value in WORDS}
JOB = {
    "SLURM_SUBMIT_DIR": str(ROOT),
    "SLURM_JOB_ID": "1234567",
    "SLURM_JOB_NAME": "coco",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_GPUS_ON_NODE": "8",
    "SLURM_CPUS_PER_TASK": "64",
}
STUBS = {
    "srun": NOTE + 'exit "${CODE:-0}"\n',
    "scontrol": NOTE + 'if [ "$1" = show ]; then printf "n1\\nn2\\n"; else exit "${REQUEUE_CODE:-0}"; fi\n',
}
# A task trains until it gets SIGTERM, and saves. srun kills it if srun gets SIGTERM, as the real one does.
STAYS = (
    NOTE
    + """
echo $$ > "$CALLS.srun"
bash -c 'trap "echo saved >> $CALLS; kill \\$!; exit 143" TERM; echo $$ > "$CALLS.task"
    echo ready; sleep 600 & wait' &
trap 'kill -KILL "$!"; exit 137' TERM
wait "$!"
"""
)
SCANCEL = NOTE + 'kill -TERM "$(cat "$CALLS.task")"\n'
# The training may have saved and ended before scancel is back.
SLOW_SCANCEL = SCANCEL + 'while kill -0 "$(cat "$CALLS.srun")" 2>/dev/null; do :; done\n'


def run(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    write_stubs(folder, STUBS)
    return subprocess.run(
        ["bash", SCRIPT, *words], env=environment(folder, **JOB, **variables), capture_output=True, text=True
    )


def started(folder: Path) -> list[str]:
    """The words of the one srun."""
    (call,) = [call for call in calls(folder) if call.startswith("srun")]
    return call.split()


def after(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def test_it_asks_for_a_signal_to_the_script_before_the_limit_and_for_another_turn():
    assert re.fullmatch(r"B:USR1@(\d+)", DIRECTIVES["signal"])
    assert "requeue" in DIRECTIVES
    assert DIRECTIVES["open-mode"] == "append", "a second turn must not wipe the log of the first"
    assert DIRECTIVES["ntasks-per-node"] == "1"
    grace = re.search(r"SHUTDOWN_TIMEOUT:-(\d+)", SCRIPT.read_text())
    assert grace
    assert int(grace[1]) < int(DIRECTIVES["signal"].partition("@")[2])


def test_each_node_gets_one_launcher_and_its_own_rank(tmp_path: Path):
    done = run(tmp_path, "paper", "--data.train", "/shards")
    assert done.returncode == 0, done.stderr
    words = started(tmp_path)
    assert words[1:3] == ["--kill-on-bad-exit=1", "--cpus-per-task=64"]
    launcher = words[words.index("accelerate", words.index('"$@"')) + 1 :]
    parsed = launch_command_parser().parse_args(launcher)
    assert (parsed.num_machines, parsed.num_processes) == (2, 16)
    assert (parsed.main_process_ip, parsed.main_process_port) == ("n1", 20000 + 1234567 % 12768)
    assert (ROOT / parsed.config_file).is_file()
    assert 'accelerate launch --machine_rank "$SLURM_NODEID"' in " ".join(words)
    assert parsed.training_script == "trainer/main.py"
    arguments = parse(parsed.training_script_args)
    assert arguments.config.preset == "paper"
    assert arguments.config.run.name == "coco-1234567"
    assert arguments.resume_or_start


def test_tasks_of_an_array_differ_in_port_name_and_seed(tmp_path: Path):
    found = []
    for task in range(2):
        folder = tmp_path / str(task)
        array = {"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_ID": str(70 + task)}
        write_stubs(folder, STUBS)
        subprocess.run(["bash", SCRIPT], env=environment(folder, **JOB | array), check=True)
        words = started(folder)
        found.append([after(words, option) for option in ("--main_process_port", "--run.name", "--seed")])
    assert found == [["20070", "coco-70-0", "0"], ["20071", "coco-70-1", "1"]]


def test_a_name_of_ones_own_stays(tmp_path: Path):
    run(tmp_path, "--run.name", "mine")
    assert started(tmp_path).count("--run.name") == 1


def test_a_name_that_an_array_would_share_is_refused(tmp_path: Path):
    write_stubs(tmp_path, STUBS)
    array = {"SLURM_ARRAY_JOB_ID": "70", "SLURM_ARRAY_TASK_ID": "1"}
    done = subprocess.run(
        ["bash", SCRIPT, "--run.name=mine"],
        env=environment(tmp_path, **JOB | array),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "all tasks of the array would be one run; leave it out" in done.stderr


def test_one_process_is_started_without_a_launcher_that_would_die_of_the_signal(tmp_path: Path):
    write_stubs(tmp_path, STUBS)
    one = JOB | {"SLURM_JOB_NUM_NODES": "1", "SLURM_GPUS_ON_NODE": "1"}
    subprocess.run(["bash", SCRIPT, "small"], env=environment(tmp_path, **one), check=True)
    words = started(tmp_path)
    assert words[words.index("python") :][:3] == ["python", "trainer/main.py", "small"]
    engine = one | {"CONFIG_FILE": "launch/ddp.yaml"}
    refused = subprocess.run(["bash", SCRIPT], env=environment(tmp_path, **engine), stderr=subprocess.PIPE)
    assert refused.returncode == 2
    assert b"CONFIG_FILE has no effect on one process" in refused.stderr


def test_the_exit_code_is_the_trainings(tmp_path: Path):
    assert run(tmp_path, CODE="7").returncode == 7
    assert not [call for call in calls(tmp_path) if "requeue" in call]


def run_and_signal(variables: dict[str, str], number: signal.Signals) -> tuple[int, str]:
    """Exit code and error output of the script, which gets a signal once its tasks train."""
    with session(["bash", SCRIPT], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as script:
        assert script.stdout is not None
        assert script.stdout.readline() == "ready\n"
        script.send_signal(number)
        _, said = script.communicate(timeout=60)
    return script.returncode, said


@pytest.mark.parametrize("scancel", [SCANCEL, SLOW_SCANCEL], ids=["scancel first", "saved first"])
@pytest.mark.parametrize(
    ("number", "refused", "code", "requeued"),
    [
        pytest.param(signal.SIGUSR1, "0", 0, True, id="the limit is near"),
        pytest.param(signal.SIGUSR1, "1", 143, True, id="Slurm does not queue it again"),
        pytest.param(signal.SIGTERM, "0", 143, False, id="somebody ends the job"),
    ],
)
@pytest.mark.parametrize(
    ("array", "job"),
    [
        pytest.param({}, "1234567", id="a job"),
        # The last task of an array has the array's number, and is in bash's POSIX mode here.
        pytest.param(
            {"SLURM_ARRAY_JOB_ID": "1234567", "SLURM_ARRAY_TASK_ID": "4", "POSIXLY_CORRECT": "1"},
            "1234567_4",
            id="a task of an array",
        ),
    ],
)
def test_a_signal_saves_and_the_limits_signal_queues_it_again(
    tmp_path: Path,
    number: signal.Signals,
    refused: str,
    code: int,
    requeued: bool,
    scancel: str,
    array: dict[str, str],
    job: str,
):
    write_stubs(tmp_path, STUBS | {"srun": STAYS, "scancel": scancel})
    variables = environment(tmp_path, **JOB | array, REQUEUE_CODE=refused)
    returned, said = run_and_signal(variables, number)
    assert returned == code
    noted = calls(tmp_path)
    assert f"scancel --signal=TERM {job}" in noted
    assert noted.count("saved") == 1
    assert (f"scontrol requeue {job}" in noted) == requeued
    if requeued:
        assert noted.index("saved") < noted.index(f"scontrol requeue {job}"), "first saved, then queued"
    assert ("to go on, sbatch the same with this --run.name" in said) == (refused == "1")


@pytest.mark.parametrize(
    ("first", "then", "requeued"),
    [
        pytest.param(signal.SIGTERM, "USR1", False, id="ended, and the limit comes while it saves"),
        pytest.param(signal.SIGUSR1, "TERM", True, id="the limit, and Slurm's own end while it saves"),
    ],
)
def test_the_first_signal_decides(tmp_path: Path, first: signal.Signals, then: str, requeued: bool):
    again = f'[ -e "$CALLS.told" ] || {{ : > "$CALLS.told"; kill -{then} "$PPID"; exit 0; }}\n'
    write_stubs(tmp_path, STUBS | {"srun": STAYS, "scancel": again + SCANCEL})
    run_and_signal(environment(tmp_path, **JOB), first)
    noted = calls(tmp_path)
    assert "saved" in noted
    assert ("scontrol requeue 1234567" in noted) == requeued


def test_it_says_how_it_is_started(tmp_path: Path):
    slurm = {name: value for name, value in JOB.items() if name != "SLURM_SUBMIT_DIR"}
    done = subprocess.run(
        ["bash", SCRIPT], env=environment(tmp_path, **slurm), capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "give this file to sbatch" in done.stderr


def test_the_usage_line_is_one_that_the_shell_takes():
    (usage,) = [line for line in LINES if line.startswith("#   sbatch")]
    assert shlex.split(usage)[1] == "sbatch"
