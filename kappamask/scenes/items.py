"""What a STAC item says about itself, be it a pystac.Item or its dict. Imports `base` only."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from typing import Any, TypeGuard
from urllib.parse import urljoin, urlsplit

import numpy as np

from kappamask.base.bands import LEVELS
from kappamask.base.errors import InputError, ItemError
from kappamask.base.files import is_nested_deeper
from kappamask.base.windows import MOST_PIXELS

# Where the catalogues say the same thing, the most trustworthy first; "id" is the item's own.
DEEPEST = 100  # lists and objects in one another; what copies items goes down by calls
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
_TIMES = ("datetime", "start_datetime")
_GENERATED = ("s2:generation_time", "sentinel2:generation_time", "processing:datetime")
_YEARS = range(1970, 2200)  # times that a cube can hold to the nanosecond, with room to spare
_TIME = re.compile(r"\d{4}-?\d\d-?\d\d(?:[T ].*)?", re.ASCII)  # no number of seconds since 1970
_EPSG = re.compile(r"(?:EPSG:+)?(\d{4,6})(?:\.0)?", re.ASCII)
_FARTHEST = 1e8  # metres, twice around the equator and more


@dataclass(frozen=True)
class View:
    """What is read of an item, be it a pystac.Item or a dict.

    Examples
    --------
    >>> item = {"id": "S2B_24MVV_20250731_0_L1C", "properties": {}, "assets": {}}
    >>> view_of(item).level, view_of(item).tile
    ('L1C', '24MVV')
    """

    id: str
    collection: str | None
    properties: Mapping[str, Any]
    assets: Mapping[str, tuple[str, Mapping[str, Any]]]  # key: (href, other fields)
    geometry: Any
    item: Any  # what is viewed

    @cached_property
    def level(self) -> str:
        """The processing level, ``"L1C"`` or ``"L2A"``.

        Read from the product type, then the processing level, then the product id, then the
        item's id and collection. An item of another level (a Level-3 mosaic), or one that does
        not tell, is an `ItemError`.
        """
        for text in self._said(_TYPES + _PRODUCTS):
            if told := re.search(r"(?:MSI_?L?|^L|_L)([123][ABC]|3)(?![0-9])", text):
                level = f"L{told[1]}"
                if level not in LEVELS:
                    raise ItemError(
                        f"item {self.id} is of level {level} ({text}): only Sentinel-2 products "
                        "of level L1C or L2A can be read"
                    )
                return level
        if told := re.search(r"l(1c|2a)\b", self.collection or "", re.IGNORECASE):
            return f"L{told[1].upper()}"
        raise ItemError(
            f"item {self.id}: nothing tells that it is Sentinel-2 of level L1C or L2A "
            "(s2:product_type, product id or collection): it cannot be read"
        )

    @cached_property
    def baselines(self) -> list[str]:
        """Every processing baseline that the item tells, the most trustworthy first.

        Read from the properties of the catalogues, then from the product id (``_N0400_``).
        99.99 is none: made outside ESA's processing, where it says nothing about the offset.
        """
        told = [re.fullmatch(r"(\d{1,2})\.?(\d\d)", t.strip(), re.ASCII) for t in self._versions]
        return [f"{t[1].zfill(2)}.{t[2]}" for t in told if t and t.groups() != ("99", "99")]

    @property
    def baseline(self) -> str:
        """The processing baseline, such as ``"04.00"``; an `ItemError` if it is not known."""
        if self.baselines:
            return self.baselines[0]
        got = f"got {self._versions[0]}" if self._versions else "it says nothing"
        raise ItemError(
            f"item {self.id}: its processing baseline is unknown ({got}), and with it whether its "
            "DN are raised by 1000: pass dn_offset=0 or dn_offset=-1000"
        )

    @cached_property
    def _versions(self) -> list[str]:
        named = _found(r"_N(\d\d\.?\d\d)", self._said(_PRODUCTS))
        return [*self._said(_BASELINES), *named]

    @cached_property
    def tile(self) -> str | None:
        """The MGRS tile, such as ``"01VCC"``; None where the item names none."""
        said = [*self._said(("s2:mgrs_tile", "grid:code", "s2:tile", *_PRODUCTS))]
        for prefix in ("mgrs", "sentinel"):
            parts = ("utm_zone", "latitude_band", "grid_square")
            said.append("".join(self._said(f"{prefix}:{part}" for part in parts)))
        tile = next(_found(r"(?:^|MGRS-|_)T?(\d{1,2}[C-X][A-Z]{2})(?=_|\.|$)", said), None)
        return tile and tile.zfill(5)

    @cached_property
    def time(self) -> datetime:
        """When the scene was sensed, in UTC; an `ItemError` where the item does not tell."""
        said = [*self._said(_TIMES)]
        for time in _times(said):
            return time
        raise ItemError(
            f"item {self.id}: neither datetime nor start_datetime is a time from {_YEARS[0]} on, "
            f"got {', '.join(said) or 'neither':.80}: correct the item"
        )

    @cached_property
    def made(self) -> datetime | None:
        """When the product was made, in UTC; None where the item does not tell."""
        named = _found(r"_T\d{2}[A-Z]{3}_(\d{8}T\d{6})", self._said(_PRODUCTS))
        said = (*self._said(_GENERATED), *named, *self._said(("created",)))
        return next(_times(said), None)

    @property
    def sun(self) -> tuple[float, float] | None:
        """Azimuth (from north) and elevation of the sun, degrees; None where it is not told."""
        azimuth = self._angle("view:sun_azimuth", "s2:mean_solar_azimuth")
        elevation, zenith = (
            self._angle(name) for name in ("view:sun_elevation", "s2:mean_solar_zenith")
        )
        if elevation is None and zenith is not None:
            elevation = 90 - zenith
        return None if azimuth is None or elevation is None else (azimuth, elevation)

    @property
    def href(self) -> str | None:
        """Where the item itself lies; an `ItemError` if a pystac.Item links to a number."""
        document = self.item
        if not isinstance(document, Mapping):
            try:
                document = document.to_dict(include_self_link=True, transform_hrefs=False)
            except (AttributeError, TypeError, ValueError) as error:
                raise ItemError(
                    f"item {self.id}: it must be a document of JSON, got {error}: correct its links"
                ) from error
        links = _links_of(document)
        return links.get("self") or links.get("canonical")

    @property
    def footprint(self) -> Any:
        """The GeoJSON geometry, if it is one: a surface in degrees; else an `ItemError`."""
        if not _is_surface(self.geometry):
            raise ItemError(
                f"item {self.id}: its geometry is a GeoJSON surface in degrees, got "
                f"{self.geometry!r:.80}: correct the item or leave it out"
            )
        return self.geometry

    def gsd(self, key: str) -> float | None:
        """Tell the pixel size of an asset, metres; None where nothing tells it."""
        # 1. the product's own file name (Copernicus' B07_60m says gsd 20), 2. gsd, 3. the grid
        href, fields = self.assets[key]
        if told := re.search(r"[_/][Rr]?([126]0)m[_./][^/]*(?:/[^/]*)?$", href):
            return float(told[1])
        transform = fields.get("proj:transform")
        steps = [fields.get("gsd"), *(transform[:1] if isinstance(transform, list | tuple) else ())]
        return next((float(step) for step in steps if _is_number(step) and 0 < step < 1e4), None)

    def place(self, key: str) -> dict[str, Any]:
        """Tell where the pixels of an asset lie, in the words of `BandFile`, as far as it tells.

        The asset's own fields of the projection extension count before the item's.

        Raises
        ------
        ItemError
            If its CRS is none that PROJ knows, or it describes no grid whose north is up.
        """
        fields = {**self.properties, **self.assets[key][1]}
        where = f"item {self.id}, asset {key!r}"
        code = fields.get("proj:code") or fields.get("proj:epsg")
        code = code or _code_of(fields.get("proj:wkt2"))
        told = _EPSG.fullmatch(str(code).strip().upper())
        epsg = int(told[1]) if told else None
        shape, transform = fields.get("proj:shape") or None, fields.get("proj:transform") or None
        for got, holds, rule in (
            (code, _is_known(epsg), "proj:code is that of a reference system of EPSG (EPSG:32632)"),
            (shape, _is_shape(shape), "proj:shape is rows and columns, whole numbers above 0"),
            (
                transform,
                _is_transform(transform),
                "proj:transform is (step, 0, left, 0, -step, top) in metres, with north up",
            ),
        ):
            if got and not holds:
                raise ItemError(
                    f"{where}: {rule}, got {got!r:.80}: correct the item or leave it out"
                )
        if shape is None or transform is None:
            return {"epsg": epsg}
        (step, _, left, _, _, top), (height, width) = transform[:6], shape
        grid = {"gsd": step, "left": left, "top": top, "height": height, "width": width}
        return {"epsg": epsg, **grid}

    def _said(self, names: Iterable[str]) -> Iterator[str]:
        """Yield what the item says under these properties, in order; "id" is its own id."""
        for name in names:
            said = self.id if name == "id" else self.properties.get(name)
            if said and isinstance(said, str | int | float | datetime) and said is not True:
                yield str(said)

    def _angle(self, *names: str) -> float | None:
        values = map(self.properties.get, names)
        return next((float(v) for v in values if _is_number(v) and -360 <= v <= 360), None)


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
    collection = _text(item.collection_id)
    return View(str(item.id), collection, properties, assets, item.geometry, item)


def _href_of(asset: Any) -> str:
    if not isinstance(asset.href, str):
        return ""
    try:
        return asset.get_absolute_href() or asset.href
    except ValueError:  # no address; whoever opens it says so
        return asset.href


def _view_of_dict(item: Mapping[str, Any]) -> View:
    if is_nested_deeper(item, DEEPEST):
        raise ItemError(
            f"item {item.get('id')}: a STAC item is nested at most {DEEPEST} times, got more: "
            "leave it out"
        )
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
    own = _links_of(item).get("self") or ""
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


def _links_of(item: Mapping[str, Any]) -> dict[str, str]:
    """List the addresses that an item links to by what they are to it, the first of each."""
    links = item.get("links")
    found: dict[str, str] = {}
    for link in links if isinstance(links, list | tuple) else ():
        if isinstance(link, Mapping) and _text(link.get("rel")) and _text(link.get("href")):
            found.setdefault(link["rel"], link["href"])
    return found


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


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


@cache
def _is_known(epsg: int | None) -> bool:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        return epsg is not None and bool(CRS.from_epsg(epsg))
    except CRSError:
        return False


def _code_of(wkt: Any) -> int | None:
    """Find the EPSG code of a CRS that is written out; None where it has none."""
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        code = CRS.from_wkt(wkt).to_epsg() if isinstance(wkt, str) else None
    except CRSError:
        return None
    return code


def _is_shape(shape: Any) -> bool:
    sized = isinstance(shape, list | tuple) and len(shape) == 2
    return sized and all(type(size) is int and 0 < size <= MOST_PIXELS for size in shape)


def _is_transform(transform: Any) -> bool:
    if not isinstance(transform, list | tuple) or len(transform) not in (6, 9):
        return False
    if not all(_is_number(value) and abs(value) < _FARTHEST for value in transform):
        return False
    a, b, _, d, e, _ = transform[:6]
    return bool(b == d == 0 and a > 1e-6 and abs(a + e) <= 1e-6 * a)


def _is_surface(geometry: Any) -> bool:
    """Tell whether a GeoJSON geometry is an area on the globe."""
    from shapely import get_coordinates
    from shapely.errors import ShapelyError
    from shapely.geometry import shape

    try:
        with np.errstate(invalid="ignore"):  # a corner that is NaN
            found = shape(geometry)
        is_whole = np.isfinite(get_coordinates(found)).all() and found.area > 0
        bounds = found.bounds if is_whole else ()
    except (ShapelyError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return False
    limits = (360, 90, 360, 90)
    return bool(bounds) and all(
        math.isfinite(edge) and abs(edge) <= most for edge, most in zip(bounds, limits, strict=True)
    )


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
