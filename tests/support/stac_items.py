"""Minimal Sentinel-2 items as dicts, as Earth Search (or another catalogue) writes them."""

import copy

import pystac
from shapely.geometry import box, mapping, shape

FIELD = (11.20, 46.40, 11.30, 46.50)  # bbox inside the square that every item shows by default
SQUARE = (11.0, 46.0, 12.0, 47.0)
EARTH_SEARCH_KEYS = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08"}
COPERNICUS_KEYS = {f"{band}_10m": band for band in ("B02", "B03", "B04", "B08")}


def make_item(day, *, keys=EARTH_SEARCH_KEYS, geometry=None, tile="32TPS", **properties):
    """Make one item of 2024; `day` is "MM-DD", other properties as the item spells them."""
    stamp = f"2024{day.replace('-', '')}T101601"
    level = properties.pop("level", "L2A")
    baseline = properties.pop("baseline", "05.10")
    made = properties.pop("made", f"2024{day.replace('-', '')}T162001")
    geometry = geometry or mapping(box(*SQUARE))
    item_id = properties.pop("id", f"S2A_T{tile}_{stamp}_{made}_{level}")
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": item_id,
        "collection": properties.pop("collection", f"sentinel-2-c1-{level.lower()}"),
        "geometry": geometry,
        "bbox": [*shape(geometry).bounds],
        "properties": {
            "datetime": f"2024-{day}T10:25:{properties.pop('second', '31.123')}Z",
            "platform": "sentinel-2a",
            "eo:cloud_cover": 20.0,
            "grid:code": f"MGRS-{tile}",
            "s2:product_type": f"S2MSI{level[1:]}",
            "s2:processing_baseline": baseline,
            "s2:generation_time": f"{made[:4]}-{made[4:6]}-{made[6:8]}T{made[9:11]}:00:00Z",
            **properties,
        },
        "assets": {
            key: {"href": f"./{item_id}/{band}.tif", "type": "image/tiff"}
            for key, band in keys.items()
        },
        "links": [],
    }


def write_catalog(folder, documents):
    """Write a static catalogue with pystac: one collection per collection id."""
    catalog = pystac.Catalog("static", "a test")
    everywhere = pystac.Extent(
        pystac.SpatialExtent([[-180, -90, 180, 90]]), pystac.TemporalExtent([[None, None]])
    )
    for name in sorted({document.get("collection") or "none" for document in documents}):
        collection = pystac.Collection(name, "a test", everywhere)
        catalog.add_child(collection)
        for document in documents:
            if (document.get("collection") or "none") == name:
                document = copy.deepcopy(document) | {"links": []}  # noqa: PLW2901
                collection.add_item(pystac.Item.from_dict(document))
    catalog.normalize_hrefs(str(folder))
    catalog.save(pystac.CatalogType.SELF_CONTAINED)
    return folder / "catalog.json"


def days(items):
    """Tell the days of items as `make_item` takes them."""
    return [item.datetime.strftime("%m-%d") for item in items]
