"""Contracts survive JSON, bad ones name their field, and padding is NumPy's reflection."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluator.registry.contract import Contract, crop, pad_to_multiple, standard_ports


def make_contract(**changes: Any) -> Contract:
    variant = changes.get("variant")
    inputs, outputs = standard_ports("guide" if variant else "colorizer", variant)
    values: dict[str, Any] = {
        "kind": "guide" if variant else "colorizer",
        "name": "colornet",
        "inputs": inputs,
        "outputs": outputs,
        "multiple": 128,
        "min_size": 256,
        "hint_size": 1,
        "temperature": 0.5 if variant else None,
        "config": {"data": {"train": ["a", "b"]}, "seed": 0},
        "metrics": {"ab_psnr/10": 33.5},
        "commit": "abc1234",
        "versions": {"torch": "2.15.0"},
    }
    return Contract(**values | changes)


def edited(**changes: Any) -> str:
    content = json.loads(make_contract().to_json())
    return json.dumps({**content, **changes})


@pytest.mark.parametrize("variant", [None, "blind", "oracle"])
@pytest.mark.parametrize("hint_size", [1, (1, 7)])
def test_a_contract_survives_json(variant: Any, hint_size: Any):
    contract = make_contract(variant=variant, hint_size=hint_size)
    assert Contract.from_json(contract.to_json()) == contract


def test_tuples_of_a_config_survive_json():
    contract = make_contract(config={"widths": (8, 16)})
    assert Contract.from_json(contract.to_json()) == contract


def test_whole_numbers_are_numbers():
    assert Contract.from_json(edited(metrics={"psnr": 33})).metrics == {"psnr": 33.0}


def test_only_an_oracle_sees_the_truth():
    names = {
        variant: [port.name for port in standard_ports("guide", variant)[0]] for variant in ("blind", "oracle")
    }
    assert names["blind"] == ["lightness", "predicted_ab", "clicks"]
    assert names["oracle"] == ["lightness", "predicted_ab", "clicks", "truth_ab"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"kind": "painter"}, "kind"),
        ({"kind": "guide"}, "variant"),
        ({"variant": "purple"}, "variant"),
        ({"variant": "blind"}, "variant"),
        ({"name": ""}, "name"),
        ({"name": 3}, "name"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [1, 2]}, "inputs"),
        ({"multiple": 0}, "multiple"),
        ({"multiple": "128"}, "multiple"),
        ({"multiple": True}, "multiple"),
        ({"min_size": 200}, "min_size"),
        ({"hint_size": [1, 2, 3]}, "hint_size"),
        ({"hint_size": [3, 1]}, "hint_size"),
        ({"hint_size": 0}, "hint_size"),
        ({"temperature": 1.0}, "temperature"),
        ({"config": []}, "config"),
        ({"metrics": {"psnr": "high"}}, "metrics.psnr"),
        ({"metrics": {"psnr": float("nan")}}, "metrics"),
        ({"versions": {"torch": 2}}, "versions.torch"),
        ({"schema": 2}, "schema"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_bad_contract_names_its_field(changes: dict[str, Any], field: str):
    with pytest.raises(ValueError, match=field):
        Contract.from_json(edited(**changes))


def test_inputs_of_another_width_are_refused():
    content = json.loads(make_contract().to_json())
    content["inputs"][1]["channels"] = 4
    with pytest.raises(ValueError, match="inputs"):
        Contract.from_json(json.dumps(content))
    content["inputs"][1]["channels"] = "three"
    with pytest.raises(ValueError, match=r"inputs\.channels"):
        Contract.from_json(json.dumps(content))


def test_a_missing_field_is_named():
    content = json.loads(make_contract().to_json())
    del content["multiple"]
    with pytest.raises(ValueError, match="lacks multiple"):
        Contract.from_json(json.dumps(content))


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_other_text_is_refused(text: str):
    with pytest.raises(ValueError, match=r"not JSON|schema"):
        Contract.from_json(text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no contract at"):
        Contract.read(tmp_path / "contract.json")
    (tmp_path / "contract.json").write_text("{}")
    with pytest.raises(ValueError, match=r"contract\.json: .*schema"):
        Contract.read(tmp_path / "contract.json")


def test_a_guide_needs_a_temperature():
    with pytest.raises(ValueError, match="temperature"):
        dataclasses.replace(make_contract(variant="blind"), temperature=None)


def test_a_config_that_json_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="config"):
        make_contract(config={"limit": float("inf")})


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 4, 16, 32]), st.sampled_from([1, 32, 64]))
def test_padding_is_reflection_and_cropping_undoes_it(height: int, width: int, multiple: int, min_size: int):
    image = torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width)
    padded = pad_to_multiple(image, multiple, min_size)
    rows, columns = padded.shape[-2:]
    smallest = -(-min_size // multiple) * multiple
    assert rows == max(smallest, -(-height // multiple) * multiple)
    assert columns == max(smallest, -(-width // multiple) * multiple)
    reference = np.pad(image[0, 0].numpy(), ((0, rows - height), (0, columns - width)), mode="reflect")
    assert np.array_equal(padded[0, 0].numpy(), reference)
    assert torch.equal(crop(padded, height, width), image)


def test_an_image_that_fits_is_not_copied():
    image = torch.zeros(2, 3, 64, 32)
    assert pad_to_multiple(image, 32) is image


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="0 x 5"):
        pad_to_multiple(torch.zeros(1, 1, 0, 5), 8)


def test_a_contract_from_before_there_were_features_still_loads():
    content = json.loads(make_contract().to_json())
    for name in ("features", "weights", "reads"):
        del content[name]
    for port in (*content["inputs"], *content["outputs"]):
        del port["cell"]
    assert Contract.from_json(json.dumps(content)) == make_contract()


@pytest.mark.parametrize("variant", ["blind", "oracle"])
def test_a_guide_that_reads_features_names_them_and_whose_they_are(variant: Any):
    inputs, outputs = standard_ports("guide", variant, 23)
    reading = {"inputs": inputs, "outputs": outputs, "features": 23, "weights": "ab12", "reads": "cd34"}
    contract = make_contract(variant=variant, **reading)
    assert Contract.from_json(contract.to_json()) == contract
    last = contract.inputs[-1]
    assert (last.name, last.channels, last.cell) == ("features", 23, 4)
    with pytest.raises(ValueError, match="contract field 'reads' is ''"):
        make_contract(variant=variant, **reading | {"reads": ""})
    with pytest.raises(ValueError, match="contract field 'inputs'"):
        make_contract(variant=variant, **reading | {"features": 24})


def test_a_colorizer_reads_nobodys_features():
    assert make_contract(features=23, weights="ab12").features == 23
    with pytest.raises(ValueError, match="contract field 'reads' is 'cd34'"):
        make_contract(features=23, reads="cd34")
