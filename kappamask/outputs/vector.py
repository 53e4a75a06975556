"""Masks as polygons: GeoPackage or GeoJSON, one feature per patch of a class. Imports rasterio."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import rasterio
from rasterio.features import shapes
from rasterio.warp import transform_geom
from shapely.geometry import shape

from kappamask.base.errors import InputError, ReadError, needs_extra
from kappamask.base.files import publish, staging
from kappamask.base.legend import LEGEND, Label

SUFFIXES = (".gpkg", ".geojson")
LAYER = "cloud_mask"


def write_vector(
    masks: Iterable[str | Path],
    path: str | Path,
    *,
    classes: Sequence[Label] | None = None,
) -> Path:
    """Write masks as polygons of their classes: outlines run along the edges of the pixels.

    Parameters
    ----------
    masks
        Files that `write_mask` wrote, of one CRS where a GeoPackage is written.
    path
        ``.gpkg`` (one layer ``cloud_mask`` in the CRS of the masks, needs
        ``kappamask[fields]``) or ``.geojson`` (degrees); its folder is made if absent.
    classes
        Which to write; None for all but missing.

    Returns
    -------
    Path
        The file. Its features have ``code`` and ``class`` (`kappamask.Label`), ``time`` (RFC
        3339), ``mask`` (name of the file) and ``area_m2``.

    Raises
    ------
    InputError
        If the suffix is another one, or the CRS of the masks differ.
    ReadError
        If a mask cannot be read.
    WriteError
        If the file cannot be written; one that was there before stays.

    Examples
    --------
    >>> write_vector([], "clouds.kml")
    Traceback (most recent call last):
    kappamask.base.errors.InputError: polygons are written as .gpkg or .geojson, got clouds.kml...
    """
    path = Path(path)
    check_suffix(path)
    wanted = [label for label in Label if label != Label.MISSING] if classes is None else classes
    found = [read_polygons(Path(mask), wanted) for mask in masks]
    projections = {str(crs): crs for crs, _ in found}
    if not found or (len(projections) > 1 and path.suffix == ".gpkg"):
        raise InputError(
            f"a GeoPackage is of one mask or several of one CRS, got {len(found)} masks in "
            f"{', '.join(projections) or 'no CRS'}: write one file per CRS, or .geojson"
        )
    with staging(path.absolute().parent, path.name) as aside:
        if path.suffix == ".geojson":
            features = [
                feature | {"geometry": transform_geom(crs, 4326, feature["geometry"], precision=7)}
                for crs, several in found
                for feature in several
            ]
            text = json.dumps({"type": "FeatureCollection", "features": features})
            publish(aside, {path: text.encode()})
        else:
            features = [feature for _, several in found for feature in several]
            _write_package(features, found[0][0], aside / path.name)
            (aside / path.name).replace(path)
    return path


def check_suffix(path: Path) -> None:
    """Refuse a file that cannot be written, before anything is read."""
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"polygons are written as {' or '.join(SUFFIXES)}, got {path.name}: choose one of them"
        )
    if path.suffix == ".gpkg":
        with needs_extra("fields", "a GeoPackage"):
            import geopandas  # noqa: F401  what writes it
            import pyogrio  # noqa: F401


def read_polygons(mask: Path, classes: Sequence[Label]) -> tuple[Any, list[dict[str, Any]]]:
    """Outline the classes of one mask: its CRS and GeoJSON features in it."""
    try:
        with rasterio.open(mask, driver="GTiff") as raster:
            codes, place, crs = raster.read(1), raster.transform, raster.crs
            time = raster.tags().get("datetime", "")
    except rasterio.errors.RasterioIOError as error:
        raise ReadError(f"a mask is a GeoTIFF as write_mask writes it, got {error}") from error
    unit = crs.linear_units_factor[1] if crs.is_projected else None
    features = []
    for outline, code in shapes(
        codes, sum(codes == label for label in classes) > 0, transform=place
    ):
        entry = LEGEND[int(code)]
        surface = shape(outline).area * unit**2 if unit else None
        known = {
            "code": int(code),
            "class": entry.name,
            "time": time,
            "mask": mask.stem,
            "area_m2": surface,
        }
        features.append({"type": "Feature", "properties": known, "geometry": outline})
    return crs, features


def _write_package(features: Sequence[dict[str, Any]], crs: Any, path: Path) -> None:
    import geopandas

    columns = ["code", "class", "time", "mask", "area_m2", "geometry"]
    frame = geopandas.GeoDataFrame.from_features(features, crs=crs.to_wkt(), columns=columns)
    frame.to_file(path, layer=LAYER, driver="GPKG", engine="pyogrio")
