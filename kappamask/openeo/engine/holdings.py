"""What a back end tells of its collections: what the catalogue holds, as far as it can be read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shapely
from rasterio.warp import transform_bounds

from kappamask.base.bands import BY_NAME
from kappamask.base.errors import KappaMaskError
from kappamask.cubes.classes import KEYS
from kappamask.openeo.engine.load import (
    COLLECTIONS,
    SCENE_CLASSES,
    bands_of_collection,
)
from kappamask.scenes.catalogs import PROFILES, resolve_assets
from kappamask.scenes.dates import parse_dates
from kappamask.scenes.items import View, view_of
from kappamask.scenes.stac import Query, open_catalogue

DATACUBE = "https://stac-extensions.github.io/datacube/v2.2.0/schema.json"
EO = "https://stac-extensions.github.io/eo/v1.1.0/schema.json"
FIRST_DATE = "2015-06-27T00:00:00Z"  # of Sentinel-2A
WORLD = (-180.0, -84.0, 180.0, 84.0)  # what UTM covers
# Each tile has a zone of its own: as other back ends word that.
UTM = {
    "$schema": "https://proj.org/schemas/v0.7/projjson.schema.json",
    "type": "ProjectedCRS",
    "name": "AUTO 42001 (Universal Transverse Mercator)",
}


@dataclass(frozen=True)
class Holding:
    """What there is of one level."""

    bands: tuple[str, ...]  # that every item has
    bbox: tuple[float, ...] = WORLD  # degrees
    interval: tuple[str | None, str | None] = (FIRST_DATE, None)
    epsg: int | None = None  # if all lies in one zone

    @classmethod
    def of(cls, views: list[View], level: str) -> Holding:
        """Read it off all items of a small catalogue."""
        held = [set(_bands_of(view)) for view in views]
        names = [name for name in bands_of_collection(level) if all(name in one for one in held)]
        boxes = [shapely.geometry.shape(view.footprint).bounds for view in views]
        wests, souths, easts, norths = zip(*boxes, strict=True)
        times = sorted(view.time for view in views)
        ends = [time.isoformat().replace("+00:00", "Z") for time in (times[0], times[-1])]
        zones = {view.place(key).get("epsg") for view in views for key in list(view.assets)[:1]}
        (epsg,) = zones if len(zones) == 1 else (None,)
        bbox = (min(wests), min(souths), max(easts), max(norths))
        return cls(tuple(names), bbox, (ends[0], ends[1]), epsg)


def _bands_of(view: View) -> Iterable[str]:
    """Name the bands of an item, the scene classes with them."""
    yield from resolve_assets(view, None, dn_offset=0)
    if any(key in view.assets for key in KEYS):
        yield SCENE_CLASSES
    for name in ("AOT", "WVP"):
        try:
            yield from resolve_assets(view, [name], dn_offset=0)
        except KappaMaskError:
            continue


def find_holdings(catalog: Any) -> dict[str, Holding]:
    """Tell what a catalogue holds, by level.

    A catalogue of files, or a folder of products, is read through. Of a server's it is what its
    profile says: all of Sentinel-2, as servers do not tell which bands all their items have.
    """
    location = str(catalog)
    if location in PROFILES:
        return {
            level: Holding(
                tuple(
                    n for n in bands_of_collection(level) if n in held.assets or n == SCENE_CLASSES
                )
            )
            for level, held in PROFILES[location].levels.items()
        }
    if not Path(location).exists():
        return {level: Holding(tuple(bands_of_collection(level))) for level in COLLECTIONS.values()}
    opened, whole = open_catalogue(location, None), shapely.box(-180, -90, 180, 90)
    found: dict[str, list[View]] = {}
    for level in COLLECTIONS.values():
        for item in opened.items(Query(whole, parse_dates("2015/.."), level, None)):
            view = view_of(item)
            try:
                is_level = view.level == level
            except KappaMaskError:
                continue  # of another satellite
            if is_level:
                found.setdefault(level, []).append(view)
    return {level: Holding.of(views, level) for level, views in found.items()}


def describe_collection(name: str, level: str, held: Holding) -> dict[str, Any]:
    """Describe one collection: dimensions, bands with wavelength and pixel size."""
    bands = [describe_band(band) for band in held.bands]
    west, south, east, north = held.bbox
    if held.epsg is not None:  # extents are in the reference system
        west, south, east, north = transform_bounds(4326, held.epsg, *held.bbox)
    spatial = {"type": "spatial", "reference_system": held.epsg or UTM}
    return {
        "type": "Collection",
        "stac_version": "1.0.0",
        "stac_extensions": [DATACUBE, EO],
        "id": name,
        "title": f"Sentinel-2 {level}",
        "description": (
            f"Sentinel-2 MSI {level} as float32 digital numbers at 10 m, reflectance x 10000, "
            "the offset of processing baseline 04.00 applied, no data as NaN; in the UTM zone "
            "of the tiles. Coarser bands are repeated exactly."
        ),
        "keywords": ["Copernicus", "Sentinel-2", "MSI", level],
        "license": "other",
        "providers": [{"name": "European Union, ESA, Copernicus", "roles": ["producer"]}],
        "extent": {
            "spatial": {"bbox": [list(held.bbox)]},
            "temporal": {"interval": [list(held.interval)]},
        },
        "cube:dimensions": {
            "x": {**spatial, "axis": "x", "extent": [west, east]},
            "y": {**spatial, "axis": "y", "extent": [south, north]},
            "t": {"type": "temporal", "extent": list(held.interval)},
            "bands": {"type": "bands", "values": [band["name"] for band in bands]},
        },
        "summaries": {
            "constellation": ["sentinel-2"],
            "instruments": ["msi"],
            "gsd": [10],
            "eo:bands": bands,
        },
        "links": [],
    }


def describe_band(name: str) -> dict[str, Any]:
    """Describe a band in the words of the STAC extension `eo`."""
    if name == SCENE_CLASSES:
        return {"name": name, "common_name": "scl", "gsd": 20, "description": "Scene classes"}
    band = BY_NAME[name]
    described: dict[str, Any] = {"name": name, "common_name": band.common_name, "gsd": band.gsd}
    if band.wavelength_nm is not None:
        described["center_wavelength"] = round(band.wavelength_nm / 1000, 4)  # micrometres
    return described
