"""Search a STAC catalogue for Sentinel-2 items. Row 4: imports lower rows and pystac."""

from __future__ import annotations

import importlib
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import pystac
import shapely
from pystac.utils import make_absolute_href
from pystac_client import ItemSearch
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from requests import RequestException
from shapely.geometry import box, shape
from urllib3 import Retry

from kappamask.area import cut_at_antimeridian, parse_area
from kappamask.bands import check_level
from kappamask.catalogs import (
    PROFILES,
    Profile,
    baseline_of,
    generation_time,
    level_of,
    profile_of,
    sensing_time,
    tile_of,
)
from kappamask.errors import CatalogError, InputError, ItemError, NoItemsError, UnknownNameError

if TYPE_CHECKING:
    import os

    from shapely.geometry.base import BaseGeometry

logger = logging.getLogger(__name__)

PAGE = 200  # items a page; the catalogues allow 1000 or more, their gateways cut at some MB
ONE_PASS = timedelta(minutes=10)  # the next orbit sees a tile 100 minutes later at the earliest
SAME_FOOTPRINT = 0.05  # reprocessing moves footprints by up to 0.4 % in the items looked at


@dataclass(frozen=True)
class Connection:
    """How patiently a catalogue is asked."""

    timeout_s: float = 30.0  # to connect, and between two parts of an answer
    retries: int = 4  # after HTTP 429 and 5xx, time-outs and dropped connections
    backoff_s: float = 0.5  # before the second retry; doubles with each further one
    longest_wait_s: float = 60.0  # at most this is granted where Retry-After asks for more


CONNECTION = Connection()


def search(  # noqa: PLR0913 - the public contract
    area: Any,
    dates: Any,
    *,
    catalog: str | os.PathLike[str] | Profile = "earth-search",
    level: str = "L2A",
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
        shapely geometry; see `kappamask.area.parse_area`.
    dates
        ``"2024-06-01/2024-06-30"``, one day, month or year, an open span
        ``"../2024-06-30"``, or a pair of dates; see `parse_dates`. In UTC.
    catalog
        Name of a profile (`kappamask.catalogs.PROFILES`), a `Profile`, the URL of a
        STAC API or of a static catalogue, or the path of a static ``catalog.json``.
    level
        ``"L2A"`` or ``"L1C"``.
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
    kappamask.errors.InputError: a date is YYYY-MM-DD, ... got '2024-06-31': ...
    """
    if max_cloud_cover is not None and not 0 <= max_cloud_cover <= 100:
        raise InputError(f"max_cloud_cover is a percentage from 0 to 100, got {max_cloud_cover}")
    if max_items is not None and max_items < 1:
        raise InputError(f"max_items must be at least 1, got {max_items}: leave it out for all")
    query = Query(parse_area(area), parse_dates(dates), check_level(level), max_cloud_cover)
    location, profile = _locate(catalog, query.level)
    sign = _signer(profile)
    source = _Source(location, profile)
    kept, told = _sift(source.items(query), query, profile)
    if not kept and source.has_filter and max_cloud_cover is not None:
        # The server has left cloudy items out: look at them to say how cloudy they are.
        kept, told = _sift(source.items(query, filtered=False), query, profile)
    if not kept:
        note = f"; {profile.note}" if profile and profile.note else ""
        raise NoItemsError(
            f"no {level} item of catalogue {location} answers the search: {told}: "
            f"widen the dates, the area or max_cloud_cover{note}"
        )
    kept = sorted(drop_duplicates(kept), key=lambda item: (sensing_time(item), item.id))
    return [sign(item) for item in kept[:max_items]]


def drop_duplicates(items: Iterable[pystac.Item]) -> list[pystac.Item]:
    """Keep one version of each scene: the newest baseline, then the latest made.

    Versions of a scene are items of one satellite, tile and level within ten
    minutes; their times differ by milliseconds between reprocessings. A pass is
    sometimes delivered in two parts of one tile, when the downlink changed: an item
    that shows at least 5 % ground of its own is such a part and is kept.

    Parameters
    ----------
    items
        Items of any catalogues, in any order.

    Returns
    -------
    list of pystac.Item
        The kept ones, in the order given.

    Examples
    --------
    >>> square = shapely.geometry.mapping(box(11, 46, 12, 47))
    >>> time = datetime(2020, 3, 2, 10, 20, 21, tzinfo=UTC)
    >>> old, new = (
    ...     pystac.Item(f"S2A_MSIL2A_20200302T102021_{rest}", square, None, time, {})
    ...     for rest in ("N0214_R065_T32TPS_20200302T140838", "N0500_R065_T32TPS_20230618T173704")
    ... )
    >>> drop_duplicates([new, old]) == [new]
    True
    """
    items = list(items)
    superseded: dict[int, str] = {}  # id() of an item: its STAC id
    for _, versions in groupby(sorted(items, key=_scene), key=_scene):
        for one_pass in _passes(sorted(versions, key=sensing_time)):
            superseded |= {id(item): item.id for item in _superseded(one_pass)}
    if superseded:
        names = ", ".join(superseded.values())
        logger.info("left out %d older versions of scenes: %s", len(superseded), names)
    return [item for item in items if id(item) not in superseded]


def _scene(item: pystac.Item) -> tuple[str, str, str]:
    satellite = re.match(r"S2[A-Z](?=_)", item.id)
    name = satellite.group() if satellite else str(item.properties.get("platform")).lower()
    return name, tile_of(item) or "", level_of(item)


def _passes(items: list[pystac.Item]) -> Iterator[list[pystac.Item]]:
    """Split items sorted by time where the gap is longer than one pass over a tile."""
    start = 0
    for i in range(1, len(items) + 1):
        if i == len(items) or sensing_time(items[i]) - sensing_time(items[i - 1]) > ONE_PASS:
            yield items[start:i]
            start = i


def _superseded(versions: list[pystac.Item]) -> Iterator[pystac.Item]:
    if len(versions) < 2:
        return
    shown: BaseGeometry = shapely.Polygon()
    for item in sorted(versions, key=_newness, reverse=True):
        footprint = _footprint(item)
        if shown.is_empty or footprint.difference(shown).area > SAME_FOOTPRINT * footprint.area:
            shown = shown.union(footprint)
        else:
            yield item


def _newness(item: pystac.Item) -> tuple[str, datetime, str]:
    try:
        baseline = baseline_of(item)
    except ItemError:
        baseline = ""  # unknown: older than any that is known
    return baseline, generation_time(item) or datetime.min.replace(tzinfo=UTC), item.id


def _footprint(item: pystac.Item) -> BaseGeometry:
    # The geometry, not the bbox: boxes of tiles at the antimeridian span the globe.
    geometry = shape(item.geometry) if item.geometry else box(*(item.bbox or [0, 0, 0, 0]))
    geometry = cut_at_antimeridian(geometry)
    return geometry if geometry.is_valid else shapely.make_valid(geometry)


# --- what is asked for ---------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A span of time, half open: ``start <= time < end``; None is unbounded."""

    start: datetime | None
    end: datetime | None

    def __post_init__(self) -> None:
        """Check that the span is not empty and not everything."""
        if self.start is None and self.end is None:
            raise InputError("dates need a start or an end, got '../..': give at least one")
        if self.start and self.end and self.start >= self.end:
            raise InputError(f"dates run from early to late, got {self}: swap start and end")

    def __contains__(self, time: datetime) -> bool:
        """Tell whether a time lies in the span."""
        return (not self.start or self.start <= time) and (not self.end or time < self.end)

    def __str__(self) -> str:
        """Write the span as STAC's ``datetime`` wants it."""
        ends = (t.isoformat().replace("+00:00", "Z") if t else ".." for t in (self.start, self.end))
        return "/".join(ends)


@dataclass(frozen=True)
class Query:
    """What a search asks for, checked."""

    area: BaseGeometry  # polygons in degrees
    dates: Interval
    level: str  # "L1C" or "L2A"
    max_cloud_cover: float | None  # percent


def parse_dates(dates: Any) -> Interval:
    """Read a span of time; every date means all of it, in UTC.

    Parameters
    ----------
    dates
        ``"START/END"``, where each is a year, month, day or time and ``..`` leaves
        the span open; a single one of these; a `datetime.date` or
        `datetime.datetime`; or a pair ``(start, end)`` of any of these, None for open.

    Returns
    -------
    Interval
        From the start of the first to the end of the last.

    Raises
    ------
    InputError
        If a date is malformed, the end lies before the start, or both are open.

    Examples
    --------
    >>> str(parse_dates("2024-06"))
    '2024-06-01T00:00:00Z/2024-07-01T00:00:00Z'
    >>> str(parse_dates("../2024-06-30"))
    '../2024-07-01T00:00:00Z'
    """
    ends = dates
    if isinstance(dates, str):
        ends = dates.split("/")
    elif isinstance(dates, date):
        ends = [dates]
    if not isinstance(ends, tuple | list) or len(ends) not in (1, 2):
        raise InputError(
            f"dates are one date or a start and an end ('2024-06-01/2024-06-30'), got {dates!r}"
        )
    first, last = _span(ends[0]), _span(ends[-1])
    return Interval(first[0], last[1])


def _span(moment: Any) -> tuple[datetime | None, datetime | None]:
    if moment is None or moment in ("..", ""):
        return None, None
    try:
        if isinstance(moment, datetime):
            return _in_utc(moment), _in_utc(moment) + timedelta(microseconds=1)
        text = moment.isoformat() if isinstance(moment, date) else str(moment).strip()
        if re.fullmatch(r"\d{4}(-\d{2}){0,2}", text):
            return _calendar_span(*(int(part) for part in text.split("-")))
        start = _in_utc(datetime.fromisoformat(text))
        return start, start + timedelta(seconds=1) if not start.microsecond else start
    except (ValueError, OverflowError) as error:
        raise InputError(
            "a date is YYYY-MM-DD, YYYY-MM, YYYY or a time YYYY-MM-DDTHH:MM:SSZ, "
            f"got {moment!r}: {error}"
        ) from None


def _calendar_span(year: int, month: int = 0, day: int = 0) -> tuple[datetime, datetime]:
    start = datetime(year, month or 1, day or 1, tzinfo=UTC)
    if day:
        return start, start + timedelta(days=1)
    if month:
        return start, (start + timedelta(days=31)).replace(day=1)
    return start, start.replace(year=year + 1)


def _in_utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _sift(
    items: Iterable[pystac.Item], query: Query, profile: Profile | None
) -> tuple[list[pystac.Item], str]:
    """Keep what answers the query; tell how many items passed each condition."""
    most = query.max_cloud_cover
    conditions: list[tuple[str, Callable[[pystac.Item], bool]]] = [
        (f"are readable Sentinel-2 {query.level}", lambda i: _is_readable(i, query.level, profile)),
        ("show the area", lambda item: _shows(item, query.area)),
        (f"lie within {query.dates}", lambda item: sensing_time(item) in query.dates),
    ]
    kept = list(items)
    told = [f"{len(kept)} found"]
    for text, holds in conditions:
        kept = [item for item in kept if holds(item)]
        told.append(f"{len(kept)} {text}")
        if not kept:
            break
    if kept and most is not None:
        covers = [_cloud_cover(item) for item in kept]
        least = f" (the least has {min(covers):g} %)" if min(covers) <= 100 else ""
        kept = [item for item in kept if _cloud_cover(item) <= most]
        told.append(f"{len(kept)} have at most {most:g} % cloud{least}")
    return kept, ", ".join(told)


def _cloud_cover(item: pystac.Item) -> float:
    cover = item.properties.get("eo:cloud_cover")
    return float(cover) if isinstance(cover, int | float) else float("inf")  # untold: passes none


def _is_readable(item: pystac.Item, level: str, profile: Profile | None) -> bool:
    try:
        if level_of(item) != level:
            return False
        if profile is None:
            return bool(profile_of(item))
    except ItemError:
        return False
    held = profile.levels[level]
    return item.collection_id in (None, *held.collections) and any(
        key in item.assets for keys in held.assets.values() for key in keys
    )


def _shows(item: pystac.Item, area: BaseGeometry) -> bool:
    footprint = _footprint(item)
    return bool(footprint.intersects(area) and not footprint.touches(area))


# --- where it is looked for ----------------------------------------------------------------


def _locate(catalog: Any, level: str) -> tuple[str, Profile | None]:
    """Tell the URL or path of a catalogue, and its profile where that is known."""
    if isinstance(catalog, Profile):
        profile: Profile | None = catalog
    elif re.match(r"https?://", str(catalog)):
        same = [p for p in PROFILES.values() if p.url == str(catalog).rstrip("/")]
        profile = next((p for p in same if level in p.levels), None)
    else:
        profile = PROFILES.get(str(catalog))
    if profile is None:
        location = str(catalog)
        if not re.search(r"[/\\]|\.json$", location) and not Path(location).exists():
            error = UnknownNameError.of("catalogue", location, list(PROFILES))
            raise UnknownNameError(f"{error}, a URL, or the path of a catalog.json")
        return location, None
    if level not in profile.levels:
        holders = [p.name for p in PROFILES.values() if level in p.levels]
        raise InputError(
            f"catalogue {profile.name!r} holds no {level}, only {', '.join(profile.levels)}: "
            f"{level} is in {', '.join(holders)}"
        )
    return profile.url, profile


class _BoundedRetry(Retry):
    """Retries that wait as the server asks, but not for hours."""

    def get_retry_after(self, response: Any) -> float | None:
        wait = super().get_retry_after(response)
        return None if wait is None else min(wait, CONNECTION.longest_wait_s)


class _Source:
    """A STAC API or a static catalogue, opened."""

    def __init__(self, location: str, profile: Profile | None) -> None:
        self.location, self.profile = location, profile
        retry = _BoundedRetry(
            total=CONNECTION.retries,
            backoff_factor=CONNECTION.backoff_s,
            status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods=None,  # a search is a POST, and may be sent twice
            raise_on_status=False,  # the last answer tells the status
        )
        self.io = StacApiIO(max_retries=retry, timeout=CONNECTION.timeout_s)
        if not re.match(r"https?://", location) and Path(location).is_dir():
            self.location = str(Path(location) / "catalog.json")
        self.root = self._ask(self.location, self.io.read_json, self.location)
        if not isinstance(self.root, Mapping) or "stac_version" not in self.root:
            raise CatalogError(
                f"a catalogue is a STAC API or a catalog.json, but {self.location} is no STAC "
                "document: give the landing page of the API, or the catalog.json"
            )
        links = [link for link in self.root.get("links", ()) if link.get("rel") == "search"]
        self.search_link = next((x for x in links if x.get("method") == "POST"), (*links, None)[0])
        conforms = " ".join(self.root.get("conformsTo", ()))
        self.has_filter = (
            bool(re.search(r"item-search#filter", conforms))
            and "cql2-json" in conforms
            and (self.search_link or {}).get("method") == "POST"
        )

    def items(self, query: Query, *, filtered: bool = True) -> Iterator[pystac.Item]:
        """Yield what the catalogue holds, at least everything that answers the query."""
        if self.search_link is None:
            for href, document in self._walk(self.location, self.root, {self.location}):
                item = self._item(document, href)
                item.make_asset_hrefs_absolute()
                yield item
            return
        wanted: dict[str, Any] = {}
        if filtered and self.has_filter and query.max_cloud_cover is not None:
            cloud = [{"property": "eo:cloud_cover"}, query.max_cloud_cover]
            wanted = {"filter": {"op": "<=", "args": cloud}, "filter_lang": "cql2-json"}
        url = urljoin(self.location, self.search_link["href"])
        asked = ItemSearch(
            url,
            method=self.search_link.get("method", "GET"),
            stac_io=self.io,
            limit=PAGE,
            collections=self._collections(query.level),
            intersects=shapely.geometry.mapping(query.area),
            datetime=str(query.dates),
            **wanted,
        )
        for document in self._ask(url, lambda: list(_documents(asked))):
            yield self._item(document, None)

    def _collections(self, level: str) -> list[str] | None:
        """Tell which collections to search; None is all of them."""
        if self.profile:
            return list(self.profile.levels[level].collections)
        held = [profile.levels[level] for profile in PROFILES.values() if level in profile.levels]
        known = {name for holding in held for name in holding.collections}
        url = next((x["href"] for x in self.root.get("links", ()) if x.get("rel") == "data"), None)
        if url is None:
            return None
        url = urljoin(self.location, url)
        pages = self._ask(url, lambda: list(self.io.get_pages(url)))
        names = [found["id"] for page in pages for found in page.get("collections", ())]
        return [name for name in names if name in known] or None

    def _walk(
        self, href: str, document: Mapping[str, Any], seen: set[str]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for link in document.get("links", ()):
            target = make_absolute_href(link.get("href", ""), href)
            if link.get("rel") in ("item", "child") and target not in seen:
                seen.add(target)
                inner = self._ask(target, self.io.read_json, target)
                if link["rel"] == "item":
                    yield target, inner
                else:
                    yield from self._walk(target, inner, seen)

    def _item(self, document: dict[str, Any], href: str | None) -> pystac.Item:
        try:
            # pystac warns about extensions of old items that concern no pixel.
            with warnings.catch_warnings(action="ignore", category=UserWarning):
                return pystac.Item.from_dict(document, href=href, preserve_dict=False)
        except (
            pystac.STACError,
            pystac.STACTypeError,
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
        ) as error:
            name = href or document.get("id")
            raise CatalogError(
                f"{self.location} lists {name}, which is no STAC item: {error!r}"
            ) from None

    def _ask(self, href: str, ask: Callable[..., Any], *args: Any) -> Any:
        try:
            return ask(*args)
        except APIError as error:
            raise CatalogError(_refusal(href, error)) from error
        except FileNotFoundError:
            raise CatalogError(f"no catalogue file at {href}: check the path") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CatalogError(
                f"a STAC catalogue answers in JSON, but {href} cannot be read: {error!r}"
            ) from None


def _documents(asked: ItemSearch) -> Iterator[dict[str, Any]]:
    """Yield every item of every page once; end where a page brings nothing new."""
    seen: set[tuple[str, str]] = set()
    for page in asked.pages_as_dicts():
        new = [x for x in page["features"] if (x.get("collection"), x["id"]) not in seen]
        if not new:
            return  # a broken `next` link leads in circles
        seen |= {(x.get("collection"), x["id"]) for x in new}
        yield from new


def _refusal(href: str, error: APIError) -> str:
    """Say in one line why a catalogue did not answer, and what to do."""
    status, said = getattr(error, "status_code", None), " ".join(str(error).split())
    tries = f"{CONNECTION.retries + 1} tries"
    if status is None and "timed out" in said:
        return (
            f"no answer from {href} within {CONNECTION.timeout_s:g} s, in {tries}: try again "
            "later, or ask for fewer dates"
        )
    if status is None:
        return (
            f"the connection to {href} failed, retries included: check the address and the "
            f"network ({said[:200]})"
        )
    remedies = {
        401: "it wants an account: sign in there, or choose another catalogue",
        403: "it refuses access: it may want an account or another network",
        404: "there is nothing at this address: check it",
        429: f"too many requests, in {tries}: wait a few minutes, or ask for fewer dates",
    }
    remedy = remedies.get(status, f"the request was refused ({said[:200]})")
    if status >= 500:
        remedy = f"the server failed, in {tries}: try again later"
    return f"{href} answers HTTP {status}: {remedy}"


def _signer(profile: Profile | None) -> Callable[[pystac.Item], pystac.Item]:
    """Find what makes the hrefs of a catalogue readable, before anything is searched."""
    if profile is None or profile.signer is None:
        return lambda item: item
    try:
        module = importlib.import_module(profile.signer)
    except ImportError as error:
        raise CatalogError(
            f"catalogue {profile.name!r} gives files out to signed requests only, which needs "
            f"another package ({error}): pip install 'kappamask[{profile.name}]'"
        ) from None

    def sign(item: pystac.Item) -> pystac.Item:
        try:
            return module.sign(item)  # type: ignore[no-any-return]
        except RequestException as error:
            raise CatalogError(f"item {item.id} cannot be signed: {error}") from error

    return sign
