"""What a start loads where nothing is named: the champions, or else the networks that ship."""

import logging
import shutil
from pathlib import Path

import mlflow
import pytest

from evaluator import weights
from evaluator.service.inference.networks import names_to_load

CHAMPIONS = ("models:/colornet@champion", "models:/editnet-blind@champion")


@pytest.fixture
def shipping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation with weights; nobody loads them here."""
    (tmp_path / weights.SUMS_FILE).write_text("")
    monkeypatch.setattr(weights, "FOLDER", tmp_path)


@pytest.fixture
def uri(registry, tmp_path: Path) -> str:
    """A registry of this test's own: the files are shared, aliases are not."""
    shutil.copy(registry.work / "mlflow.db", tmp_path)
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.usefixtures("shipping")
def test_without_a_registry_the_shipped_networks_are_used_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.INFO, "chromaclick"):
        assert names_to_load("", "", f"sqlite:///{tmp_path}/none.db") == ("shipped", "shipped")
    (line,) = caplog.messages
    assert "no champion of colornet and editnet-blind is registered: the networks that ship" in line
    assert not (tmp_path / "none.db").exists()


@pytest.mark.usefixtures("shipping")
def test_champions_win_once_both_are_there(uri: str, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "chromaclick"):
        assert names_to_load("", "", uri) == CHAMPIONS
    assert not caplog.messages
    mlflow.MlflowClient(uri).delete_registered_model_alias("editnet-blind", "champion")
    assert names_to_load("", "", uri) == ("shipped", "shipped")


@pytest.mark.usefixtures("shipping")
def test_names_that_are_given_stay(uri: str, tmp_path: Path):
    nothing = f"sqlite:///{tmp_path}/none.db"
    assert names_to_load("models:/a/1", "folder", nothing) == ("models:/a/1", "folder")
    assert names_to_load(*CHAMPIONS, nothing) == CHAMPIONS
    assert names_to_load("models:/a/1", "", uri) == ("models:/a/1", CHAMPIONS[1])
    assert names_to_load("models:/a/1", "", nothing) == ("models:/a/1", "shipped")
    assert names_to_load("shipped", "", uri) == names_to_load("", "shipped", uri) == ("shipped", "shipped")


def test_without_weights_the_champions_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    assert names_to_load("", "", f"sqlite:///{tmp_path}/none.db") == CHAMPIONS
