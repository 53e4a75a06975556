"""The STAC items of the networks: valid, and true to the manifest and the weights."""

import hashlib
import json
import runpy
import sys
from pathlib import Path

import jsonschema
import pytest
from referencing.jsonschema import DRAFT7
from support.stac_schemas import read_schemas, validate

from kappamask.networks.manifest import get_entry, read_registry

# The MLM schema borrows definitions from extension versions that the shared folder lacks.
BORROWED = {
    "https://stac-extensions.github.io/raster/v1.1.0/schema.json": {
        "definitions": {
            "bands": {"items": {"properties": {"data_type": {"enum": ["float32", "uint8"]}}}}
        }
    },
    "https://stac-extensions.github.io/classification/v1.1.0/schema.json": {
        "definitions": {
            "fields": {
                "properties": {
                    "classification:classes": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "required": ["value", "description"],
                            "properties": {
                                "value": {"type": "integer"},
                                "name": {"pattern": "^[0-9A-Za-z-_]+$"},
                                "color_hint": {"pattern": "^([0-9A-Fa-f]{6})$"},
                            },
                        },
                    }
                }
            }
        }
    },
}
ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "make_model_items.py"
MODELS = list(read_registry()[1])


def describe_model(entry):
    """As the script does that writes the items of docs/models."""
    return runpy.run_path(str(SCRIPT))["describe_model"](entry)


@pytest.mark.shared
@pytest.mark.parametrize("name", MODELS)
def test_items_validate_against_the_schemas(name, shared_data):
    found, registry = read_schemas(shared_data / "stac-schemas")
    registry = registry.with_contents(BORROWED.items(), default_specification=DRAFT7)
    item = json.loads(json.dumps(describe_model(get_entry(name))))
    validate(item, (found, registry))
    del item["properties"]["mlm:input"]
    with pytest.raises(jsonschema.ValidationError, match="mlm:input"):
        validate(item, (found, registry))


def test_the_committed_items_are_those_of_the_manifest():
    folder = ROOT / "docs" / "models"
    assert {path.stem for path in folder.glob("*.json")} == set(MODELS)
    for name in MODELS:
        written = json.loads((folder / f"{name}.json").read_text())
        made = json.loads(json.dumps(describe_model(get_entry(name))))
        assert written == made, f"run {sys.executable} scripts/make_model_items.py"


def test_the_checksum_is_that_of_the_shipped_file():
    default = read_registry()[0]["L2A"]
    asset = describe_model(get_entry(default))["assets"]["weights"]
    content = (ROOT / "docs" / "models" / asset["href"]).read_bytes()
    assert asset["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()


def test_the_classes_stand_in_the_order_of_the_outputs():
    (output,) = describe_model(get_entry("kappamask-2026h"))["properties"]["mlm:output"]
    names = [entry["name"] for entry in output["classification:classes"]]
    assert names == ["clear", "cloud_shadow", "semi_transparent_cloud", "cloud"]
    assert output["result"]["shape"][1] == 4
    (output,) = describe_model(get_entry("kappamask-2021-l1c"))["properties"]["mlm:output"]
    assert [entry["value"] for entry in output["classification:classes"]] == [0, 1, 2, 3, 4, 5]
