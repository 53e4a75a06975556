"""An area of interest in any usual form, as one geometry in degrees. Imports `base`, shapely."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon, box, shape
from shapely.geometry.base import BaseGeometry

from kappamask.base.errors import InputError, needs_extra
from kappamask.base.files import read_json

if TYPE_CHECKING:
    from pyproj import Transformer


class HasGeoInterface(Protocol):
    """What says its geometry as GeoJSON: a GeoSeries, a GeoDataFrame, many others."""

    @property
    def __geo_interface__(self) -> Mapping[str, Any]:
        """A GeoJSON object."""


AreaLike: TypeAlias = (
    Sequence[float] | str | os.PathLike[str] | Mapping[str, Any] | BaseGeometry | HasGeoInterface
)
MAX_PIXELS = 100_000_000  # of a date: 10 000 km2 at 10 m, a little less than a whole tile
HALF_THE_EARTH = 180.0
APART = 10  # parts that fill less than one in so many of the rectangle around them
SIGN = 5  # a bbox so many times wider than without one of its signs
METRES = 111_320.0  # of a degree of latitude
VECTORS = (".gpkg", ".shp", ".fgb")  # that GDAL reads, each in its own CRS
_DEGREES = "west and east lie in -180..180, south and north in -90..90"
_BANDS = "CDEFGHJKLMNPQRSTUVWX"  # of latitude, from 80 S on
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
_TILE = re.compile(rf"(?:MGRS-)?T?(\d{{1,2}})([{_BANDS}])([A-Z])([A-V])")
_WGS84 = re.compile(r"CRS84|EPSG:+(\d*:)?4326$|WGS ?84$", re.IGNORECASE)


def parse_area(area: AreaLike) -> BaseGeometry:
    """Read an area of interest, whatever its form, as polygons in longitude and latitude.

    Parameters
    ----------
    area
        One of: a bbox ``(west, south, east, north)`` in degrees, where
        ``west > east`` crosses the antimeridian and spans at most half the Earth; a
        GeoJSON geometry, Feature or FeatureCollection (RFC 7946: always WGS 84,
        longitude first); the path of a GeoJSON file; a shapely geometry in degrees,
        or any other object with ``__geo_interface__``; the path of a GeoPackage or
        Shapefile in any CRS (needs ``kappamask[fields]``).

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
    document = read_geojson(area)
    if document is not None:
        named = isinstance(area, str | os.PathLike)
        return _from_geojson(document, str(area) if named else "GeoJSON")
    return _from_bbox(area)


def read_geojson(area: AreaLike) -> Any:
    """Give what an area says as GeoJSON, unchecked; None of a bbox.

    Raises
    ------
    InputError
        If it is a file that cannot be read.
    ExtraError
        If it is one of vectors, and what reads these is not installed.

    Examples
    --------
    >>> read_geojson(box(0, 0, 1, 1))["type"], read_geojson((0, 0, 1, 1))
    ('Polygon', None)
    """
    if isinstance(area, str | os.PathLike):
        path = Path(area)
        return _read_vectors(path) if path.suffix.lower() in VECTORS else _read_json(path)
    if hasattr(area, "to_crs") and getattr(area, "crs", None) is not None:
        area = area.to_crs(4326)  # of geopandas
    document = getattr(area, "__geo_interface__", area)
    return document if isinstance(document, Mapping) else None


def is_bbox(geometry: BaseGeometry) -> bool:
    """Tell whether an area is what a bbox says, so that nothing of its rectangle is outside.

    Examples
    --------
    >>> is_bbox(parse_area((179.5, -17, -179.5, -16))), is_bbox(box(0, 0, 1, 1).buffer(1))
    (True, False)
    """
    parts = [part.equals(box(*part.bounds)) for part in getattr(geometry, "geoms", [geometry])]
    west, _, east, _ = geometry.bounds
    return all(parts) and (len(parts) == 1 or (len(parts) == 2 and (west, east) == (-180, 180)))


def measure(geometry: BaseGeometry) -> tuple[float, float]:
    """Width and height in metres of the rectangle around an area, about.

    Examples
    --------
    >>> [round(side) for side in measure(box(11.0, 60.0, 12.0, 61.0))]
    [54817, 111320]
    """
    parts = getattr(geometry, "geoms", [geometry])
    west, south, east, north = geometry.bounds
    if east - west > HALF_THE_EARTH and len(parts) > 1:  # across the antimeridian, not around
        west = min(part.bounds[0] % 360 for part in parts)
        east = max(part.bounds[2] % 360 or 360 for part in parts)
    return (
        (east - west) * METRES * math.cos(math.radians((south + north) / 2)),
        (north - south) * METRES,
    )


def check_size(
    area: AreaLike, *, resolution: float = 10, max_pixels: int | None = MAX_PIXELS
) -> None:
    """Refuse an area whose rectangle has too many pixels, and say what was perhaps meant.

    Parameters
    ----------
    area
        As `parse_area` takes it.
    resolution
        Metres per pixel.
    max_pixels
        The most that are allowed; None allows any number.

    Raises
    ------
    InputError
        If it has more.

    Examples
    --------
    >>> check_size((-9.2, 38.6, 9.0, 38.8))
    Traceback (most recent call last):
    kappamask.base.errors.InputError: ... a minus missing before 9?...
    """
    geometry = parse_area(area)
    width, height = measure(geometry)
    pixels = width * height / resolution**2
    if max_pixels is None or pixels <= max_pixels:
        return
    west, south, east, north = geometry.bounds
    most = max_pixels * resolution**2 / 1e6
    raise InputError(
        f"an area has at most {max_pixels:,} pixels a date ({most:,.0f} km2 at {resolution:g} m), "
        f"got {pixels:,.0f}, {width / 1000:,.0f} x {height / 1000:,.0f} km, west {west:g}, "
        f"south {south:g}, east {east:g}, north {north:g}: "
        f"{_guess(geometry)}; if it is meant, pass max_pixels=None"
    )


def _guess(geometry: BaseGeometry) -> str:
    """Say what was perhaps meant with a large area."""
    parts = getattr(geometry, "geoms", [geometry])
    filled = sum(math.prod(measure(part)) for part in parts)
    if len(parts) > 1 and filled * APART < math.prod(measure(geometry)):
        return (
            f"its {len(parts)} parts lie far apart: take one at a time, or `kappamask stats`, "
            "which takes many fields"
        )
    west, south, east, north = geometry.bounds
    for low, high, size in ((west, east, east - west), (south, north, north - south)):
        if low < 0 < high and size > SIGN * abs(low + high):
            return f"a minus missing before {high:g}? Or one too many before {-low:g}?"
    return "take a smaller area or larger pixels"


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


@lru_cache
def transformer(source: int | str, target: int | str) -> Transformer:
    """Give what moves x and y of one CRS to another: an EPSG code, or what pyproj knows as text.

    Kept, since making one takes longer than labelling a small date. Threads may share it.
    """
    from pyproj import Transformer

    return Transformer.from_crs(source, target, always_xy=True)


def project(geometry: BaseGeometry, epsg: int) -> BaseGeometry:
    """Move a geometry in degrees to a projected CRS.

    Raises
    ------
    InputError
        If it lies outside the domain of the CRS.

    Examples
    --------
    >>> round(project(box(9, 0, 9.001, 0.001), 32632).area)
    12299
    """
    there = transformer(4326, epsg)
    dense = shapely.segmentize(geometry, 0.02)  # straight in degrees is curved on the grid
    moved = shapely.transform(dense, there.transform, interleaved=False)
    if not np.isfinite(moved.bounds).all():
        raise InputError(f"the area {geometry.bounds} cannot be projected to EPSG:{epsg}")
    return moved


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
    if east + 360 - west > HALF_THE_EARTH:
        raise InputError(
            "only a bbox across the antimeridian has west > east, and spans less than half the "
            f"Earth, {got}, which spans {east + 360 - west:.4g} degrees: swap west and east, "
            f"({east:g}, {south:g}, {west:g}, {north:g})"
        )
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
        return read_json(path)
    except FileNotFoundError:
        raise InputError(f"no area file at {path}: give the path of a GeoJSON file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"an area file is GeoJSON, but {path} cannot be read: {error}") from None


def _read_vectors(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"no area file at {path}: give the path of a file of polygons")
    with needs_extra("fields", f"reading {path.suffix}"):
        import geopandas
        import pyogrio  # noqa: F401  what reads

    with path.open("rb") as file:
        if b"<OGRVRT" in file.read(2**16):
            raise InputError(
                f"an area file holds polygons, {path} is a VRT, which names other files: give one "
                "of those"
            )
    try:
        frame = geopandas.read_file(path, engine="pyogrio")
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"an area file holds polygons, but {path} cannot be read: {error}"
        ) from None
    if frame.crs is None:
        raise InputError(f"an area file names its CRS, but {path} names none: set it")
    return json.loads(frame.to_crs(4326).to_json())  # dates as text


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


# --- MGRS tiles ---------------------------------------------------------------------------------


def tile_geometry(tile: str) -> BaseGeometry:
    """Outline the 100 km square of an MGRS tile in degrees; products reach 10 km further.

    Raises
    ------
    InputError
        If there is no such tile.

    Examples
    --------
    >>> [round(edge, 2) for edge in tile_geometry("32TPS").bounds]
    [10.29, 46.02, 11.63, 46.95]
    """
    found = _TILE.fullmatch(str(tile).strip().upper())
    zone = int(found[1]) if found else 0
    if found is None or not 1 <= zone <= 60:
        raise InputError(
            f"an MGRS tile is a UTM zone, a latitude band and two letters, such as 32TPS, got "
            f"{tile!r:.40}: correct it"
        )
    band, column, row = found[2], found[3], found[4]
    columns = _LETTERS[(zone - 1) % 3 * 8 :][:8]
    rows = _LETTERS[:20] if zone % 2 else _LETTERS[5:20] + _LETTERS[:5]
    if column not in columns or row not in rows:
        raise InputError(f"zone {zone} has no square {column}{row}, got tile {tile!r}: correct it")
    south = -80 + 8 * _BANDS.index(band)
    north = 84 if band == "X" else south + 8
    to_degrees = transformer((32600 if south >= 0 else 32700) + zone, 4326)
    left = (columns.index(column) + 1) * 100_000
    bottoms = [rows.index(row) * 100_000 + cycle * 2_000_000 for cycle in range(5)]
    squares = [
        shapely.transform(
            shapely.segmentize(box(left, bottom, left + 100_000, bottom + 100_000), 20_000),
            to_degrees.transform,
            interleaved=False,
        )
        for bottom in bottoms
    ]
    middle = (south + north) / 2
    square = min(squares, key=lambda outline: abs(outline.centroid.y - middle))
    if square.bounds[3] < south or square.bounds[1] > north:
        raise InputError(f"band {band} has no square {column}{row}, got tile {tile!r}: correct it")
    return cut_at_antimeridian(square)
