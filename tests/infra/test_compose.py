"""The compose file and Prometheus' files: valid, pinned, closed to other machines, and of one piece."""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluator.service.middleware.metrics import Metrics
from evaluator.service.settings import from_environment
from tests import ROOT
from trainer.monitoring.prometheus import HELP, PREFIX

pytestmark = pytest.mark.infra

INFRA = ROOT / "infra"
COMPOSE: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
SERVERS = [name for name, service in SERVICES.items() if "profiles" not in service]
RULES = [
    rule for group in yaml.safe_load((INFRA / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]  # fmt: skip


def test_compose_yaml_follows_the_compose_specification():
    if find_spec("check_jsonschema") is None:
        pytest.skip("check-jsonschema is not installed, which has the schema")
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*words, str(INFRA / "compose.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_parts_are_those_that_the_readme_lists():
    readme = (INFRA / "README.md").read_text()
    assert {"postgres", "s3", "mlflow", "service", "prometheus", "evaluator"} == set(SERVICES)
    assert all(f"| `{name}` |" in readme for name in SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned(name: str):
    _, _, tag = SERVICES[name]["image"].rpartition(":")
    assert re.fullmatch(r"v?\d+\.\d+(\.\d+)?(-\w+)?", tag), SERVICES[name]["image"]


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_open_to_this_machine_alone(name: str):
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)


def test_the_store_is_on_a_network_without_a_way_out():
    assert COMPOSE["networks"]["store"]["internal"]
    for name in ("postgres", "s3"):
        assert SERVICES[name]["networks"] == ["store"]
        assert "ports" not in SERVICES[name]


@pytest.mark.parametrize("name", SERVERS)
def test_every_server_is_asked_for_its_health_and_started_again(name: str):
    health = SERVICES[name]["healthcheck"]
    assert health["test"][0] == "CMD"
    assert health["retries"] >= 3
    assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_names_exists(name: str):
    service = SERVICES[name]
    assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
    assert set(service["networks"]) <= set(COMPOSE["networks"])
    for needed, condition in service.get("depends_on", {}).items():
        assert "healthcheck" in SERVICES[needed]
        assert condition == {"condition": "service_healthy"}
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("./"):
            assert (INFRA / source).is_dir()
        elif not source.startswith("${"):
            assert source in COMPOSE["volumes"]
    if build := service.get("build"):
        assert ((INFRA / build["context"]).resolve() / build["dockerfile"]).is_file()
        assert (INFRA / build["context"]).resolve() == ROOT


def test_everything_that_is_declared_is_used():
    used = [str(service) for service in SERVICES.values()]
    for kind in ("volumes", "networks", "secrets"):
        assert all(any(name in text for text in used) for name in COMPOSE[kind]), kind


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_may_gain_rights(name: str):
    service = SERVICES[name]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "network_mode", "pid", "cap_add", "devices"} & set(service)
    if "build" in service:
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]


def test_passwords_come_from_files():
    variables = [text for service in SERVICES.values() for text in service.get("environment", {})]
    assert [name for name in variables if re.search("PASSWORD|SECRET|TOKEN|KEY", name)] == [
        "POSTGRES_PASSWORD_FILE"
    ]


def test_secrets_are_made_once_and_kept_out_of_git(tmp_path: Path):
    def make() -> dict[str, str]:
        subprocess.run([INFRA / "make-secrets.sh", tmp_path / "secrets"], check=True, capture_output=True)
        return {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}

    made = make()
    assert made == make()
    assert {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()} == set(made)
    assert len(made["postgres_password"]) == 48
    credentials = yaml.safe_load(made["s3.json"])["identities"][0]["credentials"][0]
    assert credentials["accessKey"] != credentials["secretKey"]
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    assert "/secrets/" in (INFRA / ".gitignore").read_text().splitlines()


def test_the_service_reads_the_variables_that_it_is_given():
    given = SERVICES["service"]["environment"]
    settings = from_environment(given)
    assert settings.tracking_uri == "http://mlflow:5000"
    assert "127.0.0.1" in settings.allowed_hosts
    assert "service" in settings.allowed_hosts  # Prometheus calls it so
    assert not settings.anybody_may_switch or settings.is_loopback
    assert "CHROMACLICK_TOKEN" in SERVICES["service"]["command"][0]


def test_the_registry_gets_every_variable_that_its_script_asks_for():
    script = (INFRA / "mlflow" / "start.py").read_text()
    assert set(re.findall(r'setting\("(\w+)"\)', script)) == set(SERVICES["mlflow"]["environment"])


def test_the_evaluators_command_is_one_that_it_takes():
    from evaluator.benchmark import command

    words = SERVICES["evaluator"]["command"]
    assert words[0] == "benchmark"
    with pytest.raises(SystemExit) as stopped:
        command.main([*words[1:], "--help"])
    assert stopped.value.code == 0


def test_prometheus_watches_the_service_where_it_is():
    config = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text())
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "chromaclick"]
    (target,) = job["static_configs"][0]["targets"]
    name, port = target.split(":")
    assert SERVICES[name]["ports"] == [f"127.0.0.1:{port}:{port}"]
    secret = Path(job["authorization"]["credentials_file"]).name
    assert secret in SERVICES["prometheus"]["secrets"]
    assert secret in SERVICES["service"]["secrets"]
    assert all((INFRA / "prometheus" / file).is_file() for file in config["rule_files"])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_are_about_figures_that_there_are_and_say_what_to_do(rule: dict[str, Any]):
    metrics = Metrics()
    metrics.requests.labels("/v1/colorize", "POST", "200").inc()
    metrics.seconds.labels("/v1/colorize").observe(0.1)
    text = metrics.text().decode() + "".join(f"{PREFIX}{name} 1\n" for name in HELP)
    for name in re.findall(r"\b(?:chromaclick|process)_\w+", rule["expr"]):
        assert re.search(rf"^{name}[ {{]", text, re.MULTILINE), name
    assert set(re.findall(r"[{,](\w+)=", rule["expr"])) <= {"job", "route", "method", "status"}
    assert set(rule["annotations"]) == {"summary", "what_to_do"}
    assert rule["labels"]["severity"] in ("page", "ticket")


def test_promtool_takes_the_files(tmp_path: Path):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    text = (INFRA / "prometheus" / "prometheus.yml").read_text()
    (tmp_path / "prometheus.yml").write_text(text.replace("/run/secrets", str(tmp_path)))
    (tmp_path / "service_token").touch()
    shutil.copy(INFRA / "prometheus" / "alerts.yml", tmp_path)
    words = ["promtool", "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
