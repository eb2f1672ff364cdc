"""A machine of a Ray cluster is lost in the middle of a sweep: one of Ray's own stand-ins for machines."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray.cluster_utils import Cluster

from tests.tuner.toy import climb
from tests.tuner.toy_sweep import NAME, options
from tuner.plan import SWEEPS, Plan
from tuner.sweep import run
from tuner.trial import Setup

pytestmark = pytest.mark.slow
PLACES, LOST = "places.txt", "lost"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head that runs no trials."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def waiting(values: dict[str, Any], setup: Setup) -> None:
    """Like `climb`; leaves a line with its machine, and begins when one machine was lost."""
    place = f"{tune.get_context().get_trial_id()} {ray.get_runtime_context().get_node_id()}\n"
    with (setup.sweep_folder / PLACES).open("a") as file:
        file.write(place)
    while not (setup.sweep_folder / LOST).exists():
        time.sleep(0.05)
    climb(values, setup)


def test_trials_of_a_machine_that_is_lost_go_on_at_another_one(tmp_path: Path, cluster: Cluster):
    folder = tmp_path / SWEEPS / NAME
    machines = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()

    def places() -> list[list[str]]:
        file = folder / PLACES
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    def lose() -> None:
        deadline = time.monotonic() + 120
        while len(places()) < len(machines) and time.monotonic() < deadline:
            time.sleep(0.05)
        cluster.remove_node(machines[0], allow_graceful=False)
        (folder / LOST).touch()

    loser = threading.Thread(target=lose)
    loser.start()
    plan = Plan.new(options(tmp_path, budget="3", parallel=2, scheduler="none"))
    trials = run(plan, objective=waiting)
    loser.join()

    assert [trial.status for trial in trials] == ["finished"] * 3
    been: dict[str, list[str]] = defaultdict(list)
    for trial, machine in places():
        been[trial].append(machine)
    (moved,) = (where for where in been.values() if len(where) > 1)
    assert moved == [machines[0].node_id, machines[1].node_id]
    assert [where for where in been.values() if where is not moved] == [[machines[1].node_id]] * 2
