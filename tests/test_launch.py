"""Launch files are read by accelerate itself, hold what their names promise, and are all described and tested."""

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser

from tests import ROOT

pytestmark = pytest.mark.infra

LAUNCH = ROOT / "launch"
ONE_PROCESS = ["cpu.yaml", "gpu.yaml"]
SEVERAL_PROCESSES = {"ddp.yaml": (1, 8), "ddp_nodes.yaml": (2, 16)}
ZERO = {
    "zero1.yaml": (1, 1, 8),
    "zero2.yaml": (2, 1, 8),
    "zero3.yaml": (3, 1, 8),
    "zero1_nodes.yaml": (1, 2, 16),
    "zero2_nodes.yaml": (2, 2, 16),
}
TESTED_ELSEWHERE = {
    "torchrun.sh": "tests/test_torchrun.py",
    "slurm.sbatch": "tests/test_slurm.py",
    "ray_cluster.sh": "tests/test_ray_cluster.py",
}


def read(name: str) -> ClusterConfig:
    config = load_config_from_file(str(LAUNCH / name))
    assert isinstance(config, ClusterConfig)
    return config


@pytest.mark.parametrize("name", SEVERAL_PROCESSES)
def test_accelerate_reads_the_file(name: str):
    config = read(name)
    assert config.distributed_type == "MULTI_GPU"
    assert (config.num_machines, config.num_processes) == SEVERAL_PROCESSES[name]
    assert not config.use_cpu
    assert config.mixed_precision == "no"  # the trainer's own setting decides


@pytest.mark.parametrize("name", ZERO)
def test_accelerate_reads_the_files_of_deepspeed(name: str):
    """tests/trainer/test_engines.py trains with them."""
    config = read(name)
    assert config.distributed_type == "DEEPSPEED"
    asked = config.deepspeed_config
    assert asked is not None
    assert (asked["zero_stage"], config.num_machines, config.num_processes) == ZERO[name]
    assert ("deepspeed_multinode_launcher" in asked) == (config.num_machines > 1)
    assert config.mixed_precision == "no"
    assert asked["gradient_accumulation_steps"] == 1
    assert {asked["offload_optimizer_device"], asked["offload_param_device"]} == {"none"}


@pytest.mark.parametrize("name", ONE_PROCESS)
def test_a_file_for_one_process_starts_one(name: str):
    config = read(name)
    assert config.distributed_type == "NO"
    assert (config.num_machines, config.num_processes) == (1, 1)
    assert config.use_cpu == (name == "cpu.yaml")
    assert config.mixed_precision == "no"


@pytest.mark.parametrize("name", [*ONE_PROCESS, *SEVERAL_PROCESSES, *ZERO])
def test_accelerates_command_takes_the_file_and_leaves_the_trainers_options_alone(name: str):
    words = ["--config_file", str(LAUNCH / name), "trainer/main.py", "paper", "--run.name", "x"]
    parsed = launch_command_parser().parse_args(words)
    assert parsed.training_script == "trainer/main.py"
    assert parsed.training_script_args == ["paper", "--run.name", "x"]


def test_every_file_is_in_the_table():
    readme = (LAUNCH / "README.md").read_text()
    files = {file.name for file in LAUNCH.iterdir()} - {"README.md"}
    for name in files:
        assert f"launch/{name}" in readme, name


def test_files_of_other_folders_are_in_the_table_and_there():
    readme = (LAUNCH / "README.md").read_text()
    for path in ("infra/k8s/trainjob.yaml", "infra/kuberay/rayjob.yaml", "infra/two_hosts/run.sh"):
        assert path in readme
        assert (ROOT / path).is_file()


def test_every_file_is_tested():
    found = {file.name for file in LAUNCH.iterdir()} - {"README.md"}
    assert found == {*ONE_PROCESS, *SEVERAL_PROCESSES, *ZERO, *TESTED_ELSEWHERE}
    for name, test in TESTED_ELSEWHERE.items():
        assert name in (ROOT / test).read_text()
    kubernetes = (ROOT / "tests" / "infra" / "test_k8s.py").read_text()
    for file in (ROOT / "infra" / "k8s").glob("*.yaml"):
        assert file.name in kubernetes


@pytest.mark.parametrize("name", ["torchrun.sh", "ray_cluster.sh"])
def test_scripts_may_be_run(name: str):
    assert (LAUNCH / name).stat().st_mode & 0o111
