"""The document's tables are those that the commands compute."""

import json
from pathlib import Path

import pytest

from tests import ROOT
from tests.benchmarks.trainer.scaling_model import (
    INPUTS,
    first_to_stop,
    measured_section,
    model_section,
    put,
    update,
)
from tests.benchmarks.trainer.step_costs import RecipeCost

DOCS = ROOT / "docs"
DOCUMENT = DOCS / "scaling.md"


@pytest.fixture(scope="module")
def counted() -> RecipeCost:
    return RecipeCost.read(DOCS / "results" / "step_costs_paper.json")


def test_the_document_has_the_models_tables(counted: RecipeCost):
    assert put(DOCUMENT.read_text(), "model", model_section(counted)) == DOCUMENT.read_text()


def test_the_document_has_the_measured_table():
    report = json.loads((DOCS / "results" / "bench_scaling_cpu.json").read_text())
    assert put(DOCUMENT.read_text(), "measured", measured_section(report)) == DOCUMENT.read_text()


def test_inputs_say_where_they_come_from():
    assert {source.split(":")[0] for _, _, source in INPUTS} == {
        "counted",
        "counted in the code",
        "torch's default",
        "data sheet",
        "**assumption**",
    }


def test_colornets_pretraining_stops_first(counted: RecipeCost):
    assert first_to_stop(counted.at(5)).startswith("**pretrain-color** stops scaling first")


def test_a_section_replaces_what_was_there(tmp_path: Path):
    file = tmp_path / "document.md"
    file.write_text("before\n<!-- begin a -->\nold\n<!-- end a -->\nafter\n")
    update(file, {"a": "new"})
    update(file, {"a": "newer"})
    assert file.read_text() == "before\n<!-- begin a -->\n\nnewer\n\n<!-- end a -->\nafter\n"


@pytest.mark.parametrize("text", ["", "<!-- begin a -->", "<!-- end a --><!-- begin a -->"])
def test_a_document_without_the_place_is_refused(text: str):
    with pytest.raises(ValueError, match="has no place for 'a'; put <!-- begin a --> and <!-- end a -->"):
        put(text, "a", "new")
