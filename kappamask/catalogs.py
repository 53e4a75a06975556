"""Catalogue profiles as data: which asset is which band, and what its numbers mean.

Row 1: imports `bands` and `errors` only. Items are duck-typed: a pystac.Item or its dict.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from urllib.parse import urljoin

from kappamask.bands import AUXILIARY, BANDS, LEVELS, get_band
from kappamask.errors import InputError, ItemError, UnknownNameError

OFFSET_FROM = "04.00"  # the first processing baseline whose DN are raised by 1000
FLAGS = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")


@dataclass(frozen=True)
class Holding:
    """What one catalogue holds of one processing level."""

    collections: tuple[str, ...]  # ids to search; a tile in two of them is kept once
    assets: Mapping[str, tuple[str, ...]]  # canonical band: its asset keys, the preferred one first


@dataclass(frozen=True)
class Profile:
    """How one catalogue is searched and its items are read.

    Build one for a catalogue whose asset keys are none of the known ones, and pass
    it to `search` and `resolve_assets`.

    Examples
    --------
    >>> keys = {"B02": ("b2",), "B03": ("b3",), "B04": ("b4",), "B08": ("b8",)}
    >>> mine = Profile("mine", "https://stac.example", {"L2A": Holding(("s2",), keys)})
    >>> mine.levels["L2A"].collections
    ('s2',)
    """

    name: str
    url: str  # landing page of the STAC API, or of a static catalogue
    levels: Mapping[str, Holding]  # "L1C", "L2A"
    # Item properties that tell whether the publisher has already subtracted the offset.
    offset_flags: tuple[str, ...] = FLAGS
    signer: str | None = None  # module whose `sign(item)` makes the hrefs readable
    # GDAL options that opening the hrefs needs, credentials aside.
    gdal_options: Mapping[str, str] = field(default_factory=dict)
    note: str = ""  # what a search that finds nothing should know

    def __post_init__(self) -> None:
        """Check that levels and bands are known."""
        for level, holding in self.levels.items():
            if level not in LEVELS:
                raise InputError(f"profile {self.name!r}: level must be L1C or L2A, got {level!r}")
            for band in holding.assets:
                get_band(band)


@dataclass(frozen=True)
class ResolvedAsset:
    """The file of one band, and what its digital numbers (DN) mean.

    The physical value is ``(dn + dn_offset) * scale``: reflectance (1.0 = 100 %),
    aerosol optical thickness (AOT) or water vapour in cm (WVP).
    """

    band: str  # canonical name
    key: str  # asset key in the item
    href: str  # as the item gives it; absolute where the item knows where it lies
    dn_offset: int  # added to the DN: 0 or -1000
    scale: float  # 1e-4 for reflectance, 1e-3 for AOT and WVP
    gsd: float  # pixel size of this file, metres
    nodata: int = 0  # DN that stands for no data, before the offset

    def __post_init__(self) -> None:
        """Check the numbers: a wrong one shifts every pixel of the cube."""
        if not isinstance(self.dn_offset, int) or not -10000 <= self.dn_offset <= 0:
            raise InputError(
                "dn_offset is the integer added to the DN, 0 or -1000, "
                f"got {self.dn_offset!r} for {self.band}"
            )
        if get_band(self.band).is_reflectance is False and self.dn_offset != 0:
            raise InputError(f"{self.band} takes no offset, got dn_offset={self.dn_offset}")
        if not self.href or not self.scale > 0 or not self.gsd > 0:
            raise InputError(f"an asset needs an href, a scale and a gsd above 0, got {self!r}")


# --- the table ---------------------------------------------------------------------------
# Read in real items (see tests/test_catalogs.py); keys of native resolution stand first.

_COMMON_NAMES = {band.name: (band.common_name,) for band in BANDS + AUXILIARY}
_BAND_NAMES = {band.name: (band.name,) for band in BANDS + AUXILIARY}
_WITH_RESOLUTION = {
    band.name: tuple(
        f"{band.name}_{gsd}m" for gsd in sorted((10, 20, 60), key=lambda g: (g != band.gsd, g))
    )
    for band in BANDS + AUXILIARY
}
_EARTH_SEARCH = "https://earth-search.aws.element84.com/v1"
_COPERNICUS_LEVELS = {
    "L2A": Holding(("sentinel-2-l2a",), _WITH_RESOLUTION),
    "L1C": Holding(("sentinel-2-l1c",), _BAND_NAMES),
}
_TABLE = (
    Profile(
        "earth-search",
        _EARTH_SEARCH,
        {
            # Collection 1, and what ESA had made before it as the same files and metadata.
            "L2A": Holding(("sentinel-2-c1-l2a", "sentinel-2-pre-c1-l2a"), _COMMON_NAMES),
            "L1C": Holding(("sentinel-2-l1c",), _COMMON_NAMES),
        },
        gdal_options={"AWS_REQUEST_PAYER": "requester"},  # its L1C: the reader pays
        note="its L2A has gaps in 2017, 2018 and 2022: try 'earth-search-sentinel-2-l2a'",
    ),
    Profile(
        "earth-search-sentinel-2-l2a",
        _EARTH_SEARCH,
        {"L2A": Holding(("sentinel-2-l2a",), _COMMON_NAMES)},
    ),
    Profile(
        "earth-search-v0",
        "https://earth-search.aws.element84.com/v0",
        {"L2A": Holding(("sentinel-s2-l2a-cogs",), _BAND_NAMES)},
        note="Earth Search v0 is retired: try 'earth-search'",
    ),
    Profile(
        "copernicus",
        "https://stac.dataspace.copernicus.eu/v1",
        _COPERNICUS_LEVELS,
        gdal_options={
            "AWS_S3_ENDPOINT": "eodata.dataspace.copernicus.eu",
            "AWS_VIRTUAL_HOSTING": "FALSE",
        },
    ),
    Profile(
        "planetary-computer",
        "https://planetarycomputer.microsoft.com/api/stac/v1",
        {"L2A": Holding(("sentinel-2-l2a",), _BAND_NAMES)},
        signer="planetary_computer",
    ),
    Profile("terrascope", "https://stac.terrascope.be", _COPERNICUS_LEVELS),
)
PROFILES: Mapping[str, Profile] = MappingProxyType({profile.name: profile for profile in _TABLE})


def get_profile(name: str) -> Profile:
    """Look a catalogue profile up by name.

    Raises
    ------
    UnknownNameError
        If no profile has that name; the message lists them.

    Examples
    --------
    >>> get_profile("earth-search").url
    'https://earth-search.aws.element84.com/v1'
    """
    try:
        return PROFILES[name]
    except (KeyError, TypeError):
        raise UnknownNameError.of("catalogue", str(name), list(PROFILES)) from None


def profile_of(item: Any) -> Profile:
    """Tell by which profile an item is read, wherever it comes from.

    Its asset keys decide; among profiles with the same keys the item's collection
    does, then the order of `PROFILES`. So an item of a static catalogue on disk is
    read by Earth Search's profile if its assets are called ``blue``, ``green``...,
    by Copernicus' if they are called ``B02_10m``...

    Raises
    ------
    ItemError
        If the item is no Sentinel-2 item of level L1C or L2A, or holds no asset
        under any known key.

    Examples
    --------
    >>> item = {"id": "x_L2A", "properties": {}, "assets": {"B04_10m": {"href": "B04.jp2"}}}
    >>> profile_of(item).name
    'copernicus'
    """
    view, level = _view(item), level_of(item)
    best, most = None, (0, False)
    for profile in PROFILES.values():
        if holding := profile.levels.get(level):
            bands = sum(any(key in view.assets for key in keys) for keys in holding.assets.values())
            if bands and (bands, view.collection in holding.collections) > most:
                best, most = profile, (bands, view.collection in holding.collections)
    if best is None:
        raise ItemError(
            f"item {view.id}: no asset has a key under which a catalogue keeps a Sentinel-2 band "
            f"(blue, B02, B02_10m...), got {_listed(view.assets)}: pass profile=Profile(...)"
        )
    return best


def resolve_assets(
    item: Any,
    bands: Sequence[str] | None = None,
    *,
    profile: Profile | None = None,
    dn_offset: int | None = None,
) -> dict[str, ResolvedAsset]:
    """Find the file of every band of an item, and what its numbers mean.

    The offset never comes from the item's own ``raster:bands`` scale and offset,
    which are wrong on many items. It is settled in this order:

    1. `dn_offset`, if the caller gives it;
    2. 0 if the publisher says that it has subtracted the offset
       (``earthsearch:boa_offset_applied`` is true);
    3. 0 below processing baseline 04.00, else -1000, for L1C as for L2A.

    In Earth Search's older collection ``sentinel-2-l2a`` the flag is false on some
    items at baseline 04.00 or later (seen in 2022 and 2025), and the pixels of some
    of those were shifted all the same (Element84/earth-search issues 66 and 71,
    cirrus-geo/cirrus-earth-search issue 33). Nothing in the item tells which, and a
    wrong guess shifts reflectance by 0.1, so such an item is an error that asks for
    `dn_offset`. A true flag has never been reported wrong.

    Parameters
    ----------
    item
        pystac.Item, or the dict of one.
    bands
        Canonical names; None means every reflectance band that the item holds.
        ``AOT`` and ``WVP`` have to be named.
    profile
        How to read the item; None means `profile_of` it.
    dn_offset
        What to add to the DN of reflectance bands: 0 or -1000.

    Returns
    -------
    dict of str to ResolvedAsset
        By canonical band name, in the order of the band table.

    Raises
    ------
    ItemError
        If the item is no readable Sentinel-2 item, lacks a named band (the message
        lists the assets it has), or does not tell its processing baseline.
    UnknownNameError
        If a name is no Sentinel-2 band.

    Examples
    --------
    >>> item = {
    ...     "id": "S2A_MSIL2A_20230611T101601_N0509_R065_T32TPS_20230611T162001",
    ...     "properties": {}, "assets": {"red": {"href": "B04.tif"}, "aot": {"href": "AOT.tif"}},
    ... }
    >>> asset = resolve_assets(item)["B04"]
    >>> asset.key, asset.dn_offset, asset.scale, asset.gsd
    ('red', -1000, 0.0001, 10.0)
    >>> resolve_assets(item, ["AOT"])["AOT"].dn_offset
    0
    """
    view, level = _view(item), level_of(item)
    profile = profile or profile_of(item)
    if level not in profile.levels:
        raise ItemError(f"item {view.id} is {level}, which profile {profile.name!r} does not hold")
    keys = profile.levels[level].assets
    wanted = None if bands is None else {get_band(name).name for name in bands}
    found: dict[str, str] = {}  # band: asset key
    for band in BANDS + AUXILIARY:
        key = next((key for key in keys.get(band.name, ()) if key in view.assets), None)
        if key and (band.is_reflectance if wanted is None else band.name in wanted):
            found[band.name] = key
    absent = [name for name in bands or () if name not in found]
    if absent or not found:
        raise ItemError(
            f"item {view.id}: no asset for {', '.join(absent) or 'any band'} under profile "
            f"{profile.name!r}, got {_listed(view.assets)}: leave the band out, or pass profile=..."
        )
    if dn_offset is None:  # layers that take no offset need no baseline
        any_reflectance = any(get_band(name).is_reflectance for name in found)
        dn_offset = _dn_offset(view, profile) if any_reflectance else 0
    return {name: _resolve(view, name, key, dn_offset) for name, key in found.items()}


def _resolve(view: _View, name: str, key: str, dn_offset: int) -> ResolvedAsset:
    band, (href, fields) = get_band(name), view.assets[key]
    if not href:
        raise ItemError(f"item {view.id}: asset {key!r} has no href: leave band {name} out")
    return ResolvedAsset(
        band=name,
        key=key,
        href=href,
        dn_offset=dn_offset if band.is_reflectance else 0,
        scale=1 / band.dn_scale,
        gsd=_gsd(href, fields) or float(band.gsd),
    )


def _gsd(href: str, fields: Mapping[str, Any]) -> float | None:
    # 1. the product's own file name (Copernicus' B07_60m says gsd 20), 2. gsd, 3. the grid
    if in_name := re.search(r"[_/]R?([126]0)m[_./][^/]*(?:/[^/]*)?$", href):
        return float(in_name.group(1))
    transform = fields.get("proj:transform") or [0]
    return float(fields.get("gsd") or abs(transform[0])) or None


def _dn_offset(view: _View, profile: Profile) -> int:
    flag = next((view.properties[f] for f in profile.offset_flags if f in view.properties), None)
    if flag is True:
        return 0
    baseline = baseline_of(view)
    if baseline < OFFSET_FROM:
        return 0
    if flag is False:
        raise ItemError(
            f"item {view.id}: it says that the offset of its baseline {baseline} is still in the "
            "pixels, which is wrong on some items of this collection: pass dn_offset=-1000, or "
            "dn_offset=0 if its smallest DN lie below 1000; or search catalog='earth-search'"
        )
    return -1000


# --- what an item says about itself --------------------------------------------------------


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
    view = _view(item)
    for text in _said(view, _TYPES, _PRODUCTS):
        if told := re.search(r"(?:MSI_?L?|^L|_L)([123](?:[ABC]p?)?)(?![0-9])", text):
            level = f"L{told.group(1)[:2]}"
            if level in LEVELS:
                return level
            if len(level) == 3 or level == "L3":
                raise ItemError(
                    f"item {view.id} is of level {level} ({text}): only Sentinel-2 products of "
                    "level L1C or L2A can be read"
                )
    if told := re.search(r"l(1c|2a)\b", view.collection or "", re.IGNORECASE):
        return f"L{told.group(1).upper()}"
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
    view = _view(item)
    stated = [str(view.properties[name]) for name in _BASELINES if view.properties.get(name)]
    named = [m.group(1) for t in _said(view, _PRODUCTS) if (m := re.search(r"_N(\d\d\.?\d\d)", t))]
    for text in stated + named:
        if told := re.fullmatch(r"(\d{1,2})\.?(\d\d)", text):
            baseline = f"{told.group(1).zfill(2)}.{told.group(2)}"
            if baseline != "99.99":
                return baseline
    got = f"got {(stated + named)[0]}" if stated + named else "it says nothing"
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
    view = _view(item)
    for text in _said(view, ("s2:mgrs_tile", "grid:code", "s2:tile"), _PRODUCTS):
        if told := re.search(r"(?:^|MGRS-|_)T?(\d{1,2}[C-X][A-Z]{2})(?=_|\.|$)", text):
            return told.group(1).zfill(5)
    for prefix in ("mgrs", "sentinel"):
        parts = [
            view.properties.get(f"{prefix}:{part}")
            for part in ("utm_zone", "latitude_band", "grid_square")
        ]
        if all(parts):
            return "".join(map(str, parts)).zfill(5)
    return None


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
    view = _view(item)
    for name in ("datetime", "start_datetime"):
        if time := _as_time(view.properties.get(name)):
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
    view = _view(item)
    for name in ("s2:generation_time", "sentinel2:generation_time", "processing:datetime"):
        if time := _as_time(view.properties.get(name)):
            return time
    for text in _said(view, _PRODUCTS):
        if told := re.search(r"_T\d{2}[A-Z]{3}_(\d{8}T\d{6})", text):
            return _as_time(told.group(1))
    return _as_time(view.properties.get("created"))


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


@dataclass(frozen=True)
class _View:
    """What this room reads of an item, be it a pystac.Item or a dict."""

    id: str
    collection: str | None
    properties: Mapping[str, Any]
    assets: Mapping[str, tuple[str, Mapping[str, Any]]]  # key: (href, other fields)


def _view(item: Any) -> _View:
    if isinstance(item, _View):
        return item
    if isinstance(item, Mapping):
        return _view_of_dict(item)
    assets = {
        key: (asset.get_absolute_href() or asset.href, asset.extra_fields)
        for key, asset in item.assets.items()
    }
    return _View(item.id, item.collection_id, {"datetime": item.datetime} | item.properties, assets)


def _view_of_dict(item: Mapping[str, Any]) -> _View:
    properties, assets = item.get("properties"), item.get("assets")
    if not (isinstance(properties, Mapping) and isinstance(assets, Mapping) and item.get("id")):
        inner = item.get("attributes", {}).get("stac_discovery", {})  # an EOPF Zarr store's root
        raise ItemError(
            f"item {item.get('id') or inner.get('id') or 'without an id'}: a STAC item has an id, "
            f"properties and assets, got {'a Zarr store' if 'members' in item else 'a document'} "
            f"with the keys {_listed(item)}: pass the STAC item"
        )
    own = next((link["href"] for link in item.get("links") or () if link.get("rel") == "self"), "")
    return _View(
        str(item["id"]),
        item.get("collection"),
        properties,
        {key: (urljoin(own, asset.get("href") or ""), asset) for key, asset in assets.items()},
    )


def _said(view: _View, *groups: Sequence[str]) -> Iterator[str]:
    """Yield what an item says under these properties, in order; "id" is its own id."""
    for name in (name for group in groups for name in group):
        if text := view.id if name == "id" else view.properties.get(name):
            yield str(text)


def _as_time(value: Any) -> datetime | None:
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(names) or "none"
