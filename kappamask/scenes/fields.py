"""Many fields in one file: names and polygons. Imports `area`, `base`, shapely."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import shapely
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from kappamask.base.errors import InputError
from kappamask.scenes.area import AreaLike, measure, parse_area, read_geojson

NAMES = ("name", "id", "fid", "title", "label")  # properties that name a field, in this order
REGION_M = 15_000  # metres of a side: what is no larger is read as one, however empty
FILLED = 0.1  # share of a region's rectangle that its fields and what lies around them fill
AROUND_M = 1_280  # metres that are read around a field anyway


@dataclass(frozen=True)
class Field:
    """A polygon with a name of its own."""

    name: str
    geometry: BaseGeometry  # degrees


def read_fields(area: AreaLike) -> list[Field]:
    """Read the polygons of an area one by one.

    Parameters
    ----------
    area
        As `parse_area` takes it. Of a FeatureCollection, a GeoPackage or a GeoDataFrame each
        feature is a field, named by its property ``name`` or ``id``, else by its number.

    Raises
    ------
    InputError
        As `parse_area`.

    Examples
    --------
    >>> [field.name for field in read_fields((26.5, 58.3, 26.8, 58.4))]
    ['1']
    """
    document = read_geojson(area)
    if document is None or document.get("type") != "FeatureCollection":
        return [Field(_name_of(document or {}, "1"), parse_area(area))]
    features = list(document.get("features") or ())
    if not features:
        raise InputError("fields are one polygon or more, got a collection of none")
    given = [_name_of(feature, str(place)) for place, feature in enumerate(features, start=1)]
    counts = Counter(given)
    names = [
        name if counts[name] == 1 else f"{name}-{place}"
        for place, name in enumerate(given, start=1)
    ]
    return [Field(name, parse_area(feature)) for name, feature in zip(names, features, strict=True)]


def _name_of(feature: Mapping[str, Any], other: str) -> str:
    known = {str(key).lower(): value for key, value in (feature.get("properties") or {}).items()}
    for value in (*(known.get(name) for name in NAMES), feature.get("id")):
        if value not in (None, ""):
            return value if isinstance(value, str) else json.dumps(value)
    return other


def split_regions(fields: Sequence[Field]) -> list[list[Field]]:
    """Group fields so that each group fills its rectangle well enough to be read as one.

    Examples
    --------
    >>> near = [Field(str(x), box(11 + x, 46, 11.01 + x, 46.01)) for x in (0, 0.02, 3)]
    >>> [[field.name for field in group] for group in split_regions(near)]
    [['0', '0.02'], ['3']]
    """
    width, height = measure(box(*shapely.total_bounds([field.geometry for field in fields])))
    sizes = [measure(field.geometry) for field in fields]
    filled, whole = (
        sum((w + 2 * AROUND_M) * (h + 2 * AROUND_M) for w, h in several)
        for several in (sizes, [(width, height)])
    )
    if len(fields) == 1 or max(width, height) <= REGION_M or filled >= FILLED * whole:
        return [list(fields)]
    centres = [field.geometry.centroid.coords[0] for field in fields]
    axis = 0 if width >= height else 1
    order = sorted(range(len(fields)), key=lambda index: centres[index][axis])
    gaps = [centres[after][axis] - centres[before][axis] for before, after in pairwise(order)]
    cut = gaps.index(max(gaps)) + 1
    halves = ([fields[index] for index in part] for part in (order[:cut], order[cut:]))
    return [group for half in halves for group in split_regions(half)]
