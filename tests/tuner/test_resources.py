from typing import Any

import pytest

from tuner.config import Options
from tuner.resources import Machine, Needs, check_room, default_gpus

LAPTOP, SERVER = Machine(2, 0), Machine(16, 4)


def options(**changes: Any) -> Options:
    return Options(**{"gpus": 0.0, **changes})


@pytest.mark.parametrize(
    ("changes", "machines", "trials"),
    [
        ({}, [LAPTOP], 2),
        ({"cpus": 0.5}, [LAPTOP], 4),
        ({"gpus": 0.25}, [SERVER], 16),
        ({"gpus": 0.4}, [SERVER], 8),
        ({"gpus": 1.0, "cpus": 8.0}, [SERVER], 2),
        ({"workers": 2, "threads": 3}, [Machine(4, 0), Machine(4, 0), Machine(2, 0)], 1),
        ({"cpus": 3.0}, [LAPTOP, LAPTOP], 0),
    ],
)
def test_room_is_counted_on_each_machine_and_each_gpu(changes: dict, machines: list[Machine], trials: int):
    assert Needs.of(options(**changes)).fit(machines) == trials


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"parallel": 3},
            "--parallel 3: a trial needs 1 core, so this machine with 2 cores and 0 GPUs has room for 2",
        ),
        ({"cpus": 64.0}, "a trial needs 64 cores, and this machine has 2 cores and 0 GPUs; lower --cpus"),
        ({"gpus": 1.0}, "a trial needs 1 core and 1 GPU, and this machine has"),
        ({"workers": 4}, "a trial needs 4 workers with each 1 core, and this machine has"),
        ({"workers": 2, "gpus": 0.5}, "several workers, and more than one GPU, take whole GPUs"),
        ({"cpus": 3.0, "address": "auto"}, "and the cluster has 2 cores"),
    ],
)
def test_what_there_is_no_room_for_is_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        check_room(options(**changes), [LAPTOP])


def test_a_cluster_may_grow_to_what_parallel_asks_for():
    check_room(options(parallel=8, address="auto"), [LAPTOP])


def test_gpus_are_shared_where_there_are_any_unless_something_else_is_asked_for():
    assert default_gpus(Options(), 0.0, [LAPTOP]) == 0
    assert default_gpus(Options(), 0.0, [SERVER]) == 0.25
    assert default_gpus(Options(workers=2), 0.25, [SERVER]) == 1
    assert default_gpus(Options(gpus=0.0), 1.0, [SERVER]) == 0
    assert default_gpus(Options(), 1.0, [LAPTOP]) == 1, "refused by the check, and not trained on the CPU instead"
