"""Catalogue profiles as data, and the files of an item's bands. Imports `items` and `base`."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kappamask.base.bands import BANDS, BY_NAME, LEVELS, NAMES, get_band
from kappamask.base.errors import CatalogError, InputError, ItemError, UnknownNameError
from kappamask.scenes.items import View, is_address, view_of
from kappamask.scenes.scene import RAISED, BandFile, split_array

OFFSET_FROM = "04.00"  # the first processing baseline whose DN are raised by 1000
# Of an asset of an item that was made of a product: what the product itself says, per band.
TOLD_OFFSET = "kappamask:dn_offset"
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
    offset_flags: tuple[str, ...] = FLAGS  # properties, true: the offset is already subtracted
    signer: str | None = None  # module whose `sign(item)` makes the hrefs readable
    gdal_options: Mapping[str, str] = field(default_factory=dict)  # without credentials
    note: str = ""  # what a search that finds nothing should know

    def __post_init__(self) -> None:
        """Check that levels and bands are known."""
        for level, holding in self.levels.items():
            if level not in LEVELS:
                raise InputError(f"profile {self.name!r}: level must be L1C or L2A, got {level!r}")
            for band in holding.assets:
                get_band(band)

    def find_signer(self) -> Callable[[Any], Any]:
        """Find what makes the hrefs of items readable, before anything is searched.

        Raises
        ------
        CatalogError
            If the package that signs is not installed.
        """
        if not self.signer:
            return lambda item: item
        try:
            module = importlib.import_module(self.signer)
        except ImportError as error:
            raise CatalogError(
                f"catalogue {self.name!r} gives files out to signed requests only, which needs "
                f"another package ({error}): pip install 'kappamask[{self.name}]'"
            ) from None

        def sign(item: Any) -> Any:
            from requests import RequestException

            try:
                return module.sign(item)
            except RequestException as error:
                raise CatalogError(f"item {item.id} cannot be signed: {error}") from error

        return sign


ResolvedAsset = BandFile  # as it was called when it told less

# The table, read in real items (tests/scenes/test_catalogs.py); native resolution stands first.

_COMMON_NAMES = {name: (band.common_name,) for name, band in BY_NAME.items()}
_BAND_NAMES = {name: (name,) for name in BY_NAME}
_WITH_RESOLUTION = {
    name: tuple(dict.fromkeys(f"{name}_{gsd}m" for gsd in (band.gsd, 10, 20, 60)))
    for name, band in BY_NAME.items()
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
    # Assets are arrays of Zarr stores; scale and offset are in their attributes.
    Profile(
        "eopf",
        "https://stac.core.eopf.eodc.eu",
        {
            "L2A": Holding(("sentinel-2-l2a",), _WITH_RESOLUTION),
            "L1C": Holding(("sentinel-2-l1c",), _WITH_RESOLUTION),
        },
    ),
)
PROFILES: dict[str, Profile] = {profile.name: profile for profile in _TABLE}


def get_profile(name: str) -> Profile:
    """Look a catalogue profile up by name.

    Raises
    ------
    UnknownNameError
        If no profile has that name; the message lists them, and what else `search` takes.

    Examples
    --------
    >>> get_profile("earth-search").url
    'https://earth-search.aws.element84.com/v1'
    """
    if name not in PROFILES:
        choice = [*PROFILES, "a URL", "the path of a catalog.json", "or a folder of products"]
        raise UnknownNameError.of("catalogue", name, choice)
    return PROFILES[name]


def profile_of(item: Any) -> Profile:
    """Tell by which profile an item is read, wherever it comes from.

    Its asset keys decide; among profiles with the same keys the item's collection
    does, then the order of `PROFILES`. So an item of a static catalogue is read as Earth
    Search's if its assets are called ``blue``, as Copernicus' if ``B02_10m``...

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
    view = view_of(item)

    def match(profile: Profile) -> tuple[int, bool]:
        holding = profile.levels.get(view.level, Holding((), {}))
        bands = sum(any(key in view.assets for key in keys) for keys in holding.assets.values())
        return bands, view.collection in holding.collections

    best = max(PROFILES.values(), key=match)
    if match(best)[0] == 0:
        raise ItemError(
            f"item {view.id}: no asset has a key under which a catalogue keeps a Sentinel-2 band "
            f"(blue, B02, B02_10m...), got {', '.join(view.assets) or 'none'}: "
            "pass profile=Profile(...)"
        )
    return best


def resolve_assets(
    item: Any,
    bands: Sequence[str] | None = None,
    *,
    profile: Profile | None = None,
    dn_offset: int | None = None,
) -> dict[str, BandFile]:
    """Find the file of every band of an item, and what its numbers mean.

    The offset never comes from the item's own ``raster:bands`` scale and offset,
    which are wrong on many items. It is settled in this order:

    1. `dn_offset`, if the caller gives it;
    2. what the metadata of a product in a folder say (``kappamask:dn_offset`` of the asset);
    3. 0 if the publisher says that it has subtracted the offset
       (``earthsearch:boa_offset_applied`` is true);
    4. 0 below processing baseline 04.00, else -1000, for L1C as for L2A.

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
    dict of str to BandFile
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
    view = view_of(item)
    profile = profile or profile_of(view)
    if view.level not in profile.levels:
        raise ItemError(
            f"item {view.id} is {view.level}, which profile {profile.name!r} does not hold"
        )
    keys = profile.levels[view.level].assets
    wanted = [band.name for band in (BANDS if bands is None else map(get_band, bands))]
    found = {
        name: held[0]
        for name in BY_NAME
        if name in wanted and (held := [key for key in keys.get(name, ()) if key in view.assets])
    }
    absent = [name for name in bands or () if name not in found]
    if absent or not found:
        raise ItemError(
            f"item {view.id}: no asset for {', '.join(absent) or 'any band'} under profile "
            f"{profile.name!r}, got {', '.join(view.assets) or 'none'}: leave the band out, "
            "or pass profile=..."
        )
    hrefs = {name: _readable(*view.assets[key]) for name, key in found.items()}
    arrays = {name for name, href in hrefs.items() if split_array(href)}
    told: dict[str, int] = {}
    if dn_offset is None:  # layers that take no offset need no baseline, arrays tell their own
        told = {name: said for name, key in found.items() if (said := _told(view, key)) is not None}
        needed = any(name in NAMES for name in found if name not in arrays and name not in told)
        dn_offset = _dn_offset(view, profile) if needed else RAISED if arrays else 0
    resolved = {}
    for name, key in found.items():
        band, href = get_band(name), hrefs[name]
        if not is_address(href):
            raise ItemError(
                f"item {view.id}: asset {key!r} has no href that can be opened, got {href!r:.80}: "
                f"leave band {name} out"
            )
        offset = told.get(name, dn_offset) if band.is_reflectance else 0
        gsd = view.gsd(key) or float(band.gsd)
        resolved[name] = BandFile(
            band=name, key=key, href=href, dn_offset=offset, scale=1 / band.dn_scale, gsd=gsd
        )
    return resolved


def _readable(href: str, fields: Mapping[str, Any]) -> str:
    """Choose the address of an asset: its https alternate where a bucket wants keys that are not.

    Source: STAC extension alternate-assets 1.2.
    """
    alternate = fields.get("alternate")
    if not (href.startswith("s3://") and isinstance(alternate, Mapping)) or _has_keys():
        return href
    others = [other.get("href") for other in alternate.values() if isinstance(other, Mapping)]
    return next((o for o in others if isinstance(o, str) and o.startswith("https://")), href)


def _has_keys() -> bool:
    """Tell whether GDAL finds keys to buckets, or is told that none are needed."""
    told = (
        "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_NO_SIGN_REQUEST",
        "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    )  # fmt: skip
    file = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
    return any(map(os.environ.get, told)) or Path(file).expanduser().is_file()


def _told(view: View, key: str) -> int | None:
    said = view.assets[key][1].get(TOLD_OFFSET)
    if said is None or (type(said) is int and -10000 <= said <= 0):
        return said
    raise ItemError(
        f"item {view.id}: {TOLD_OFFSET} of asset {key!r} is an integer from -10000 to 0, got "
        f"{said!r:.40}: correct the item, or pass dn_offset=0 or dn_offset=-1000"
    )


def _dn_offset(view: View, profile: Profile) -> int:
    told = ((name, view.properties.get(name)) for name in profile.offset_flags)
    name, flag = next(((name, said) for name, said in told if said is not None), ("", None))
    if flag not in (None, True, False) or isinstance(flag, int) is not isinstance(flag, bool):
        raise ItemError(
            f"item {view.id}: {name} is true or false, got {flag!r:.40}: correct the item, or pass "
            "dn_offset=0 or dn_offset=-1000"
        )
    if flag is True:
        return 0
    baseline = view.baseline
    if len({one < OFFSET_FROM for one in view.baselines}) > 1:
        raise ItemError(
            f"item {view.id}: it tells several processing baselines, "
            f"{' and '.join(view.baselines)}, of which some raise DN by 1000 and some do not: "
            "pass dn_offset=0 or dn_offset=-1000"
        )
    if baseline < OFFSET_FROM:
        return 0
    if flag is False:
        raise ItemError(
            f"item {view.id}: it says that the offset of its baseline {baseline} is still in the "
            "pixels, which is wrong on some items of this collection: pass dn_offset=-1000, or "
            "dn_offset=0 if its smallest DN lie below 1000; or search catalog='earth-search'"
        )
    return -1000
