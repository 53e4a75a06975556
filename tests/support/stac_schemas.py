"""STAC items against the JSON schemas that they name, offline."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
from pystac.validation.local_validator import get_local_schema_cache
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

CORE = "https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/item.json"


def read_schemas(folder: Path) -> tuple[dict, Registry]:
    """Read core schemas from pystac, those of the extensions from a folder."""
    found = dict(get_local_schema_cache())
    for path in folder.glob("*.json"):
        schema = json.loads(path.read_text())
        found[schema["$id"].removesuffix("#")] = schema
    resources = [
        (name, Resource.from_contents(schema, default_specification=DRAFT7))
        for name, schema in found.items()
    ]
    return found, Registry().with_resources(resources)


def validate(item: dict, schemas: tuple[dict, Registry]) -> None:
    """Raise where an item is not as STAC and the extensions that it declares want it."""
    found, registry = schemas
    for name in (CORE, *item["stac_extensions"]):
        jsonschema.Draft7Validator(found[name], registry=registry).validate(item)
