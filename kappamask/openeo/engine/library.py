"""The one door to openeo-processes-dask, which warns and logs while it is imported.

It takes a few types from openeo-pg-parser-networkx, which imports yprov4wfs at
its top, a program under the GPL. So it is given these in their place while it is imported, and
neither of the two is installed: docs/decisions/0020. Only a bounding box is ever made of them: all
other arguments are passed as JSON has them.
"""

from __future__ import annotations

import copy
import inspect
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from pyproj import CRS

from kappamask.base.errors import needs_extra
from kappamask.composites.periods import PERIODS
from kappamask.openeo.engine.flat_graph import ArgumentError

DEGREES = "EPSG:4326"
_PARSER = "openeo_pg_parser_networkx"
# Types that it asks arguments for, and of which none is made here.
_NEVER_MADE = ("DateTime", "ParameterReference", "TemporalInterval", "TemporalIntervals")
AMENDED = ("apply_neighborhood", "apply_polygon", "rename_labels", "resample_spatial")
CORNERS = ("lower-left", "upper-left", "lower-right", "upper-right")
TEXT = {"type": "string"}


@dataclass(frozen=True)
class Process:
    """A predefined process."""

    spec: dict[str, Any]
    implementation: Callable[..., Any]


@dataclass(frozen=True)
class BoundingBox:
    """The argument of that name: edges in a CRS.

    Examples
    --------
    >>> BoundingBox.of({"west": 11, "south": 46, "east": 12, "north": 47, "note": "x"}).south
    46.0
    >>> BoundingBox.of({"west": 11})
    Traceback (most recent call last):
    kappamask.openeo.engine.flat_graph.ArgumentError: a bounding box has west, south, east, ...
    """

    west: float
    south: float
    east: float
    north: float
    crs: str = DEGREES

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> BoundingBox:
        """Read what JSON says; what else it says is passed over.

        Raises
        ------
        ArgumentError
            If an edge is no number.
        pyproj.exceptions.CRSError
            If the CRS is unknown.
        """
        crs = value.get("crs")
        if isinstance(crs, str) and not crs.strip():
            crs = None
        try:
            edges = {name: float(value[name]) for name in ("west", "south", "east", "north")}
        except (KeyError, TypeError, ValueError):
            raise ArgumentError(
                f"a bounding box has west, south, east, north as numbers, got {value!r:.200}"
            ) from None
        known = CRS.from_user_input(DEGREES if crs is None else crs)
        return cls(**edges, crs=known.to_wkt())


@contextmanager
def standing_in() -> Iterator[None]:
    """Let openeo-processes-dask import its types from here; afterwards all is as it was."""
    made = {_PARSER: ModuleType(_PARSER), f"{_PARSER}.pg_schema": ModuleType("pg_schema")}
    schema = made[f"{_PARSER}.pg_schema"]
    for name in _NEVER_MADE:
        setattr(schema, name, type(name, (), {}))
    schema.BoundingBox, schema.DEFAULT_CRS = BoundingBox, DEGREES  # type: ignore[attr-defined]
    before = {name: sys.modules[name] for name in list(sys.modules) if name.startswith(_PARSER)}
    for name in before:
        del sys.modules[name]
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            sys.modules.pop(name, None)
        sys.modules.update(before)


logging.getLogger("openeo_processes_dask").setLevel(logging.ERROR)  # of extras that are absent
with (
    warnings.catch_warnings(action="ignore"),  # of its dependencies: pydantic 1, numpy 1
    needs_extra("local", "running openEO process graphs"),
    standing_in(),
):
    import openeo_processes_dask.process_implementations as _implementations
    import openeo_processes_dask.specs as _specs
    from openeo_processes_dask.process_implementations import dates as _dates


@cache
def implementations() -> Mapping[str, Callable[..., Any]]:
    """Find what the library implements; names that Python reserves lose their underscore."""
    found = inspect.getmembers(_implementations, inspect.isfunction)
    found += inspect.getmembers(_dates, inspect.isfunction)
    return {name.strip("_"): function for name, function in found}


@cache
def specifications() -> Mapping[str, dict[str, Any]]:
    """Read the specifications that the library ships, proposals included."""
    folder = Path(_specs.__file__).parent / "openeo-processes"
    read: dict[str, dict[str, Any]] = {}
    for place in (folder / "missing-processes", folder / "proposals", folder):
        for path in sorted(place.glob("*.json")):
            text = path.read_text(encoding="utf-8")
            if text.strip():  # one is empty
                spec = json.loads(text)
                read[spec["id"]] = spec
    return read | _newer(read)


def _newer(read: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Bring specifications to version 2.0 of the processes, where the engine can do what it adds.

    And let `apply_neighborhood` take calendar periods in t, as Copernicus does: the specification
    has durations only, of which back ends take but "P1D".
    """
    newer = {name: copy.deepcopy(read[name]) for name in AMENDED}
    parameters = {
        name: {one["name"]: one for one in spec["parameters"]} for name, spec in newer.items()
    }
    size = parameters["apply_neighborhood"]["size"]["schema"]["items"]["properties"]["value"]
    size["anyOf"].append({"type": "string", "title": "Calendar period", "enum": list(PERIODS)})
    corner = {"type": "string", "enum": list(CORNERS)}
    align = _parameter("align", "Corner at which the new pixels begin.", corner, "upper-left")
    newer["resample_spatial"]["parameters"].append(align)
    renamed = parameters["rename_labels"]["target"]
    renamed |= {"optional": True, "default": []}
    polygons = parameters["apply_polygon"].pop("polygons")
    newer["apply_polygon"]["parameters"] = [
        parameters["apply_polygon"].pop("data"),
        {**polygons, "name": "geometries", "optional": True, "default": None},
        *parameters["apply_polygon"].values(),
        {**polygons, "deprecated": True, "optional": True, "default": None},
    ]
    newer |= _of_copernicus()
    newer["text_find"] = {
        "id": "text_find",
        "summary": "Find a text in another",
        "description": "Gives the position, from 0, at which a text first holds another one.",
        "categories": ["texts"],
        "parameters": [
            {"name": "data", "description": "Text.", "schema": {"type": ["string", "null"]}},
            {"name": "pattern", "description": "What is looked for.", "schema": TEXT},
            _parameter("case_sensitive", "Whether a is not A.", {"type": "boolean"}, True),
        ],
        "returns": {
            "description": "The position, or null where the text does not hold the other.",
            "schema": {"type": ["number", "null"]},
        },
    }
    return newer


def _of_copernicus() -> dict[str, dict[str, Any]]:
    """Specify Copernicus' own masks of dilated scene classes."""
    size, values = {"type": "integer"}, {"type": "array", "items": {"type": "integer"}}
    cube = {"type": "object", "subtype": "datacube"}
    options = [
        _parameter("scl_band_name", "Band of scene classes.", {"type": ["string", "null"]}, None),
        _parameter("kernel1_size", "Pixels around what is not clear.", size, 17),
        _parameter("kernel2_size", "Pixels around clouds.", size, 201),
        _parameter("mask1_values", "Classes that are clear.", values, [2, 4, 5, 6, 7]),
        _parameter("mask2_values", "Classes of clouds.", values, [3, 8, 9, 10, 11]),
        _parameter("erosion_kernel_size", "Pixels: what is narrower is no cloud.", size, 0),
    ]
    told = {
        "to_scl_dilation_mask": "Make a mask of scene classes, dilated",
        "mask_scl_dilation": "Mask a cube by its scene classes, dilated",
    }
    return {
        name: {
            "id": name,
            "summary": summary,
            "description": f"{summary}. A process of the Copernicus Data Space, not of openEO's "
            "specification.",
            "categories": ["cubes", "masks"],
            "parameters": [{"name": "data", "description": "A cube.", "schema": cube}, *options],
            "returns": {"description": "A cube of the same dates and pixels.", "schema": cube},
        }
        for name, summary in told.items()
    }


def _parameter(name: str, description: str, schema: Any, default: Any) -> dict[str, Any]:
    told = {"name": name, "description": description, "schema": schema}
    return {**told, "optional": True, "default": default}
