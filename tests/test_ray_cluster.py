"""The script that starts Ray on several machines, with programs that only write down how they were called."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import ROOT

pytestmark = pytest.mark.infra

SCRIPT = ROOT / "launch" / "ray_cluster.sh"
NOTE = 'echo "$(basename "$0") $*" >> "$CALLS"\n'
# Ends by SIGTERM alone, as `ray start --block` does.
STAYS = 'trap \'echo "ended $(basename "$0")" >> "$CALLS"; kill $!; exit 0\' TERM\n' + NOTE + "sleep 600 & wait\n"
STUBS = {
    "ray": STAYS,
    "ssh": STAYS,
    "srun": STAYS,
    "scontrol": 'printf "n1\\nn2\\n"\n',
    "python": 'echo "${NODES:-2}"\n',
    # It waits until the others have been called.
    "job": 'until [ "$(grep -c start "$CALLS")" -ge "${STARTS:-2}" ]; do :; done\n'
    + 'echo "job at $RAY_ADDRESS: $*" >> "$CALLS"; exit 7\n',
}

Run = Callable[..., tuple[subprocess.CompletedProcess[str], list[str]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The script's result and the calls that it made."""
    for name, text in STUBS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}")
        (tmp_path / name).chmod(0o755)

    def start(*words: str, **variables: str):
        calls = tmp_path / "calls"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "RAY"))}
        environment |= {"PATH": f"{tmp_path}:/usr/bin:/bin", "CALLS": str(calls), "RAY_PAUSE": "0"}
        done = subprocess.run(
            [SCRIPT, *words], capture_output=True, text=True, env=environment | variables, timeout=60
        )
        return done, calls.read_text().splitlines() if calls.exists() else []

    return start


def test_bash_can_parse_it():
    subprocess.run(["bash", "-n", SCRIPT], check=True)


def test_a_head_here_a_worker_by_ssh_and_then_the_command(run: Run):
    done, calls = run("alpha", "beta", "--", "job", "--address", "auto", "--name", "a b", RAY_PORT="6400")
    assert done.returncode == 7, "the command's own exit code"
    (head,) = [call for call in calls if call.startswith("ray start")]
    assert "--head --node-ip-address=alpha --port=6400" in head
    assert "--block" in head
    (worker,) = [call for call in calls if call.startswith("ssh")]
    assert " beta cd " in worker
    assert "start --address=alpha:6400" in worker
    assert "--head" not in worker
    assert "job at alpha:6400: --address auto --name a b" in calls


def test_everything_that_it_started_ends_with_the_command(run: Run):
    _, calls = run("alpha", "beta", "--", "job")
    assert sorted(calls[-2:]) == ["ended ray", "ended ssh"]
    assert "ray stop" not in SCRIPT.read_text().replace("`ray stop` would", ""), "it would end others' processes"


def test_in_a_slurm_allocation_the_hosts_are_its_nodes(run: Run):
    slurm = {
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_CPUS_ON_NODE": "16",
        "SLURM_GPUS_ON_NODE": "4",
    }
    done, calls = run("--", "job", **slurm)
    assert done.returncode == 7
    (worker,) = [call for call in calls if call.startswith("srun")]
    assert "--nodelist=n2" in worker
    assert "start --address=n1:6379" in worker
    assert all("--num-cpus=16 --num-gpus=4" in call for call in calls if " start " in call)


def test_machines_that_do_not_join_are_an_error(run: Run):
    done, calls = run("alpha", "beta", "--", "job", NODES="1", RAY_TRIES="3")
    assert done.returncode == 1
    assert "1 of 2 machines have joined" in done.stderr
    assert not any(call.startswith("job") for call in calls)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_and_goes_on_to_the_command(number: signal.Signals, tmp_path: Path, run: Run):
    heard = f'trap \'echo "heard" >> "$CALLS"; kill $!; exit 0\' {number.name.removeprefix("SIG")}\n'
    (tmp_path / "job").write_text(f'#!/bin/bash\n{heard}echo job >> "$CALLS"\nsleep 600 & wait\n')
    calls = tmp_path / "calls"
    environment = os.environ | {"PATH": f"{tmp_path}:/usr/bin:/bin", "CALLS": str(calls), "RAY_PAUSE": "0"}
    before = signal.signal(number, signal.default_int_handler)  # what is ignored here, bash could not trap
    process = subprocess.Popen([SCRIPT, "alpha", "beta", "--", "job"], env=environment, start_new_session=True)
    signal.signal(number, before)
    # Each writes its name once it hears signals; ssh may be later than the command.
    while not (
        calls.exists() and {"job", "ray", "ssh"} <= {line.split()[0] for line in calls.read_text().splitlines()}
    ):
        assert process.poll() is None
    process.send_signal(number)
    assert process.wait(timeout=20) == 128 + number
    assert {"heard", "ended ray", "ended ssh"} <= {*calls.read_text().split("\n")}


@pytest.mark.parametrize("words", [[], ["--"], ["--", "job"], ["alpha", "job"], ["--help"], ["alpha", "--"]])
def test_wrong_words_are_answered_with_the_usage(words: list[str], run: Run):
    done, calls = run(*words)
    assert done.returncode == 2
    assert "launch/ray_cluster.sh HOST HOST" in done.stderr
    assert not calls


def test_the_readme_describes_it():
    assert f"launch/{SCRIPT.name}" in (SCRIPT.parent / "README.md").read_text()
