"""`load_collection` and `load_stac` of Sentinel-2.

Cubes look as on Copernicus: dims (t, bands, y, x), dates at midnight, float32 digital
numbers with NaN for no data, in the projection of the tiles, 10 m. The offset of
baseline 04.00 is applied by `load_collection` and is not by `load_stac`, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import pystac
import shapely
import xarray as xr
from pyproj import CRS

from kappamask.base.bands import BY_NAME, bands_of_level
from kappamask.base.errors import NoItemsError
from kappamask.base.retry import GUARD
from kappamask.cubes.classes import KEYS, resolve_classes
from kappamask.cubes.cube import load_cube
from kappamask.openeo.engine.dimensions import read_instant
from kappamask.openeo.engine.flat_graph import ArgumentError, GraphError
from kappamask.openeo.engine.gateway import CheckedAdapter, through_gateway
from kappamask.openeo.engine.library import BoundingBox
from kappamask.scenes.area import transformer
from kappamask.scenes.catalogs import resolve_assets
from kappamask.scenes.search import search
from kappamask.scenes.sources import Resolve, scene_of

COLLECTIONS = {"SENTINEL2_L2A": "L2A", "SENTINEL2_L1C": "L1C"}
SCENE_CLASSES = "SCL"
CHUNK = 384  # pixels; a window of 768 with its overlap of 128 reads a border of one chunk


def bands_of_collection(level: str) -> list[str]:
    """Names of the bands of a collection, in order."""
    extra = ["AOT", "WVP", SCENE_CLASSES] if level == "L2A" else []
    return [*bands_of_level(level), *extra]


def load_collection(
    id: str,  # noqa: A002  as the process names it
    spatial_extent: Any,
    temporal_extent: Sequence[str | None] | None,
    bands: Sequence[str] | None = None,
    properties: Mapping[str, Callable[..., Any]] | None = None,
    *,
    catalog: Any,
) -> xr.DataArray:
    """Load a collection from the catalogue of the engine, lazily.

    Parameters
    ----------
    id
        ``"SENTINEL2_L2A"`` or ``"SENTINEL2_L1C"``.
    spatial_extent
        A bounding box, in degrees or in a CRS of its own, or a GeoJSON object.
    temporal_extent
        Start and end; the end is excluded.
    bands
        Names, in the order wanted; None: all that the items hold.
    properties
        Conditions on properties of the items, such as ``eo:cloud_cover``.
    catalog
        As `kappamask.search` takes it.

    Raises
    ------
    GraphError
        CollectionNotFound, ProcessParameterInvalid.
    NoItemsError, ItemError, CatalogError
        Of the search.
    """
    level = level_of(id)
    wanted = check_bands(bands, level)
    area, dates = read_area(spatial_extent), read_dates(temporal_extent)
    items = search(area, dates, catalog=catalog, level=level)
    items = filter_items(items, properties or {})
    return crop(build(items, area, wanted, resolve=resolve_assets), spatial_extent)


def load_stac(
    url: str,
    spatial_extent: Any = None,
    temporal_extent: Sequence[str | None] | None = None,
    bands: Sequence[str] | None = None,
    properties: Mapping[str, Callable[..., Any]] | None = None,
    *,
    hosts: Sequence[str] | None = None,
) -> xr.DataArray:
    """Load Sentinel-2 items of any STAC catalogue, lazily; digital numbers as they are stored.

    Parameters
    ----------
    url
        http(s) address of a STAC API, of a collection in one, or of a static
        catalogue; no file of this machine.
    spatial_extent, temporal_extent, bands, properties
        As for `load_collection`.
    hosts
        None: whatever the URL and the items name is read. Else only what lies at public
        addresses, or on one of these hosts: see `kappamask.openeo.engine.gateway`.

    Raises
    ------
    GraphError
        ProcessParameterInvalid; PermissionsInsufficient, if the URL, or the file of a band,
        is at an address that is not allowed.
    """
    if not url.startswith(("http://", "https://")):
        raise ArgumentError(f"reads http(s) addresses only, got {url!r}")
    place = url.split("/collections/", maxsplit=1)[0]
    area, dates = read_area(spatial_extent), read_dates(temporal_extent)
    level = "L1C" if "l1c" in url.lower() else "L2A"
    resolve = partial(resolve_assets, dn_offset=0)
    allowed = frozenset(hosts or ())
    pass_on = str if hosts is None else partial(through_gateway, hosts=allowed)
    before = GUARD.set(None if hosts is None else partial(CheckedAdapter, allowed))
    try:
        pass_on(place)  # checked before anything is read
        items = filter_items(search(area, dates, catalog=place, level=level), properties or {})
        wanted = check_bands(bands, level)
        cube = build(items, area, wanted, resolve=resolve, pass_on=pass_on)
    finally:
        GUARD.reset(before)
    return crop(cube, spatial_extent)


# --- reading the arguments -----------------------------------------------------------------


def level_of(collection: str) -> str:
    """Level of what a collection holds."""
    if collection not in COLLECTIONS:
        raise GraphError(
            f"unknown collection {collection!r}: expected one of {', '.join(COLLECTIONS)}",
            code="CollectionNotFound",
        )
    return COLLECTIONS[collection]


def check_bands(bands: Sequence[str] | None, level: str) -> list[str] | None:
    """Check names of bands against a collection."""
    known = bands_of_collection(level)
    unknown = [str(name) for name in bands or () if name not in known]
    if unknown:
        raise ArgumentError(f"unknown band {unknown[0]!r}: expected some of {', '.join(known)}")
    return list(dict.fromkeys(bands)) if bands else None


def read_area(extent: Any) -> Any:
    """Turn an openEO extent into an area in degrees, as `kappamask.search` takes it."""
    if extent is None:
        raise GraphError(
            "needs a spatial_extent: a bounding box or GeoJSON; loading first and filtering "
            "later is not supported here",
            code="ProcessParameterRequired",
        )
    if not isinstance(extent, BoundingBox):
        if isinstance(extent, str):  # to `search` that is the path of a file
            raise ArgumentError(
                f"a spatial_extent is a bounding box or GeoJSON, got {extent[:80]!r}"
            )
        return extent
    west, south, east, north = extent.west, extent.south, extent.east, extent.north
    crs = CRS(extent.crs)
    if crs.is_geographic:
        return west, south, east, north
    box = shapely.segmentize(shapely.box(west, south, east, north), (east - west) / 20)
    there = transformer(crs.to_wkt(), 4326)
    return shapely.transform(box, there.transform, interleaved=False)


def read_dates(extent: Sequence[str | None] | None) -> tuple[Any, Any]:
    """Turn an openEO interval, whose end is excluded, into dates for `kappamask.search`.

    Examples
    --------
    >>> start, end = read_dates(["2022-06-01", "2022-07-01"])
    >>> start, end.isoformat()
    (datetime.datetime(2022, 6, 1, 0, 0, tzinfo=datetime.timezone.utc),
     '2022-06-30T23:59:59.999999+00:00')
    """
    if not extent or len(extent) != 2 or not any(extent):
        raise GraphError(
            f"needs a temporal_extent of a start and an end, got {extent!r}",
            code="ProcessParameterRequired",
        )
    start, end = (None if time is None else read_instant(time) for time in extent)
    # `search` counts the microsecond at which an interval ends as inside
    return start, None if end is None else end - timedelta(microseconds=1)


def filter_items(
    items: Sequence[pystac.Item], properties: Mapping[str, Callable[..., Any]]
) -> list[pystac.Item]:
    """Keep the items whose properties meet all conditions.

    An item that does not tell a property is kept: whole catalogues tell no cloud cover.
    """
    kept = list(items)
    for name, condition in properties.items():
        kept = [
            item
            for item in kept
            if item.properties.get(name) is None
            or bool(condition(named_parameters={"value": item.properties[name]}))
        ]
        if not kept:
            raise NoItemsError(
                f"none of the {len(items)} items meets the condition on {name}: widen it"
            )
    return kept


# --- building the cube ---------------------------------------------------------------------


def build(
    items: Sequence[pystac.Item],
    area: Any,
    bands: list[str] | None,
    *,
    resolve: Resolve,
    pass_on: Callable[[str], str] = str,
) -> xr.DataArray:
    """Load items as openEO's back ends do: (t, bands, y, x), digital numbers.

    `pass_on` is given the href of every file and gives the one that is read, or refuses it.
    """

    def load(names: list[str] | None, resolve: Resolve) -> xr.DataArray:
        scenes = [scene_of(item, names, resolve=resolve) for item in items]
        for index, scene in enumerate(scenes):
            files = {n: replace(f, href=pass_on(f.href)) for n, f in scene.files.items()}
            scenes[index] = replace(scene, files=files)
        return load_cube(scenes, area, bands=names, chunks=CHUNK, margin=0)  # it has its own

    parts = []
    optical = None if bands is None else [name for name in bands if name != SCENE_CLASSES]
    if optical is None or optical:
        cube = load(optical, resolve)
        factors = [BY_NAME[str(name)].dn_scale for name in cube["band"].to_numpy()]
        scale = xr.DataArray(np.array(factors, np.float32), {"band": cube["band"]}, "band")
        parts.append((cube * scale).round())
    everywhere = all(any(key in item.assets for key in KEYS) for item in items)
    if SCENE_CLASSES in (bands or ()) or (bands is None and everywhere):
        # Under the name of another layer that takes no offset.
        named = {"band": [SCENE_CLASSES], "common_name": ("band", [SCENE_CLASSES.lower()])}
        parts.append(load(["AOT"], resolve_classes).assign_coords(named))
    cube = xr.concat(parts, dim="band", coords="minimal", compat="override")
    cube = cube.rename(time="t", band="bands").drop_vars("source_items", errors="ignore")
    days = cube["t"].to_numpy().astype("M8[D]").astype("M8[ns]")
    if np.unique(days).size == days.size:  # two passes of a day keep their times
        cube = cube.assign_coords(t=days)
    cube.attrs = {}
    return cube.sel(bands=bands) if bands else cube


def crop(cube: xr.DataArray, extent: Any) -> xr.DataArray:
    """Cut a bounding box in the CRS of the cube exactly: pixels whose centre lies in it."""
    if not isinstance(extent, BoundingBox) or CRS(extent.crs) != CRS(cube.rio.crs):
        return cube
    return cube.sel(x=slice(extent.west, extent.east), y=slice(extent.north, extent.south))
