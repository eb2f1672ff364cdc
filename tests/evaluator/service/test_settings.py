"""Settings come from flags and the environment; what cannot work is named."""

import logging
from pathlib import Path

import pytest
import tyro

from evaluator.service.settings import Settings, from_environment


def test_every_setting_has_a_variable():
    settings = from_environment(
        {
            "CHROMACLICK_PORT": "8123",
            "CHROMACLICK_WORK": "elsewhere",
            "CHROMACLICK_RATE": "0.5",
            "CHROMACLICK_ORIGINS": "https://one.example, https://two.example:8443",
            "HOME": "/root",
        }
    )
    assert settings == Settings(
        port=8123, work=Path("elsewhere"), rate=0.5, origins=("https://one.example", "https://two.example:8443")
    )


def test_a_flag_wins_over_its_variable():
    environment = from_environment({"CHROMACLICK_PORT": "8123", "CHROMACLICK_HOST": "localhost"})
    settings = tyro.cli(Settings, default=environment, args=["--port", "9000"])
    assert (settings.port, settings.host) == (9000, "localhost")


def test_a_variable_of_another_type_is_named():
    with pytest.raises(ValueError, match=r"CHROMACLICK_PORT is 'http'; it must be of type int"):
        from_environment({"CHROMACLICK_PORT": "http"})


def test_an_unknown_variable_is_warned_of(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        assert from_environment({"CHROMACLICK_PROT": "8123"}) == Settings()
    assert "CHROMACLICK_PROT has no effect" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runtimes": ("cuda",)}, "--runtimes is .*; give one or several of torch, "),
        ({"port": 70000}, "--port is 70000"),
        ({"working_size": 4}, "--working-size is 4; it must be at least 16"),
        ({"rate": float("nan")}, "--rate is nan"),
        ({"most_upload_mib": 0}, "--most-upload-mib is 0"),
        ({"origins": ("*",)}, r"--origins has '\*'"),
        ({"origins": ("https://photos.example/page",)}, "--origins has"),
        ({"token": "short"}, "the token has 5 characters; give at least 16"),
    ],
)
def test_what_cannot_work_is_refused(change: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Settings(**change)


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_only_this_machine_may_change_networks_unless_told_otherwise(host: str, loopback: bool):
    assert Settings(host=host).anybody_may_switch == loopback
    assert bool(Settings(host=host).allowed_hosts) == loopback
    assert Settings(host=host, allow_switch="yes").anybody_may_switch
    assert not Settings(host=host, allow_switch="no").anybody_may_switch
