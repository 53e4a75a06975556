"""An area of interest in any usual form, as one geometry in degrees. Imports `base`, shapely."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon, box, shape
from shapely.geometry.base import BaseGeometry

from kappamask.base.errors import InputError

_DEGREES = "west and east lie in -180..180, south and north in -90..90"
_WGS84 = re.compile(r"CRS84|EPSG:+(\d*:)?4326$|WGS ?84$", re.IGNORECASE)


def parse_area(area: Any) -> BaseGeometry:
    """Read an area of interest, whatever its form, as polygons in longitude and latitude.

    Parameters
    ----------
    area
        One of: a bbox ``(west, south, east, north)`` in degrees, where
        ``west > east`` crosses the antimeridian; a GeoJSON geometry, Feature or
        FeatureCollection (RFC 7946: always WGS 84, longitude first); the path of
        a GeoJSON file; a shapely geometry in degrees, or any other object with
        ``__geo_interface__``.

    Returns
    -------
    shapely.Polygon or shapely.MultiPolygon
        Two-dimensional, valid, in EPSG:4326, of non-zero area. A bbox across the
        antimeridian becomes two boxes that meet there.

    Raises
    ------
    InputError
        If the area is none of these, is out of range, empty, invalid, has no
        surface, or names another reference system than WGS 84; or if the file is
        not there or holds no GeoJSON.

    Examples
    --------
    >>> parse_area((26.5, 58.3, 26.8, 58.4)).bounds
    (26.5, 58.3, 26.8, 58.4)
    >>> parse_area((179.5, -17.0, -179.5, -16.0)).geom_type
    'MultiPolygon'
    """
    if isinstance(area, BaseGeometry):
        return _check(area, "shapely geometry")
    if isinstance(area, str | os.PathLike):
        return _from_geojson(_read_json(Path(area)), str(area))
    document = getattr(area, "__geo_interface__", area)
    if isinstance(document, Mapping):
        return _from_geojson(document, "GeoJSON")
    return _from_bbox(area)


def cut_at_antimeridian(geometry: BaseGeometry) -> BaseGeometry:
    """Cut polygons that jump across the antimeridian, as RFC 7946 section 3.1.9 asks.

    Some catalogues store the footprint of a tile there as one ring that runs from
    179 to -179 degrees, which a plane reads as a belt around the globe. A polygon
    wider than 180 degrees is taken for such a ring; one Sentinel-2 tile is never
    wider than a few degrees. Other geometries are returned as they are.

    Examples
    --------
    >>> ring = Polygon([(179, 0), (-179, 0), (-179, 1), (179, 1)])
    >>> cut_at_antimeridian(ring).bounds, cut_at_antimeridian(ring).area
    ((-180.0, 0.0, 180.0, 1.0), 2.0)
    """
    parts = getattr(geometry, "geoms", [geometry])
    if not any(map(_jumps, parts)):
        return geometry
    return shapely.union_all([_cut(part) if _jumps(part) else part for part in parts])


def _jumps(polygon: BaseGeometry) -> bool:
    west, _, east, _ = polygon.bounds
    return bool(east - west > 180)


def _cut(polygon: BaseGeometry) -> BaseGeometry:
    # Longitudes 0..360, where the ring is one piece; what lies beyond 180 moves back.
    unrolled = shapely.transform(polygon, lambda p: np.c_[p[:, 0] % 360, p[:, 1]])
    unrolled = shapely.make_valid(unrolled)
    beyond = unrolled.intersection(box(180, -90, 360, 90))
    moved = shapely.transform(beyond, lambda points: points - [360, 0])
    halves = shapely.union_all([unrolled.intersection(box(0, -90, 180, 90)), moved])
    return halves if halves.area else polygon  # a belt around the globe after all


def project_bounds(geometry: BaseGeometry, epsg: int) -> tuple[float, float, float, float]:
    """Bounding rectangle, in a projected CRS, of a geometry in degrees.

    Returns
    -------
    tuple of float
        Left, bottom, right, top in units of the CRS.

    Raises
    ------
    InputError
        If the geometry lies outside the domain of the CRS.

    Examples
    --------
    >>> [round(edge) for edge in project_bounds(box(9, 0, 9.001, 0.001), 32632)]
    [500000, 0, 500111, 111]
    """
    from pyproj import Transformer

    there = Transformer.from_crs(4326, epsg, always_xy=True)
    dense = shapely.segmentize(geometry, 0.02)  # straight in degrees is curved on the grid
    moved = shapely.transform(dense, there.transform, interleaved=False)
    left, bottom, right, top = moved.bounds
    if not np.isfinite([left, bottom, right, top]).all():
        raise InputError(f"the area {geometry.bounds} cannot be projected to EPSG:{epsg}")
    return left, bottom, right, top


def _from_bbox(bbox: Any) -> BaseGeometry:
    try:
        west, south, east, north = (float(number) for number in bbox)
    except (TypeError, ValueError):
        raise InputError(
            "an area is a bbox of 4 numbers (west, south, east, north) in degrees, a GeoJSON "
            f"geometry or file, or a shapely geometry; got {bbox!r}"
        ) from None
    got = f"got bbox ({west:g}, {south:g}, {east:g}, {north:g})"
    _check_degrees((west, south, east, north), got)
    if south >= north:
        raise InputError(
            f"a bbox is (west, south, east, north) with south below north, {got}: "
            "swap south and north, or latitude and longitude"
        )
    if west == east:
        raise InputError(f"an area needs a surface, {got}, which is a line: widen it")
    if west < east:
        return box(west, south, east, north)
    halves = ((west, 180.0), (-180.0, east))
    return MultiPolygon([box(left, south, right, north) for left, right in halves if left < right])


def _check_degrees(bounds: Sequence[float], got: str) -> None:
    west, south, east, north = bounds
    if all(-180 <= x <= 180 for x in (west, east)) and all(-90 <= y <= 90 for y in (south, north)):
        return
    remedy = "projected coordinates? Give degrees"
    if max(abs(west), abs(east)) <= 540 and max(abs(south), abs(north)) <= 90:
        remedy = "across the antimeridian, write a bbox with west > east, such as (179, 0, -179, 1)"
    if not all(math.isfinite(number) for number in bounds):
        remedy = "give finite numbers"
    raise InputError(f"{_DEGREES}; {got}: {remedy}")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no area file at {path}: give the path of a GeoJSON file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"an area file is GeoJSON, but {path} cannot be read: {error}") from None


def _from_geojson(document: Any, source: str) -> BaseGeometry:
    """Turn a geometry, Feature or FeatureCollection into one shapely geometry."""
    if not isinstance(document, Mapping) or "type" not in document:
        raise InputError(
            f"GeoJSON needs a geometry, an object with a 'type', got {document!r:.80} in {source}"
        )
    crs = document.get("crs")
    if crs is not None:
        name = str((crs.get("properties") or {}).get("name") if isinstance(crs, Mapping) else crs)
        if not _WGS84.search(name):
            raise InputError(
                f"an area is given in longitude and latitude (WGS 84), but {source} says {name}: "
                "reproject it to EPSG:4326"
            )
    if document["type"] == "FeatureCollection":
        features = [_from_geojson(feature, source) for feature in document.get("features") or ()]
        return _check(shapely.union_all(features), source)
    if document["type"] == "Feature":
        return _from_geojson(document.get("geometry"), source)
    try:
        geometry = shape(document)
    except (shapely.errors.ShapelyError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"cannot read {source} as a GeoJSON geometry: {document!r:.80} ({error})"
        ) from None
    return _check(geometry, source)


def _check(geometry: BaseGeometry, source: str) -> BaseGeometry:
    if geometry.is_empty:
        raise InputError(f"an area must not be empty, got {source} without any coordinates")
    _check_degrees(geometry.bounds, f"got bounds {tuple(geometry.bounds)} in {source}")
    is_surface = isinstance(geometry, Polygon | MultiPolygon)
    if is_surface and not geometry.is_valid:
        raise InputError(
            f"an area must be a valid geometry, but {source} has a "
            f"{shapely.is_valid_reason(geometry)}: repair it, for example with shapely.make_valid"
        )
    if not is_surface or geometry.area == 0:
        raise InputError(
            f"an area needs a surface: a Polygon or MultiPolygon; got a {geometry.geom_type} of "
            f"area {geometry.area:g} in {source}: buffer a point or a line first"
        )
    return shapely.force_2d(geometry)
