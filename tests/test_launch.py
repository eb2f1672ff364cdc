"""Launch files are read by accelerate itself, and hold what their names promise."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

LAUNCH = Path(__file__).parents[1] / "launch"


@pytest.mark.parametrize(("name", "machines", "processes"), [("ddp.yaml", 1, 8), ("ddp_nodes.yaml", 2, 16)])
def test_accelerate_reads_the_file(name: str, machines: int, processes: int):
    config = load_config_from_file(str(LAUNCH / name))
    assert isinstance(config, ClusterConfig)
    assert config.distributed_type == "MULTI_GPU"
    assert (config.num_machines, config.num_processes) == (machines, processes)
    assert not config.use_cpu
    assert config.mixed_precision == "no"  # the trainer's own setting decides


def test_every_file_is_in_the_table():
    readme = (LAUNCH / "README.md").read_text()
    for file in LAUNCH.glob("*.yaml"):
        assert f"launch/{file.name}" in readme
