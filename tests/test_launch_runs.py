"""Trainings on two processes, started by the launch files themselves: however it starts, the weights are the same.

The batch script runs with stand-ins for Slurm's programs; torchrun, accelerate, the network namespaces, the
signals and the trainings are real.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from evaluator.registry.mlflow_registry import default_tracking_uri, new_client
from tests import ROOT
from tests.launch_stubs import environment, finished, write_stubs
from tests.trainer.small_training import SMALL_UNET

pytestmark = [pytest.mark.infra, pytest.mark.launch]
EVERY = 8
"""Photos of a step, and between checkpoints."""
SMALL = (
    *SMALL_UNET,
    *("--data.batch-size", str(EVERY)),
    *(
        "--recipe.rounds.pretrain-color",
        "8",
        "--recipe.rounds.pretrain-edit",
        "0.3",
        "--recipe.rounds.ping",
        "0.3",
    ),
    *(
        "--recipe.rounds.pong",
        "0.3",
        "--recipe.rounds.cycles",
        "1",
        "--validation.photos",
        "2",
        "--validation.clicks",
        "0",
        "1",
    ),
    *("--engine.threads", "1", "--engine.precision", "fp32", "--run.checkpoint-every", str(EVERY)),
    "--run.no-publish",
)
# Each node's task, one after the other's start, as Slurm would start them; the worst code is srun's.
SRUN = """
while [ "${1#--}" != "$1" ]; do shift; done
code=0 tasks=()
for node in $(seq 0 $((SLURM_JOB_NUM_NODES - 1))); do
    SLURM_NODEID=$node "$@" &
    tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task" || code=$?; done
exit $code
"""
CANNOT = 77
"""The two hosts' way to say that this machine has no such thing."""


def weights(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Of every network, in the last checkpoint."""
    last = max((run / "checkpoints").iterdir(), key=lambda path: [int(part) for part in path.name.split("-")])
    engines = torch.load(last / "state.pt", weights_only=True)["engines"]
    return {name: engine["network"] for name, engine in engines.items()}


def assert_same(found: dict[str, dict[str, torch.Tensor]], expected: dict[str, dict[str, torch.Tensor]]) -> None:
    assert set(found) == set(expected)
    for network, tensors in expected.items():
        for name, tensor in tensors.items():
            assert torch.equal(found[network][name], tensor), f"{network}.{name}"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables, which take longer to make than one of these trainings."""
    folder = tmp_path_factory.mktemp("mlflow")
    new_client(default_tracking_uri(folder)).search_experiments()
    return folder / "mlflow.db"


def job_number() -> int:
    """Of a job whose port, which the batch script makes of it, is free."""
    for number in range(os.getpid(), os.getpid() + 100):
        with socket.socket() as asked, suppress(OSError):
            asked.bind(("127.0.0.1", 20000 + number % 12768))
            return number
    pytest.fail("a hundred ports are taken")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, numbered_shards: Path, database: Path) -> tuple[Path, str]:
    """A training by the batch script on two nodes, never interrupted: its folder and what it printed."""
    work, number = tmp_path_factory.mktemp("slurm"), job_number()
    shutil.copy(database, work)
    write_stubs(work / "bin", {"srun": SRUN, "scontrol": "echo localhost\n"})
    variables = environment(
        work / "bin",
        ACCELERATE_USE_CPU="true",
        SLURM_SUBMIT_DIR=str(ROOT),
        SLURM_JOB_ID=str(number),
        SLURM_JOB_NAME="coco",
        SLURM_JOB_NUM_NODES="2",
        SLURM_JOB_NODELIST="n[1-2]",
    )
    words = ("--run.work", str(work), "--data.train", str(numbered_shards), *SMALL)
    done = finished(["bash", ROOT / "launch" / "slurm.sbatch", *words], env=variables)
    assert done.returncode == 0, done.stderr
    return work / f"coco-{number}", done.stdout


@pytest.fixture(scope="module")
def uninterrupted(job: tuple[Path, str]) -> dict[str, dict[str, torch.Tensor]]:
    return weights(job[0])


def test_the_batch_script_trains_on_two_nodes(job: tuple[Path, str]):
    folder, said = job
    assert (folder / "results.json").exists()
    assert "2 process(es) on cpu" in said
    assert said.count("new run") == 1, "the nodes train one network, not each its own"


def test_a_killed_worker_costs_nothing_that_a_checkpoint_has(
    tmp_path: Path, numbered_shards: Path, database: Path, uninterrupted: dict[str, dict[str, torch.Tensor]]
):
    """SIGKILL for one of two workers in the middle of a phase; torchrun's agent starts both again."""
    shutil.copy(database, tmp_path)
    words = ("--run.name", "elastic", "--run.work", str(tmp_path), "--data.train", str(numbered_shards), *SMALL)
    variables = environment(tmp_path, ACCELERATE_USE_CPU="true", PROCESSES="2", PYTHONUNBUFFERED="1")
    with subprocess.Popen(
        [ROOT / "launch" / "torchrun.sh", *words],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as agent:
        try:
            wait_for_checkpoint(agent, tmp_path / "elastic" / "checkpoints")
            worker_of_rank(agent.pid, 1).send_signal(signal.SIGKILL)
            said, _ = agent.communicate(timeout=900)
        finally:
            agent.terminate()  # where the test has failed; its workers end with it
    assert agent.returncode == 0, said
    resumed = re.findall(r"resumed run \S+ at photo ([\d,]+)", said)
    assert len(resumed) == 1, "one restart is enough"
    assert int(resumed[0].replace(",", "")) > 0
    assert_same(weights(tmp_path / "elastic"), uninterrupted)


def wait_for_checkpoint(agent: subprocess.Popen[str], folder: Path) -> None:
    """Until there is one, at the beginning of the first stage."""
    late = time.monotonic() + 900
    while not (folder.is_dir() and any(path.name[0] == "0" for path in folder.iterdir())):
        assert agent.poll() is None, agent.communicate()[0]
        assert time.monotonic() < late, "no checkpoint"
        time.sleep(0.01)


def worker_of_rank(agent: int, rank: int) -> psutil.Process:
    workers = [child for child in psutil.Process(agent).children() if child.environ().get("RANK") == str(rank)]
    assert len(workers) == 1, workers
    return workers[0]


def two_hosts(shards: Path, work: Path, *words: str, shape: str = "") -> subprocess.CompletedProcess[str]:
    """Called from the work folder, by paths that are relative to it."""
    script = ROOT / "infra" / "two_hosts" / "run.sh"
    command = [os.path.relpath(script, work), os.path.relpath(shards, work), ".", *words]
    return finished(command, cwd=work, env=environment(work, SHAPE=shape))


def test_two_hosts_with_a_bad_link_train_the_same(
    tmp_path: Path, numbered_shards: Path, database: Path, uninterrupted: dict[str, dict[str, torch.Tensor]]
):
    """Rendezvous, gradients and shards over links that are slow and lose packets."""
    (tmp_path / "host0").mkdir()
    shutil.copy(database, tmp_path / "host0")
    refusals = []
    # Where the kernel has no netem: a queue that is too short for the traffic delays it, and drops the rest.
    for shape in ("netem delay 5ms 1ms loss 1%", "tbf rate 20mbit burst 4kb limit 12kb"):
        done = two_hosts(numbered_shards, tmp_path, "--run.name", "two", *SMALL, shape=shape)
        if done.returncode != CANNOT:
            break
        refusals.append(done.stderr.strip())
    else:
        pytest.skip("; ".join(refusals))
    assert done.returncode == 0, done.stderr
    lost = {name: int(count) for name, count in re.findall(r"(\w+): .*?dropped (\d+)", done.stdout)}
    assert set(lost) == {"host0", "host1", "shards"}
    assert lost["host0"] + lost["host1"] > 0, f"the link lost nothing: {lost}"
    assert done.stdout.count("new run") == 1
    assert not (tmp_path / "host1").exists(), "only the first host writes"
    assert_same(weights(tmp_path / "host0" / "two"), uninterrupted)


def test_two_hosts_leave_nothing_behind(tmp_path: Path, numbered_shards: Path):
    """Ended in the middle, they take every process of theirs with them."""
    with subprocess.Popen(
        [ROOT / "infra" / "two_hosts" / "run.sh", numbered_shards, tmp_path, "--run.name", "two", *SMALL],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as hosts:
        started: list[psutil.Process] = []
        # The shell, the server and two launchers; the programs between them come and go.
        while hosts.poll() is None and len(started) < 4:
            started = psutil.Process(hosts.pid).children(recursive=True)
        if hosts.poll() is not None:
            reason = hosts.communicate()[1]
            assert hosts.returncode == CANNOT, reason
            pytest.skip(reason.strip())
        hosts.kill()  # no trap hears of this one
        hosts.communicate(timeout=60)  # ends when all of them have let go of its output
    gone, alive = psutil.wait_procs(started, timeout=60)
    assert gone
    assert not alive


@pytest.mark.parametrize("words", [(), ("shards",), ("nowhere", "work")])
def test_two_hosts_say_what_they_want(tmp_path: Path, words: tuple[str, ...]):
    done = subprocess.run(
        [ROOT / "infra" / "two_hosts" / "run.sh", *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "SHARDS" in done.stderr or "there is no manifest.json in nowhere" in done.stderr


def test_two_hosts_take_no_exported_name_for_their_marker(tmp_path: Path):
    """No words, so that even a script that believes it is inside touches nothing of this machine."""
    done = subprocess.run(
        [ROOT / "infra" / "two_hosts" / "run.sh"],
        capture_output=True,
        cwd=tmp_path,
        env=os.environ | {"INSIDE": "1"},
    )
    assert done.returncode == 2
