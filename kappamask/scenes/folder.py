"""A folder of products as a catalogue: its SAFE and EOPF Zarr products as STAC items.

So whatever reads items of a static catalogue reads products: the search, cubes, openEO's
collections. Imports `products` and `stac` and what lies below them.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pystac
from shapely.geometry import Polygon, mapping
from shapely.geometry.base import BaseGeometry
from shapely.validation import make_valid

from kappamask.base.bands import AUXILIARY, get_band
from kappamask.base.errors import CatalogError, ItemError, KappaMaskError
from kappamask.scenes.area import cut_at_antimeridian
from kappamask.scenes.catalogs import TOLD_OFFSET
from kappamask.scenes.products import find_products, is_raster, read_product
from kappamask.scenes.safe import CLASSES_GSD, Granule, Product
from kappamask.scenes.safe_metadata import TileMetadata
from kappamask.scenes.scene import Scene, split_array
from kappamask.scenes.stac import Query

LOG = logging.getLogger(__name__)

_SENSED = re.compile(r"S2[A-D]_MSIL(?:1C|2A)_(\d{8}T\d{6})_")  # names of today
_NEAR = timedelta(days=1)  # names tell a time of the pass, not of the tile


class ProductFolder:
    """Products that lie in a folder, or one product, read as `Catalogue` reads documents.

    The folder is looked through anew by each search: what was added is found.

    Raises
    ------
    CatalogError
        Here if no product lies in it.
    """

    has_filter = False

    def __init__(self, location: str) -> None:
        self.location = location
        try:
            found = find_products([location])
        except KappaMaskError as error:
            raise CatalogError(
                "a folder that is searched holds a catalog.json, or products (....SAFE, .zip, "
                f".zarr), got {location}: {error}"
            ) from error
        self.paths = [path for path in found if not is_raster(path)]

    def items(self, query: Query) -> Iterator[pystac.Item]:
        """Yield the tiles of the products, but of those that were seen at another time.

        A product that cannot be read is left out, with a warning; if none can be, its error.
        """
        left_out: list[KappaMaskError] = []
        read = 0
        for path in self.paths:
            if not _may_answer(path, query):
                continue
            try:
                items = items_of(read_product(path))
            except KappaMaskError as error:
                LOG.warning("left out %s: %s", path, error)
                left_out.append(error)
                continue
            read += 1
            yield from items
        if left_out and not read:
            raise left_out[0]


def _may_answer(path: str, query: Query) -> bool:
    """Tell by the name of a product whether its metadata need to be read."""
    told = _SENSED.search(Path(path).name)
    if told is None:
        return True
    try:
        time = datetime.strptime(told[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return True
    start, end = query.dates.start, query.dates.end
    return (start is None or start - _NEAR <= time) and (end is None or time < end + _NEAR)


def items_of(product: Product) -> list[pystac.Item]:
    """Describe each tile of a product as the STAC item that a catalogue would have of it.

    Assets are called as Copernicus calls them, ``B02_10m``; each says where its pixels lie, and
    what the product's own metadata say is added to its DN.

    Raises
    ------
    KappaMaskError
        As of `kappamask.open_safe`; `ItemError` if DN mean something else than in catalogues.
    """
    items = []
    for granule in product.granules:
        tile = granule.metadata.tile
        (scene,) = product.scenes(tile=tile, apart=True)
        there = [one.name for one in AUXILIARY if granule.pick(one.name, 10)]
        if there:
            (scene,) = product.scenes(tile=tile, bands=[*scene.files, *there], apart=True)
        items.append(_item(product, granule, scene))
    return items


def _item(product: Product, granule: Granule, scene: Scene) -> pystac.Item:
    metadata, tile = product.metadata, granule.metadata
    ground = _ground(tile, metadata.footprint)
    azimuth, elevation = scene.sun or (None, None)
    said = {
        "platform": scene.platform,
        "processing:level": scene.level,
        "s2:processing_baseline": scene.baseline,
        "grid:code": f"MGRS-{scene.tile}" if scene.tile else None,
        "eo:cloud_cover": metadata.cloud_cover,
        "proj:code": f"EPSG:{tile.epsg}",
        "view:sun_azimuth": azimuth,
        "view:sun_elevation": elevation,
    }
    item = pystac.Item(
        id=scene.id,
        geometry=mapping(ground),
        bbox=list(ground.bounds),
        datetime=scene.time.astype("M8[us]").item().replace(tzinfo=UTC),
        properties={name: value for name, value in said.items() if value is not None},
    )
    for band, file in scene.files.items():
        per_unit = get_band(band).dn_scale
        if not math.isclose(file.scale * per_unit, 1, rel_tol=1e-6):
            raise ItemError(
                f"item {scene.id}: {band} has {per_unit:g} DN per unit in catalogues, got "
                f"{1 / file.scale:g}: open the product itself, with kappamask.open_safe"
            )
        told = {} if split_array(file.href) else {TOLD_OFFSET: file.dn_offset}
        item.add_asset(f"{band}_{file.gsd:g}m", _asset(file.href, tile, int(file.gsd), told))
    if granule.classes and CLASSES_GSD in tile.shapes:
        href = product.archive.gdal_path(granule.classes)
        item.add_asset("SCL_20m", _asset(href, tile, CLASSES_GSD, {}))
    return item


def _asset(href: str, tile: TileMetadata, gsd: int, told: dict[str, Any]) -> pystac.Asset:
    grid = {
        "proj:shape": list(tile.shapes[gsd]),
        "proj:transform": [float(gsd), 0.0, tile.left, 0.0, -float(gsd), tile.top],
    }
    return pystac.Asset(href, roles=["data"], extra_fields={"gsd": gsd, **grid, **told})


def _ground(tile: TileMetadata, footprint: Sequence[tuple[float, float]]) -> BaseGeometry:
    """Cut what a product shows to a tile of it: products before December 2016 hold several."""
    whole = cut_at_antimeridian(Polygon(tile.outline))
    if len(footprint) < 4:
        return whole
    shown = make_valid(cut_at_antimeridian(Polygon(footprint))).intersection(whole)
    return shown if shown.area > 0 else whole
