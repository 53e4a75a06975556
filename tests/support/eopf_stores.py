"""Small EOPF Zarr products of the structure of real ones, of the same pixels as `safe_products`.

Written from the structures that lie in ../shared/data/stac-items: groups, names, attributes,
fill values, consolidated metadata; smaller, and without what readers do not look at.
"""

from __future__ import annotations

import base64
import struct
import warnings
from pathlib import Path

import numpy as np
import zarr

from kappamask.base.bands import BY_NAME
from support.safe_products import Recipe, held, make_classes, make_dn

NAN = base64.b64encode(struct.pack("<d", np.nan)).decode()
CHUNK = 64


def write_store(folder: Path, recipe: Recipe, kind: str = "esa", *, sharded: bool = False) -> Path:
    """Write a product of one tile: ``"esa"`` (Zarr 2, DN) or ``"geozarr"`` (Zarr 3, float32)."""
    ((tile, (epsg, left, top)),) = recipe.tiles.items()
    path = folder / f"{recipe.name}.zarr"
    told = _discovery(recipe) if kind == "esa" else {}
    with warnings.catch_warnings(action="ignore"):
        root = zarr.create_group(path, zarr_format=2 if kind == "esa" else 3, attributes=told)
        for band, gsd in held(recipe):
            dn = make_dn(recipe, tile, band, gsd)
            reflectance = BY_NAME[band].is_reflectance
            group = "measurements/reflectance" if reflectance else "quality/atmosphere"
            attrs = {
                "long_name": f"{'TOA' if recipe.level == 'L1C' else 'BOA'} reflectance",
                "proj:epsg": epsg,
                "proj:shape": list(dn.shape),
                "proj:transform": [gsd, 0.0, left, 0.0, -gsd, top, 0.0, 0.0, 1.0],
            }
            name = f"{group}/r{gsd}m/{band.lower()}"
            if kind == "esa":
                _write_dn(root, name, dn, attrs, recipe, reflectance)
            else:
                _write_float(root, name, dn, attrs, sharded, 1 / BY_NAME[band].dn_scale)
        if recipe.scl:
            grid = {"proj:epsg": epsg, "proj:transform": [20.0, 0.0, left, 0.0, -20.0, top]}
            name = "conditions/mask/l2a_classification/r20m/scl"
            root.create_array(name, data=make_classes(recipe, tile), attributes=grid)
        angles = np.array([35.5, 165.25])
        root.create_array("conditions/geometry/mean_sun_angles", data=angles)
        zarr.consolidate_metadata(path)
    return path


def _write_dn(root, name, dn, attrs, recipe, reflectance):
    offset = recipe.offset or 0 if reflectance else 0
    stored = np.where(dn == 0, 0, dn.astype(int) - offset).astype(np.uint16)
    scale = 1e-4 if reflectance else 1e-3
    attrs = attrs | {
        "scale_factor": scale,
        "add_offset": offset * scale,
        "fill_value": 0,
        "valid_min": 1,
        "units": "digital_counts",
    }
    chunks = tuple(min(CHUNK, size) for size in dn.shape)
    root.create_array(name, data=stored, chunks=chunks, fill_value=0, attributes=attrs)


def _write_float(root, name, dn, attrs, sharded, scale):
    values = np.where(dn == 0, np.nan, dn * scale).astype(np.float32)
    chunks = tuple(min(CHUNK, size) for size in dn.shape)
    shards = tuple(-(-size // chunk) * chunk for size, chunk in zip(dn.shape, chunks, strict=True))
    root.create_array(
        name,
        data=values,
        chunks=chunks,
        shards=shards if sharded else None,
        fill_value=np.nan,
        attributes=attrs | {"units": "1", "_FillValue": NAN},
    )


def _discovery(recipe):
    """What a real store says of itself as STAC."""
    stamp = "2017-04-30T10:30:21.026000+00:00"
    return {
        "stac_discovery": {
            "type": "Feature",
            "id": f"{recipe.name}.SAFE",
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[10.38, 49.64], [10.42, 49.64], [10.42, 49.62], [10.38, 49.64]]],
            },
            "properties": {
                "datetime": "null",
                "start_datetime": stamp,
                "end_datetime": stamp,
                "eopf:baseline": recipe.baseline,
                "platform": f"sentinel-2{recipe.unit.lower()}",
                "processing:level": recipe.level,
                "product:type": f"S02MSI{recipe.level}",
            },
        },
        "other_metadata": {
            "mean_sun_azimuth_angle_in_deg_for_all_bands_all_detectors": "165.25",
            "mean_sun_zenith_angle_in_deg_for_all_bands_all_detectors": "35.5",
        },
    }
