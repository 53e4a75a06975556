"""What the back end tells of its two collections. Row 6: imports `load`, tables of lower rows."""

from __future__ import annotations

from typing import Any

from kappamask.base.bands import BY_NAME
from kappamask.openeo.engine.load import COLLECTIONS, SCENE_CLASSES, bands_of_collection
from kappamask.scenes.catalogs import PROFILES

DATACUBE = "https://stac-extensions.github.io/datacube/v2.2.0/schema.json"
EO = "https://stac-extensions.github.io/eo/v1.1.0/schema.json"
FIRST_DATE = "2015-06-27T00:00:00Z"  # of Sentinel-2A


def describe_collections(catalog: Any) -> list[dict[str, Any]]:
    """Describe the collections as STAC documents.

    One that a known catalogue does not hold is left out.

    Examples
    --------
    >>> [collection["id"] for collection in describe_collections("earth-search")]
    ['SENTINEL2_L2A', 'SENTINEL2_L1C']
    """
    profile = PROFILES.get(str(catalog))
    return [
        describe_collection(name, level)
        for name, level in COLLECTIONS.items()
        if profile is None or level in profile.levels
    ]


def describe_collection(name: str, level: str) -> dict[str, Any]:
    """Describe one collection: dimensions, bands with wavelength and pixel size."""
    bands = [describe_band(band) for band in bands_of_collection(level)]
    spatial = {"type": "spatial", "extent": [-180, 180], "reference_system": 32601}
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
            "spatial": {"bbox": [[-180, -84, 180, 84]]},
            "temporal": {"interval": [[FIRST_DATE, None]]},
        },
        "cube:dimensions": {
            "x": {**spatial, "axis": "x"},
            "y": {**spatial, "axis": "y", "extent": [-84, 84]},
            "t": {"type": "temporal", "extent": [FIRST_DATE, None]},
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
