"""The 124 real STAC documents of ../shared, and which of them are no readable item."""

import json
from functools import cache

# What is no readable Sentinel-2 item: how many, what the error names.
REFUSED = {
    "cdse/sentinel-2-global-mosaics": (
        1,
        "item Sentinel-2_mosaic_2023_Q1_31SDV_0_0 is of level L3",
    ),
    "eopf_zarr_structure": (7, "a STAC item has an id, properties and assets, got a Zarr store"),
    "other/nocoll": (1, "item S2A_MSIL2A_20230928.*-calibrated: no asset has a key.*goodstat"),
}


@cache
def real_items(root):
    """Read every document once: path below the root -> (folder, text)."""
    return {
        str(path.relative_to(root)): (
            "/".join(path.relative_to(root).parts[:-1]),
            path.read_text(encoding="utf-8"),
        )
        for path in sorted(root.rglob("*.json"))
    }


def refuses(folder, path):
    """Tell whether a document is no readable item."""
    if folder == "other/nocoll":
        return path.endswith("-calibrated.json")
    return folder in REFUSED


def readable_items(root):
    """Read the others: path below the root -> (folder, document)."""
    return {
        path: (folder, json.loads(text))
        for path, (folder, text) in real_items(root).items()
        if not refuses(folder, path)
    }


def make_item(keys=("red", "blue"), **properties):
    """Make an item that says only what the test gives it."""
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": properties.pop("id", "S2A_T32TPS_20230611T101601_L2A"),
        "collection": properties.pop("collection", None),
        "geometry": None,
        "properties": {"datetime": "2023-06-11T10:16:01Z", **properties},
        "assets": {key: {"href": f"{key}.tif"} for key in keys},
        "links": [],
    }
