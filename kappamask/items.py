"""What an item says about itself, be it a pystac.Item or its dict. Row 1: imports row 0."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urljoin

from kappamask.bands import LEVELS
from kappamask.errors import InputError, ItemError

# Where the catalogues say the same thing, the most trustworthy first; "id" is the item's own.
_TYPES = (
    "s2:product_type", "sentinel2:product_type", "product:type", "eo:productType",
    "processing:level",
)  # fmt: skip
_PRODUCTS = (
    "s2:product_uri", "sentinel:product_id", "s2:product_title", "sentinel2:product_title",
    "s2:tile_id", "id",
)  # fmt: skip
_BASELINES = (
    "s2:processing_baseline", "sentinel2:processing_baseline", "sentinel:processing_baseline",
    "processing_baseline", "processing:version",
)  # fmt: skip
_GENERATED = ("s2:generation_time", "sentinel2:generation_time", "processing:datetime")


@dataclass(frozen=True)
class View:
    """What is read of an item, be it a pystac.Item or a dict."""

    id: str
    collection: str | None
    properties: Mapping[str, Any]
    assets: Mapping[str, tuple[str, Mapping[str, Any]]]  # key: (href, other fields)

    def said(self, names: Iterable[str]) -> Iterator[str]:
        """Yield what the item says under these properties, in order; "id" is its own id."""
        for name in names:
            if text := self.id if name == "id" else self.properties.get(name):
                yield str(text)

    def gsd(self, key: str) -> float | None:
        """Tell the pixel size of an asset, metres; None where nothing tells it."""
        # 1. the product's own file name (Copernicus' B07_60m says gsd 20), 2. gsd, 3. the grid
        href, fields = self.assets[key]
        if told := re.search(r"[_/]R?([126]0)m[_./][^/]*(?:/[^/]*)?$", href):
            return float(told[1])
        transform = fields.get("proj:transform") or [0]
        return float(fields.get("gsd") or abs(transform[0])) or None


def view_of(item: Any) -> View:
    """View an item; a view is returned as it is.

    Raises
    ------
    ItemError
        If a dict is no STAC item.
    InputError
        If it is neither an item nor a dict, such as a path or a list of items.

    Examples
    --------
    >>> item = {"id": "x", "properties": {}, "assets": {"red": {"href": "B04.tif"}}}
    >>> view_of(item).assets["red"][0]
    'B04.tif'
    """
    if isinstance(item, View):
        return item
    if isinstance(item, Mapping):
        return _view_of_dict(item)
    if not all(hasattr(item, name) for name in ("id", "collection_id", "properties", "assets")):
        raise InputError(
            f"an item is a pystac.Item or its dict, got {type(item).__name__} {str(item)[:80]!r}: "
            "pass what `search` returns, one item at a time"
        )
    assets = {
        key: (asset.get_absolute_href() or asset.href, asset.extra_fields)
        for key, asset in item.assets.items()
    }
    return View(item.id, item.collection_id, {"datetime": item.datetime} | item.properties, assets)


def _view_of_dict(item: Mapping[str, Any]) -> View:
    properties, assets = item.get("properties"), item.get("assets")
    if not (isinstance(properties, Mapping) and isinstance(assets, Mapping) and item.get("id")):
        inner = item.get("attributes", {}).get("stac_discovery", {})  # an EOPF Zarr store's root
        raise ItemError(
            f"item {item.get('id') or inner.get('id') or 'without an id'}: a STAC item has an id, "
            f"properties and assets, got {'a Zarr store' if 'members' in item else 'a document'} "
            f"with the keys {', '.join(item) or 'none'}: pass the STAC item"
        )
    own = next((link["href"] for link in item.get("links") or () if link.get("rel") == "self"), "")
    return View(
        str(item["id"]),
        item.get("collection"),
        properties,
        {key: (urljoin(own, asset.get("href") or ""), asset) for key, asset in assets.items()},
    )


def level_of(item: Any) -> str:
    """Tell the processing level: ``"L1C"`` or ``"L2A"``.

    Read from the product type, then the processing level, then the product id,
    then the item's id and collection.

    Raises
    ------
    ItemError
        If the item is of another level (a Level-3 mosaic), or does not tell.

    Examples
    --------
    >>> level_of({"id": "S2B_24MVV_20250731_0_L1C", "properties": {}, "assets": {}})
    'L1C'
    """
    view = view_of(item)
    for text in view.said(_TYPES + _PRODUCTS):
        if told := re.search(r"(?:MSI_?L?|^L|_L)([123][ABC]|3)(?![0-9])", text):
            level = f"L{told[1]}"
            if level not in LEVELS:
                raise ItemError(
                    f"item {view.id} is of level {level} ({text}): only Sentinel-2 products of "
                    "level L1C or L2A can be read"
                )
            return level
    if told := re.search(r"l(1c|2a)\b", view.collection or "", re.IGNORECASE):
        return f"L{told[1].upper()}"
    raise ItemError(
        f"item {view.id}: nothing tells that it is Sentinel-2 of level L1C or L2A "
        "(s2:product_type, product id or collection): it cannot be read"
    )


def baseline_of(item: Any) -> str:
    """Tell the processing baseline, such as ``"04.00"``.

    Read from the baseline properties of the catalogues, then from the product id
    (``_N0400_``).

    Raises
    ------
    ItemError
        If the item does not tell, or says 99.99: made outside ESA's processing, where
        the number says nothing about the offset.

    Examples
    --------
    >>> baseline_of({"id": "S2A_MSIL1C_20170216T101101_N0204_R022_T33UUU_20170216T101105",
    ...              "properties": {}, "assets": {}})
    '02.04'
    """
    view = view_of(item)
    said = [*view.said(_BASELINES), *_found(r"_N(\d\d\.?\d\d)", view.said(_PRODUCTS))]
    for text in said:
        told = re.fullmatch(r"(\d{1,2})\.?(\d\d)", text)
        if told and told.groups() != ("99", "99"):
            return f"{told[1].zfill(2)}.{told[2]}"
    got = f"got {said[0]}" if said else "it says nothing"
    raise ItemError(
        f"item {view.id}: its processing baseline is unknown ({got}), and with it whether its DN "
        "are raised by 1000: pass dn_offset=0 or dn_offset=-1000"
    )


def tile_of(item: Any) -> str | None:
    """Tell the MGRS tile, such as ``"01VCC"``; None where the item names none.

    Examples
    --------
    >>> tile_of({"id": "x", "properties": {"grid:code": "MGRS-1VCC"}, "assets": {}})
    '01VCC'
    """
    view = view_of(item)
    said = [*view.said(("s2:mgrs_tile", "grid:code", "s2:tile", *_PRODUCTS))]
    for prefix in ("mgrs", "sentinel"):
        parts = ("utm_zone", "latitude_band", "grid_square")
        said.append("".join(view.said(f"{prefix}:{part}" for part in parts)))
    tile = next(_found(r"(?:^|MGRS-|_)T?(\d{1,2}[C-X][A-Z]{2})(?=_|\.|$)", said), None)
    return tile and tile.zfill(5)


def sensing_time(item: Any) -> datetime:
    """Tell when the scene was sensed, in UTC.

    Raises
    ------
    ItemError
        If neither ``datetime`` nor ``start_datetime`` is a time.

    Examples
    --------
    >>> sensing_time({"id": "x", "assets": {}, "properties": {"datetime": "2024-06-01T10:00:00Z"}})
    datetime.datetime(2024, 6, 1, 10, 0, tzinfo=datetime.timezone.utc)
    """
    view = view_of(item)
    for time in _times(view.said(("datetime", "start_datetime"))):
        return time
    raise ItemError(f"item {view.id}: neither datetime nor start_datetime is a time")


def generation_time(item: Any) -> datetime | None:
    """Tell when the product was made, in UTC; None where the item does not tell.

    Examples
    --------
    >>> generation_time({"id": "S2A_MSIL2A_20181229T095411_N0211_R079_T33SVB_20181229T112231",
    ...                  "properties": {}, "assets": {}})
    datetime.datetime(2018, 12, 29, 11, 22, 31, tzinfo=datetime.timezone.utc)
    """
    view = view_of(item)
    named = _found(r"_T\d{2}[A-Z]{3}_(\d{8}T\d{6})", view.said(_PRODUCTS))
    return next(_times((*view.said(_GENERATED), *named, *view.said(("created",)))), None)


def _found(pattern: str, texts: Iterable[str]) -> Iterator[str]:
    """Yield the first group of each text that holds the pattern."""
    return (told[1] for text in texts if (told := re.search(pattern, text)))


def _times(texts: Iterable[str]) -> Iterator[datetime]:
    """Yield each text that is a time, in UTC."""
    for text in texts:
        try:
            time = datetime.fromisoformat(text)
        except ValueError:
            continue
        yield time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
