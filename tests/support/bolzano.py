"""The Bolzano scene of ../shared as a static STAC catalogue, in any provider's words."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import rasterio
import rioxarray  # noqa: F401  (registers the .rio accessor)
import xarray as xr
from rasterio.warp import transform_geom
from rasterio.windows import Window

BANDS = ("B02", "B03", "B04", "B08")
BBOX = (11.2925, 46.4589, 11.4107, 46.5198)
EARTH_SEARCH = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir", "SCL": "scl"}
PLANETARY = {name: name for name in (*BANDS, "SCL")}
COPERNICUS = {name: f"{name}_10m" for name in BANDS} | {"SCL": "SCL_20m"}


def write_catalog(
    folder: Path,
    scenes: Path,
    *,
    href: Callable[[Path], str] = str,
    keys: dict[str, str] = EARTH_SEARCH,
    collection: str = "sentinel-2-c1-l2a",
    baseline: str = "04.00",
) -> Path:
    """Write catalog.json, one collection and an item per date; return catalog.json."""
    items = [
        make_item(scene, href=href, keys=keys, collection=collection, baseline=baseline)
        for scene in sorted(scenes.iterdir())
        if scene.is_dir()
    ]
    below = folder / collection
    collections, catalog = below / "collection.json", folder / "catalog.json"
    for item in items:
        path = below / item["id"] / f"{item['id']}.json"
        item["links"] = [link("root", "../../catalog.json")]
        item["links"] += [link(rel, "../collection.json") for rel in ("parent", "collection")]
        write_json(path, item)
    west, south, east, north = BBOX
    said = {"stac_version": "1.0.0", "description": "Bolzano, June 2022"}
    extent = {
        "spatial": {"bbox": [[west - 0.1, south - 0.1, east + 0.1, north + 0.1]]},
        "temporal": {"interval": [["2022-06-01T00:00:00Z", "2022-07-01T00:00:00Z"]]},
    }
    up = [link(rel, "../catalog.json") for rel in ("root", "parent")]
    down = [link("item", f"./{item['id']}/{item['id']}.json") for item in items]
    whole = {"type": "Collection", "id": collection, "license": "proprietary", "extent": extent}
    write_json(collections, whole | said | {"links": up + down})
    links = [link("root", "./catalog.json"), link("child", f"./{collection}/collection.json")]
    write_json(catalog, {"type": "Catalog", "id": "bolzano"} | said | {"links": links})
    return catalog


def link(rel: str, href: str) -> dict:
    """Link one document with another."""
    kind = "application/geo+json" if rel == "item" else "application/json"
    return {"rel": rel, "href": href, "type": kind}


def write_json(path: Path, document: dict) -> None:
    """Write a document, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def make_item(
    scene: Path,
    *,
    href: Callable[[Path], str] = str,
    keys: dict[str, str] = EARTH_SEARCH,
    collection: str = "sentinel-2-c1-l2a",
    baseline: str = "04.00",
) -> dict:
    """Describe one date, as its provider would."""
    day = scene.name.rsplit("_", 1)[1]
    with rasterio.open(scene / "B02.tif") as source:
        left, bottom, right, top = source.bounds
        transform, shape = list(source.transform)[:6], [source.height, source.width]
    points = _in_degrees(left, bottom, right, top)
    xs, ys = zip(*points, strict=True)
    grid = {"proj:epsg": 32632, "proj:transform": transform, "proj:shape": shape}
    named = "processing:version" if "B02_10m" in keys.values() else "s2:processing_baseline"
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [
            "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
        ],
        "id": f"S2A_T32TPS_{day}T101559_L2A",
        "collection": collection,
        "geometry": {"type": "Polygon", "coordinates": [points]},
        "bbox": [min(xs), min(ys), max(xs), max(ys)],
        "properties": {
            "datetime": f"{day[:4]}-{day[4:6]}-{day[6:]}T10:15:59.024000Z",
            "platform": "sentinel-2a",
            "constellation": "sentinel-2",
            "s2:product_type": "S2MSI2A",
            "grid:code": "MGRS-32TPS",
            named: baseline,
            "proj:epsg": 32632,
        },
        "links": [],
        "assets": {
            key: {
                "href": href(scene / f"{band}.tif"),
                "type": "image/tiff; application=geotiff; profile=cloud-optimized",
                "roles": ["data"],
                # a trap: what the item says of scale and offset must not be believed
                "raster:bands": [{"nodata": 0, "scale": 0.0001, "offset": -0.3}],
                **grid,
            }
            for band, key in keys.items()
        },
    }


def read_cube(scenes: Path, *, rows: slice, columns: slice) -> xr.DataArray:
    """Read a cut-out of all dates as a canonical cube, by rasterio alone."""
    folders = sorted(scene for scene in scenes.iterdir() if scene.is_dir())
    window = Window.from_slices(rows, columns)
    values, times = [], []
    for scene in folders:
        times.append(np.datetime64(f"{_day(scene)}T10:15:59", "ns"))
        for band in BANDS:
            with rasterio.open(scene / f"{band}.tif") as source:
                values.append(source.read(1, window=window).astype(np.float32))
                transform = source.window_transform(window)
                crs = source.crs
    dn = np.array(values).reshape(len(folders), len(BANDS), *values[0].shape)
    return xr.DataArray(
        np.where(dn == 0, np.nan, (dn - 1000) * np.float32(1e-4)).astype(np.float32),
        dims=("time", "band", "y", "x"),
        coords={
            "time": times,
            "band": list(BANDS),
            "y": transform.f + transform.e * (np.arange(dn.shape[2]) + 0.5),
            "x": transform.c + transform.a * (np.arange(dn.shape[3]) + 0.5),
        },
        attrs={"level": "L2A"},
    ).rio.write_crs(crs)


@cache
def _in_degrees(left: float, bottom: float, right: float, top: float) -> list:
    """Outline what all dates share; GDAL looks up the way there each time that it is asked."""
    corners = [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]
    moved = transform_geom(32632, 4326, {"type": "Polygon", "coordinates": [corners]})
    return moved["coordinates"][0]


def _day(scene: Path) -> str:
    day = scene.name.rsplit("_", 1)[1]
    return f"{day[:4]}-{day[4:6]}-{day[6:]}"
