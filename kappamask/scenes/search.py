"""Search a STAC catalogue for Sentinel-2 items. Imports the modules of `scenes`, and pystac."""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pystac
import shapely
from shapely.geometry import box, shape
from shapely.geometry.base import BaseGeometry

from kappamask.base.bands import check_level
from kappamask.base.errors import InputError, ItemError, KappaMaskError, NoItemsError
from kappamask.scenes.area import AreaLike, cut_at_antimeridian, parse_area, tile_geometry
from kappamask.scenes.catalogs import PROFILES, Profile, get_profile, profile_of
from kappamask.scenes.dates import DatesLike, parse_dates
from kappamask.scenes.items import View, view_of
from kappamask.scenes.stac import Catalogue, Query, open_catalogue

if TYPE_CHECKING:
    from kappamask.scenes.folder import ProductFolder

logger = logging.getLogger(__name__)

ONE_PASS = timedelta(minutes=10)  # the next orbit sees a tile 100 minutes later at the earliest
# What is raised where a geometry is something else.
_NO_GEOMETRY = (
    ItemError, shapely.errors.ShapelyError, ArithmeticError, AttributeError, LookupError, TypeError,
    ValueError,
)  # fmt: skip
ENOUGH = 20  # items that are looked at to find out whether an area was meant the other way round
SAME_FOOTPRINT = 0.05  # reprocessing moves footprints by up to 0.4 % in the items looked at


def search(  # noqa: PLR0913  the public contract fixes the first six
    area: AreaLike | None,
    dates: DatesLike,
    *,
    catalog: str | os.PathLike[str] | Profile = "earth-search",
    level: str = "L2A",
    tile: str | None = None,
    max_cloud_cover: float | None = None,
    max_items: int | None = None,
) -> list[pystac.Item]:
    """Find the Sentinel-2 items that show an area in a span of time.

    Whatever the catalogue answers is checked again here, because some servers
    ignore parts of a request. Of several versions of a scene the newest is kept,
    see `drop_duplicates`.

    Parameters
    ----------
    area
        bbox ``(west, south, east, north)`` in degrees, GeoJSON geometry or file, or
        shapely geometry; see `kappamask.scenes.area.parse_area`. None: all of `tile`.
    dates
        ``"2024-06-01/2024-06-30"``, one day, month or year, an open span
        ``"../2024-06-30"``, or a pair of dates, in UTC; see `kappamask.scenes.dates.parse_dates`.
    catalog
        Name of a profile (`kappamask.scenes.catalogs.PROFILES`), a `Profile`, the URL of a
        STAC API or of a static catalogue, the path of a static ``catalog.json``, or a folder
        of SAFE and EOPF Zarr products.
    level
        ``"L2A"`` or ``"L1C"``.
    tile
        MGRS tile, ``"32TPS"``: items of it alone.
    max_cloud_cover
        Percent, 0-100, of the whole item; an item that does not tell its own is left
        out. None keeps all.
    max_items
        Keep so many, the earliest ones.

    Returns
    -------
    list of pystac.Item
        Sorted by time. Items of a static catalogue have absolute hrefs; items of
        Planetary Computer are signed, which lasts for about 45 minutes.

    Raises
    ------
    InputError
        If an argument breaks its rule.
    UnknownNameError
        If no profile has that name.
    NoItemsError
        If nothing is left; the message tells how many items passed each condition.
    CatalogError
        If the catalogue does not answer, refuses, or is no STAC catalogue.

    Examples
    --------
    >>> search((26.5, 58.3, 26.8, 58.4), "2024-06-31")
    Traceback (most recent call last):
    kappamask.base.errors.InputError: a date is YYYY-MM-DD, ... got '2024-06-31': ...
    """
    if max_cloud_cover is not None and not 0 <= max_cloud_cover <= 100:
        raise InputError(f"max_cloud_cover is a percentage from 0 to 100, got {max_cloud_cover}")
    if max_items is not None and max_items < 1:
        raise InputError(f"max_items must be at least 1, got {max_items}: leave it out for all")
    shown = tile_geometry(tile) if area is None and tile else parse_area(area)
    wanted = None if tile is None else tile.strip().upper().removeprefix("MGRS-").removeprefix("T")
    query = Query(shown, parse_dates(dates), check_level(level), max_cloud_cover, wanted)
    location, profile = _locate(catalog, level)
    sign = profile.find_signer() if profile else None
    opened = open_catalogue(location, profile)
    kept, told = _sift(opened.items(query), query, profile)
    if not kept and opened.has_filter and max_cloud_cover is not None:
        # The server has left cloudy items out: look at them to say how cloudy they are.
        kept, told = _sift(opened.items(replace(query, max_cloud_cover=None)), query, profile)
    if not kept:
        note = f"; {profile.note}" if profile and profile.note else ""
        remedy = "widen the dates, the area or max_cloud_cover"
        if tile is None and _answers_swapped(opened, query, profile):
            remedy = "swap longitude and latitude: the other way round there are items"
        raise NoItemsError(
            f"no {level} item of catalogue {location} answers the search: {told}: {remedy}{note}"
        )
    kept = sorted(drop_duplicates(kept), key=lambda view: (view.time, view.id))
    items = [view.item for view in kept[:max_items]]
    return [sign(item) for item in items] if sign else items


def _answers_swapped(
    opened: Catalogue | ProductFolder, query: Query, profile: Profile | None
) -> bool:
    """Tell whether a search that found nothing finds something with latitude first."""
    west, south, east, north = query.area.bounds
    if max(abs(west), abs(east)) > 90 or (west, east) == (south, north):
        return False
    area = shapely.transform(query.area, lambda points: points[:, ::-1])
    swapped = replace(query, area=area, max_cloud_cover=None)
    with suppress(KappaMaskError):
        return bool(_sift(islice(opened.items(swapped), ENOUGH), swapped, profile)[0])
    return False


def _locate(catalog: Any, level: str) -> tuple[str, Profile | None]:
    """Tell the URL or path of a catalogue, and its profile where that is known."""
    location = str(catalog)
    profile: Profile | None
    if isinstance(catalog, Profile):
        profile = catalog
    elif location not in PROFILES and (
        re.search(r"[/\\]|\.json$", location) or Path(location).exists()
    ):
        same = [p for p in PROFILES.values() if p.url == location.rstrip("/")]
        profile = next((p for p in same if level in p.levels), None)
    else:
        profile = get_profile(location)
    if profile is None:
        return location, None
    if level not in profile.levels:
        holders = [p.name for p in PROFILES.values() if level in p.levels]
        raise InputError(
            f"catalogue {profile.name!r} holds no {level}, only {', '.join(profile.levels)}: "
            f"{level} is in {', '.join(holders)}"
        )
    return profile.url, profile


# --- what answers the query ----------------------------------------------------------------


def _sift(
    items: Iterable[pystac.Item], query: Query, profile: Profile | None
) -> tuple[list[View], str]:
    """Keep what answers the query; tell how many items passed each condition."""
    most = query.max_cloud_cover
    conditions: list[tuple[str, Callable[[View], bool]]] = [
        (f"are readable Sentinel-2 {query.level}", lambda v: _is_readable(v, query.level, profile)),
        ("show the area", lambda view: _shows(view, query.area)),
        (f"lie within {query.dates}", lambda view: view.time in query.dates),
    ]
    if query.tile:
        conditions.append((f"are of tile {query.tile}", lambda view: view.tile == query.tile))
    kept = [view_of(item) for item in items]
    told = [f"{len(kept)} found"]
    for text, holds in conditions:
        kept = [view for view in kept if holds(view)]
        told.append(f"{len(kept)} {text}")
        if not kept:
            break
    if kept and most is not None:
        least = min(map(_cloud_cover, kept))
        kept = [view for view in kept if _cloud_cover(view) <= most]
        seen = f" (the least has {least:g} %)" if least <= 100 else ""
        told.append(f"{len(kept)} have at most {most:g} % cloud{seen}")
    return kept, ", ".join(told)


def _cloud_cover(view: View) -> float:
    cover = view.properties.get("eo:cloud_cover")
    if isinstance(cover, int | float) and 0 <= cover <= 100:
        return float(cover)
    return float("inf")  # untold: passes none


def _is_readable(view: View, level: str, profile: Profile | None) -> bool:
    try:
        if view.level != level:
            return False
        if profile is None:
            return bool(profile_of(view))
    except ItemError:
        return False
    held = profile.levels[level]
    return view.collection in (None, *held.collections) and any(
        key in view.assets for keys in held.assets.values() for key in keys
    )


def _shows(view: View, area: BaseGeometry) -> bool:
    try:
        footprint = _footprint(view)
    except _NO_GEOMETRY:
        logger.warning("left out item %s: its geometry is no GeoJSON surface in degrees", view.id)
        return False
    return bool(footprint.intersects(area) and not footprint.touches(area))


def _footprint(view: View) -> BaseGeometry:
    # The geometry, not the bbox: boxes of tiles at the antimeridian span the globe.
    geometry = shape(view.footprint) if view.geometry else box(*(view.item.bbox or [0, 0, 0, 0]))
    return shapely.make_valid(cut_at_antimeridian(geometry))


# --- versions of one scene -----------------------------------------------------------------


def drop_duplicates(items: Iterable[Any]) -> list[Any]:
    """Keep one version of each scene, of pystac Items: the newest baseline, then the latest made.

    Versions of a scene are items of one satellite, tile and level within ten
    minutes; their times differ by milliseconds between reprocessings. A pass is
    sometimes delivered in two parts of one tile, when the downlink changed: an item
    that shows at least 5 % ground of its own is such a part and is kept.
    What is kept stays in the order given.
    """
    items = list(items)
    views = dict(enumerate(map(view_of, items)))
    kept: dict[tuple[str, ...], list[tuple[datetime, BaseGeometry]]] = defaultdict(list)
    superseded: dict[int, str] = {}  # index of an item: its id
    for index, view in sorted(views.items(), key=lambda pair: _newness(pair[1]), reverse=True):
        seen, footprint = kept[_subject(view)], _footprint(view)
        same_pass = [ground for when, ground in seen if abs(when - view.time) <= ONE_PASS]
        own = footprint.difference(shapely.union_all(same_pass))
        if same_pass and own.area <= SAME_FOOTPRINT * footprint.area:
            superseded[index] = view.id
        else:
            seen.append((view.time, footprint))
    if superseded:
        names = ", ".join(superseded.values())
        logger.info("left out %d older versions of scenes: %s", len(superseded), names)
    return [item for index, item in enumerate(items) if index not in superseded]


def _subject(view: View) -> tuple[str, ...]:
    """Tell what a version of a scene shows: the satellite, the tile and the level."""
    satellite = re.match(r"S2[A-Z](?=_)", view.id)
    name = satellite.group() if satellite else str(view.properties.get("platform")).lower()
    return name, view.tile or "", view.level


def _newness(view: View) -> tuple[str, datetime, str, float]:
    baseline = view.baselines[0] if view.baselines else ""  # unknown: older than any that is known
    made = view.made or datetime.min.replace(tzinfo=UTC)
    # The time only settles ties: one product, as two catalogues tell it.
    return baseline, made, view.id, -view.time.timestamp()
