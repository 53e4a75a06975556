"""EOPF Zarr products to scenes: what SAFE products hold, in one store. Imports `safe` and below.

Two kinds: ESA's (Zarr 2, DN with ``scale_factor`` and ``add_offset``, the offset in them) and
GeoZarr (Zarr 3, reflectance in floating point, NaN for no data, all settled). Scale and offset
come from the attributes of each array and from nowhere else, so none is applied twice. Of
floating point DN are made again, exactly, so that every source gives one cube bit for bit.

Source: EOPF Product Structure and Format Definition; structures of seven real products.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kappamask.base.bands import NAMES, canonical_name, get_band
from kappamask.base.errors import InputError, ItemError, UnknownNameError
from kappamask.base.retry import is_remote, without_query
from kappamask.scenes.archives import Archive
from kappamask.scenes.items import View, view_of
from kappamask.scenes.safe import Granule, Held, Product
from kappamask.scenes.safe_metadata import ProductMetadata, TileMetadata
from kappamask.scenes.scene import RAISED
from kappamask.scenes.zarr_store import named, open_store

_GROUPS = {10: "r10m", 20: "r20m", 60: "r60m"}
CLASSES = "conditions/mask/l2a_classification/r20m/scl"
_STAMP = re.compile(r"_(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)(?=_|$)")
_REFLECTANCE = re.compile(r"\b(TOA|BOA)\b")


def is_store(path: str | os.PathLike[str]) -> bool:
    """Tell whether there is a Zarr store, or whether an address is named like one."""
    text = os.fspath(path)
    if is_remote(text):
        return text.partition("?")[0].rstrip("/").endswith(".zarr")
    folder = Path(text)
    return any((folder / name).is_file() for name in (".zgroup", ".zmetadata", "zarr.json"))


def read_store(path: str | os.PathLike[str]) -> Product:
    """Read the metadata of an EOPF product; no pixels.

    Raises
    ------
    InputError
        If it is no Zarr store, or none of a Sentinel-2 product of level L1C or L2A.
    ReadError
        If it cannot be read.
    ItemError
        If it lacks something, such as its time.
    """
    text = os.fspath(path)
    location = text.rstrip("/") if is_remote(text) else str(Path(text).expanduser().absolute())
    root = open_store(location)
    with named(location):
        arrays = _find_arrays(root)
        if not any(get_band(band).is_reflectance for band, _ in arrays):
            members = ", ".join(sorted(root)) if root.store.supports_listing else "others"
            raise InputError(
                f"an EOPF product of Sentinel-2 holds measurements/reflectance/r10m/b02, "
                f"{without_query(location)} does not (it holds {members or 'nothing'}): give a "
                "product of level L1C or L2A"
            )
        view = _view(root, location, arrays)
        tile = _tile(root, view, arrays)
        bands = {band: array for (band, _), array in reversed(arrays.items())}
        offsets = {name: _offset_of(array.attrs) for name, array in bands.items()}
        scales = {name: _scale_of(name, array.attrs) for name, array in bands.items()}
        metadata = ProductMetadata(
            name=view.id,
            level=view.level,
            baseline=next(iter(view.baselines), None),
            platform=_platform(view),
            time=np.datetime64(view.time.replace(tzinfo=None), "ns"),
            scales=scales,
            offsets={name: offset for name, offset in offsets.items() if name in NAMES},
            footprint=_ring(view.geometry) or tile.outline,
            images=(),
            cloud_cover=_cloud_cover(view),
        )
        names = {held: array.path for held, array in arrays.items()}
        classes = CLASSES if CLASSES in root else None
    return Product(Archive(location), metadata, (Granule(tile, names, {}, classes),))


def _find_arrays(root: Any) -> dict[Held, Any]:
    """Find the arrays by band and pixel size, finest first; not what was made of finer ones."""
    found: dict[Held, Any] = {}
    for group in ("measurements/reflectance", "quality/atmosphere"):
        for gsd, name in _GROUPS.items():
            try:
                members = dict(root[f"{group}/{name}"].arrays())
            except KeyError:
                continue
            for key, array in members.items():
                try:
                    band = get_band(canonical_name(key))
                except UnknownNameError:  # x, y, spatial_ref
                    continue
                # ESA makes B08 at 10 m only; GeoZarr adds means for pictures of it.
                if gsd >= band.gsd and not (band.name == "B08" and gsd > band.gsd):
                    found[band.name, gsd] = array
    return dict(sorted(found.items(), key=lambda item: item[0][1]))


def _view(root: Any, location: str, arrays: Mapping[Held, Any]) -> View:
    """View what a store says of itself as the item that it is; its own name tells the rest."""
    told = root.attrs.get("stac_discovery")
    told = told if isinstance(told, Mapping) else {}
    said = told.get("properties")
    properties: dict[str, Any] = dict(said) if isinstance(said, Mapping) else {}
    name = Path(location.partition("?")[0]).name.removesuffix(".zarr")
    identity = str(told.get("id") or name).removesuffix(".SAFE")
    if "eopf:baseline" in properties:
        properties["processing_baseline"] = properties["eopf:baseline"]
    times = [properties.get(key) for key in ("datetime", "start_datetime", "end_datetime")]
    if stamp := _STAMP.search(identity):
        times.append("{}-{}-{}T{}:{}:{}Z".format(*stamp.groups()))
    properties["datetime"] = next((t for t in times if t and t != "null"), None)
    kinds = {_REFLECTANCE.search(str(array.attrs.get("long_name"))) for array in arrays.values()}
    levels = {"L1C" if kind[1] == "TOA" else "L2A" for kind in kinds if kind}
    if len(levels) == 1:
        properties.setdefault("processing:level", levels.pop())
    view = view_of(
        {
            "id": identity,
            "properties": properties,
            "assets": {},
            "geometry": told.get("geometry"),
        }
    )
    if properties["datetime"] is None:
        raise ItemError(
            f"{without_query(location)}: neither its metadata nor its name tell when it was seen: "
            "give the store the name of the product, S2A_MSIL2A_20251008T100041_....zarr"
        )
    return view


def _cloud_cover(view: View) -> float | None:
    told = view.properties.get("eo:cloud_cover")
    return float(told) if isinstance(told, int | float) and 0 <= told <= 100 else None


def _platform(view: View) -> str | None:
    told = str(view.properties.get("platform") or "").lower()
    named_ = re.match(r"S2([A-D])_", view.id)
    return told or (f"sentinel-2{named_[1].lower()}" if named_ else None)


def _tile(root: Any, view: View, arrays: Mapping[Held, Any]) -> TileMetadata:
    """Say where the pixels lie, of which every array tells the same."""
    shapes: dict[int, tuple[int, int]] = {}
    corners, codes = set(), set()
    for (_, gsd), array in arrays.items():
        fields = {"href": array.path, "proj:shape": list(array.shape), **_grid(root, array)}
        item = {"id": view.id, "properties": {}, "assets": {array.path: fields}}
        place = view_of(item).place(array.path)
        if place["epsg"] is None or place.get("gsd") != gsd:
            raise ItemError(
                f"{view.id}: {array.path} tells proj:epsg and proj:transform with pixels of {gsd} "
                f"m, got {place}: it is no EOPF product, or damaged"
            )
        shapes[gsd] = place["height"], place["width"]
        corners.add((place["left"], place["top"]))
        codes.add(place["epsg"])
    if len(codes) != 1 or len(corners) != 1:
        raise ItemError(
            f"{view.id}: all arrays begin at one corner in one CRS, got {corners} in {codes}: it "
            "is no EOPF product, or damaged"
        )
    ((left, top),) = corners
    zenith, azimuth = _sun(root)
    return TileMetadata(view.id, view.tile or "", codes.pop(), left, top, shapes, zenith, azimuth)


def _grid(root: Any, array: Any) -> dict[str, Any]:
    """Find CRS and transform in the attributes of an array, or of its group and coordinates."""
    told = {key: array.attrs.get(key) for key in ("proj:epsg", "proj:code", "proj:transform")}
    group = root[array.path.rpartition("/")[0]]
    if not (told["proj:epsg"] or told["proj:code"]):
        told["proj:code"] = group.attrs.get("proj:code")
    if told["proj:transform"] is None and {"x", "y"} <= set(group):
        x, y = (np.asarray(group[name][:2], float) for name in ("x", "y"))
        step, down = float(x[1] - x[0]), float(y[1] - y[0])
        corner = float(x[0]) - step / 2, float(y[0]) - down / 2
        told["proj:transform"] = [step, 0.0, corner[0], 0.0, down, corner[1]]
    return told


def _sun(root: Any) -> tuple[float, float]:
    """Read the mean zenith and azimuth of the sun, degrees; NaN where nothing tells them."""
    told = root.attrs.get("other_metadata")
    told = told if isinstance(told, Mapping) else {}
    words = "mean_sun_{}_angle_in_deg_for_all_bands_all_detectors"
    try:
        said = [float(told[words.format(angle)]) for angle in ("zenith", "azimuth")]
        return said[0], said[1]
    except (KeyError, TypeError, ValueError):
        pass
    try:
        means = root["conditions/geometry/mean_sun_angles"][:]  # zenith, azimuth
        return float(means[0]), float(means[1])
    except (KeyError, IndexError, TypeError, ValueError):
        return np.nan, np.nan


def _ring(geometry: Any) -> tuple[tuple[float, float], ...]:
    from shapely.errors import ShapelyError
    from shapely.geometry import shape

    try:
        outline = shape(geometry)
        return tuple((float(x), float(y)) for x, y, *_ in outline.exterior.coords)
    except (ShapelyError, AttributeError, LookupError, TypeError, ValueError):
        return ()


# --- what the numbers mean ----------------------------------------------------------------------


def _offset_of(attrs: Mapping[str, Any]) -> int:
    """Tell what is added to the DN of an array; of floating point, to those made of it."""
    if "scale_factor" not in attrs:
        return RAISED
    return round(float(attrs.get("add_offset", 0)) / float(attrs["scale_factor"]))


def _scale_of(band: str, attrs: Mapping[str, Any]) -> float:
    return float(attrs.get("scale_factor") or 1 / get_band(band).dn_scale)
