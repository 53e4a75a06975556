"""What processes and their arguments are. Imports `base`.

openeo-processes-dask takes a few types from openeo-pg-parser-networkx, which imports yprov4wfs at
its top, a program under the GPL. So it is given these in their place while it is imported, and
neither of the two is installed: docs/decisions/0020. Only a bounding box is ever made of them: all
other arguments are passed as JSON has them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pyproj import CRS

from kappamask.openeo.engine.flat_graph import ArgumentError

DEGREES = "EPSG:4326"
_PARSER = "openeo_pg_parser_networkx"
# Types that it asks arguments for, and of which none is made here.
_NEVER_MADE = ("DateTime", "ParameterReference", "TemporalInterval", "TemporalIntervals")


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
    base: float | None = None
    height: float | None = None
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
