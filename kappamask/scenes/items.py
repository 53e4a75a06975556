"""What an item says about itself, be it a pystac.Item or its dict. Row 1: imports row 0."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

from kappamask.base.bands import LEVELS
from kappamask.base.errors import InputError, ItemError

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
_YEARS = range(1970, 2200)  # times that a cube can hold to the nanosecond, with room to spare
_TIME = re.compile(r"\d{4}-?\d\d-?\d\d(?:[T ].*)?", re.ASCII)  # no number of seconds since 1970
_GENERATED = ("s2:generation_time", "sentinel2:generation_time", "processing:datetime")


@dataclass(frozen=True)
class View:
    """What is read of an item, be it a pystac.Item or a dict."""

    id: str
    collection: str | None
    properties: Mapping[str, Any]
    assets: Mapping[str, tuple[str, Mapping[str, Any]]]  # key: (href, other fields)
    geometry: Any
    item: Any  # what is viewed

    @property
    def links(self) -> dict[str, str]:
        """The addresses that the item links to, by what they are to it; the first of each.

        Raises
        ------
        ItemError
            If a pystac.Item holds what is no link, such as one to a number.
        """
        if isinstance(self.item, Mapping):
            return links_of(self.item)
        return links_of(document_of(self.item))

    def said(self, names: Iterable[str]) -> Iterator[str]:
        """Yield what the item says under these properties, in order; "id" is its own id."""
        for name in names:
            said = self.id if name == "id" else self.properties.get(name)
            if said and isinstance(said, str | int | float | datetime) and said is not True:
                yield str(said)

    def gsd(self, key: str) -> float | None:
        """Tell the pixel size of an asset, metres; None where nothing tells it."""
        # 1. the product's own file name (Copernicus' B07_60m says gsd 20), 2. gsd, 3. the grid
        href, fields = self.assets[key]
        if told := re.search(r"[_/]R?([126]0)m[_./][^/]*(?:/[^/]*)?$", href):
            return float(told[1])
        transform = fields.get("proj:transform")
        steps = [fields.get("gsd"), *(transform[:1] if isinstance(transform, list | tuple) else ())]
        return next((float(step) for step in steps if _is_step(step)), None)


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
    assets = {key: (_href_of(asset), asset.extra_fields) for key, asset in item.assets.items()}
    properties = {"datetime": item.datetime} | item.properties
    geometry = getattr(item, "geometry", None)
    return View(str(item.id), _text(item.collection_id), properties, assets, geometry, item)


def document_of(item: Any) -> Mapping[str, Any]:
    """Give an item as its JSON document.

    Raises
    ------
    ItemError
        If a pystac.Item holds what is no JSON of an item, such as a link to a number.

    Examples
    --------
    >>> document_of({"id": "x"})
    {'id': 'x'}
    """
    if isinstance(item, Mapping):
        return item
    try:
        document: dict[str, Any] = item.to_dict(include_self_link=True, transform_hrefs=False)
    except (AttributeError, TypeError, ValueError) as error:
        raise ItemError(
            f"item {item.id}: it must be a document of JSON, got {error}: correct its links"
        ) from error
    return document


def _is_step(value: Any) -> bool:
    """Tell whether a value can be metres per pixel."""
    return isinstance(value, int | float) and value is not True and 0 < value < 1e4


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _href_of(asset: Any) -> str:
    if not isinstance(asset.href, str):
        return ""
    try:
        return asset.get_absolute_href() or asset.href
    except ValueError:  # no address; whoever opens it says so
        return asset.href


def _view_of_dict(item: Mapping[str, Any]) -> View:
    properties, assets = item.get("properties"), item.get("assets")
    if not (isinstance(properties, Mapping) and isinstance(assets, Mapping) and item.get("id")):
        inner = item.get("attributes")  # an EOPF Zarr store's root
        inner = inner.get("stac_discovery") if isinstance(inner, Mapping) else None
        named = item.get("id") or (inner.get("id") if isinstance(inner, Mapping) else None)
        raise ItemError(
            f"item {named or 'without an id'}: a STAC item has an id, "
            f"properties and assets, got {'a Zarr store' if 'members' in item else 'a document'} "
            f"with the keys {', '.join(map(str, item)) or 'none'}: pass the STAC item"
        )
    own = links_of(item).get("self") or ""
    known = {str(key): asset for key, asset in assets.items() if isinstance(asset, Mapping)}
    hrefs = {key: _text(asset.get("href")) for key, asset in known.items()}
    return View(
        str(item["id"]),
        _text(item.get("collection")),
        properties,
        {key: (_join(own, href) if href else "", known[key]) for key, href in hrefs.items()},
        item.get("geometry"),
        item,
    )


def _join(base: str, href: str) -> str:
    try:
        return urljoin(base, href)
    except ValueError:  # no address; whoever opens it says so
        return href


def is_address(href: str) -> bool:
    r"""Tell whether a text can be the address or the path of a file.

    Examples
    --------
    >>> [is_address(href) for href in ("https://host/B02.tif", "B02.tif", "", "http://[", "a\0b")]
    [True, True, False, False, False]
    """
    try:
        urlsplit(href).hostname  # noqa: B018  some errors come up only here
        href.encode()
    except ValueError:
        return False
    return bool(href.strip()) and href.isprintable()


def links_of(item: Mapping[str, Any]) -> dict[str, str]:
    """List the addresses that an item's dict links to, by what they are to it; the first of each.

    Examples
    --------
    >>> links_of({"links": [{"rel": "self", "href": "https://host/item.json"}, None]})
    {'self': 'https://host/item.json'}
    """
    links = item.get("links")
    found: dict[str, str] = {}
    for link in links if isinstance(links, list | tuple) else ():
        if isinstance(link, Mapping) and _text(link.get("rel")) and _text(link.get("href")):
            found.setdefault(link["rel"], link["href"])
    return found


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
    if read := baselines_said(view):
        return read[0]
    said = _texts_of_baseline(view)
    got = f"got {said[0]}" if said else "it says nothing"
    raise ItemError(
        f"item {view.id}: its processing baseline is unknown ({got}), and with it whether its DN "
        "are raised by 1000: pass dn_offset=0 or dn_offset=-1000"
    )


def baselines_said(item: Any) -> list[str]:
    """List every processing baseline that an item tells, the most trustworthy first.

    Examples
    --------
    >>> baselines_said({"id": "S2A_MSIL2A_20230611T101601_N0509_R065_T32TPS_20230611T162001",
    ...                 "properties": {"s2:processing_baseline": "05.09"}, "assets": {}})
    ['05.09', '05.09']
    """
    read = []
    for text in _texts_of_baseline(view_of(item)):
        told = re.fullmatch(r"(\d{1,2})\.?(\d\d)", text.strip(), re.ASCII)
        if told and told.groups() != ("99", "99"):
            read.append(f"{told[1].zfill(2)}.{told[2]}")
    return read


def _texts_of_baseline(view: View) -> list[str]:
    return [*view.said(_BASELINES), *_found(r"_N(\d\d\.?\d\d)", view.said(_PRODUCTS))]


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
    got = ", ".join(view.said(("datetime", "start_datetime"))) or "neither"
    raise ItemError(
        f"item {view.id}: neither datetime nor start_datetime is a time from {_YEARS[0]} on, got "
        f"{got:.80}: correct the item"
    )


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


def sun_of(item: Any) -> tuple[float, float] | None:
    """Tell azimuth (from north) and elevation of the sun, degrees; None where it is not told.

    Examples
    --------
    >>> said = {"s2:mean_solar_azimuth": 151.0, "s2:mean_solar_zenith": 26.5}
    >>> sun_of({"id": "x", "properties": said, "assets": {}})
    (151.0, 63.5)
    """
    said = view_of(item).properties
    azimuth = _angle(said, "view:sun_azimuth", "s2:mean_solar_azimuth")
    elevation = _angle(said, "view:sun_elevation")
    zenith = _angle(said, "s2:mean_solar_zenith")
    if elevation is None and zenith is not None:
        elevation = 90 - zenith
    return None if azimuth is None or elevation is None else (azimuth, elevation)


def _angle(said: Mapping[str, Any], *names: str) -> float | None:
    for value in map(said.get, names):
        if isinstance(value, int | float) and value is not True and -360 <= value <= 360:
            return float(value)
    return None


def _found(pattern: str, texts: Iterable[str]) -> Iterator[str]:
    """Yield the first group of each text that holds the pattern."""
    return (told[1] for text in texts if (told := re.search(pattern, text)))


def _times(texts: Iterable[str]) -> Iterator[datetime]:
    """Yield each text that is a time, in UTC."""
    for text in texts:
        try:
            time = datetime.fromisoformat(text)
            time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
        except (ValueError, OverflowError):
            continue
        if _TIME.fullmatch(text) and time.year in _YEARS:
            yield time
