"""A STAC API or a static catalogue, read with patience. Imports `catalogs`, `base` and pystac."""

from __future__ import annotations

import json
import logging
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import pystac
import shapely
from pystac.utils import make_absolute_href
from pystac_client import ItemSearch
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from requests import ConnectionError as LostConnection
from requests import Timeout
from requests.exceptions import ChunkedEncodingError

from kappamask.base.errors import CatalogError, KappaMaskError
from kappamask.base.files import NestedError, is_nested_deeper, read_json
from kappamask.base.retry import (
    CATALOGUES,
    GUARD,
    PASSING,
    guard_session,
    seconds_asked,
    without_query,
)
from kappamask.scenes.catalogs import PROFILES, Profile
from kappamask.scenes.items import DEEPEST

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

    from kappamask.scenes.dates import Interval
    from kappamask.scenes.folder import ProductFolder

logger = logging.getLogger(__name__)

PAGE = 200  # items a page; the catalogues allow 1000 or more, their gateways cut at some MB
MOST_PAGES = 1000  # of one search
MOST_ITEMS = 100_000  # of one search
MOST_DOCUMENTS = 10_000  # catalogues and collections of a static catalogue
MOST_LEVELS = 20  # of its children below one another
MOST_BYTES = 64 * 2**20  # of one answer, unpacked
LONGEST_S = 300.0  # from the first byte of an answer to its last
BARREN_PAGES = 10  # in a row without anything new: some servers filter after they cut pages
_LOST = (LostConnection, Timeout, ChunkedEncodingError)
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError)  # reading JSON of another shape


@dataclass(frozen=True)
class Query:
    """What a search asks for, checked."""

    area: BaseGeometry  # polygons in degrees
    dates: Interval
    level: str  # "L1C" or "L2A"
    max_cloud_cover: float | None  # percent
    tile: str | None = None  # MGRS, "32TPS": looked at here, catalogues call it differently


class Catalogue:
    """A STAC API or a static catalogue, opened.

    Raises
    ------
    CatalogError
        Here and in `items`: if it does not answer, refuses, or is no STAC catalogue.
    """

    def __init__(self, location: str, profile: Profile | None) -> None:
        self.location, self.profile = location, profile
        self.io, self.guard = _PatientIO(), GUARD.get()
        guard_session(self.io.session)
        if Path(location).is_dir():
            self.location = str(Path(location) / "catalog.json")
        self.root = self._read(self.location)
        if not isinstance(self.root, Mapping) or "stac_version" not in self.root:
            raise CatalogError(
                f"a catalogue is a STAC API or a catalog.json, but {self.location} is no STAC "
                "document: give the landing page of the API, or the catalog.json"
            )
        self.search_link = max(
            self._links("search"), key=lambda link: link.get("method") == "POST", default={}
        )
        conforms = " ".join(self.root.get("conformsTo", ()))
        self.has_filter = (
            "item-search#filter" in conforms
            and "cql2-json" in conforms
            and self.search_link.get("method") == "POST"
        )

    def items(self, query: Query) -> Iterator[pystac.Item]:
        """Yield what the catalogue holds, at least everything that answers the query."""
        if not self.search_link:
            yield from self._walk()
            return
        wanted: dict[str, Any] = {}
        if self.has_filter and query.max_cloud_cover is not None:
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
        for document in self._entries("features", url, str(asked.method), asked.get_parameters()):
            if item := self._item(document, None):
                yield item

    def _entries(
        self, kind: str, url: str, method: str = "GET", parameters: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Collect what all pages hold, each entry once; `kind` is what a page calls them.

        The last one counts of several that say the same id: its page came later.
        """
        found: dict[tuple[str | None, str], dict[str, Any]] = {}
        with _named(url):
            page = self.io.read_json(url, method=method, parameters=parameters)
            followed, barren = set(), 0
            for _ in range(MOST_PAGES):
                before = len(found)
                found |= {(entry.get("collection"), entry["id"]): entry for entry in page[kind]}
                if len(found) > MOST_ITEMS:
                    break
                barren = 0 if len(found) > before else barren + 1
                links = page.get("links") or ()
                link = next((link for link in links if link["rel"] == "next"), None)
                if link is None:
                    return list(found.values())
                said = json.dumps(link, sort_keys=True)
                if said in followed or barren == BARREN_PAGES:
                    logger.warning(
                        "%s repeats its pages or adds nothing to them: %d %s were found, it may "
                        "hold more",
                        url,
                        len(found),
                        kind,
                    )
                    return list(found.values())
                followed.add(said)
                following = pystac.Link.from_dict(link | {"href": urljoin(url, link["href"])})
                page = self.io.read_json(following, parameters=parameters)
        raise CatalogError(
            f"{url} gave {MOST_PAGES} pages or {MOST_ITEMS} {kind} without an end: ask for a "
            "smaller area or fewer dates"
        )

    def _collections(self, level: str) -> list[str] | None:
        """Tell which collections to search; None is all of them."""
        if self.profile:
            return list(self.profile.levels[level].collections)
        held = [profile.levels[level] for profile in PROFILES.values() if level in profile.levels]
        known = {name for holding in held for name in holding.collections}
        names: list[str] = []
        for url in (urljoin(self.location, link["href"]) for link in self._links("data")):
            names += [found["id"] for found in self._entries("collections", url)]
        return [name for name in names if name in known] or None

    def _links(self, rel: str) -> list[dict[str, Any]]:
        return _links_of(self.root, self.location, rel)

    def _walk(self) -> Iterator[pystac.Item]:
        """Yield every item below the root."""
        pending, seen = [(self.location, self.root, 0)], {self.location}
        documents = items = 0
        while pending:
            href, document, depth = pending.pop()
            for link in _links_of(document, href, "item", "child"):
                target = make_absolute_href(link.get("href", ""), href)
                if target in seen:
                    continue
                seen.add(target)
                if link["rel"] == "item":
                    items += 1
                else:
                    documents += 1
                if depth == MOST_LEVELS or documents > MOST_DOCUMENTS or items > MOST_ITEMS:
                    raise CatalogError(
                        f"a static catalogue has at most {MOST_LEVELS} levels, {MOST_DOCUMENTS} "
                        f"catalogues and {MOST_ITEMS} items, {self.location} has more, at "
                        f"{target}: give a catalog.json further down"
                    )
                if link["rel"] != "item":
                    pending.append((target, self._read(target), depth + 1))
                elif item := self._read_item(target):
                    yield item

    def _read_item(self, href: str) -> pystac.Item | None:
        """Read an item of a static catalogue; None if it is nested too deeply."""
        try:
            document = self._read(href)
        except CatalogError as error:
            if not isinstance(error.__cause__, NestedError):
                raise
            logger.warning("left out %s: it is nested too deeply", href)
            return None
        return self._item(document, href)

    def _read(self, href: str) -> Any:
        if self.guard and not href.startswith(("http://", "https://")):
            raise CatalogError(f"a catalogue links http(s) addresses here, got {href[:80]!r}")
        with _named(href):
            if href.startswith(("http://", "https://")):
                return self.io.read_json(href)
            return read_json(Path(href.removeprefix("file://")))

    def _item(self, document: dict[str, Any], href: str | None) -> pystac.Item | None:
        if is_nested_deeper(document, DEEPEST):
            name = href or str(document.get("id"))
            logger.warning("left out %s: it is nested too deeply", name)
            return None
        try:
            # pystac warns about extensions of old items that concern no pixel.
            with warnings.catch_warnings(action="ignore", category=UserWarning):
                item = pystac.Item.from_dict(document, href=href, preserve_dict=False)
            if href:  # of a static catalogue
                item.make_asset_hrefs_absolute()
        except (pystac.STACError, pystac.STACTypeError, ArithmeticError, *_MALFORMED) as error:
            raise CatalogError(
                f"{self.location} lists {href or document.get('id')}, which is no STAC item: "
                f"{error!r}"
            ) from None
        return item


def open_catalogue(location: str, profile: Profile | None) -> Catalogue | ProductFolder:
    """Open what a search may look through: a STAC API, a static catalogue, a folder of products.

    Raises
    ------
    CatalogError
        As `Catalogue` and `ProductFolder`.
    """
    folder = Path(location)
    if profile is None and folder.is_dir() and not (folder / "catalog.json").is_file():
        # Here, as few read products: a mask by a catalogue is spared seven modules.
        from kappamask.scenes.folder import ProductFolder

        return ProductFolder(location)
    return Catalogue(location, profile)


def _links_of(document: Any, href: str, *rels: str) -> list[dict[str, Any]]:
    """List the links of these kinds, or say that a document is none of a catalogue."""
    links = document.get("links") or () if isinstance(document, Mapping) else None
    if not isinstance(links, list | tuple) or not all(isinstance(x, Mapping) for x in links):
        raise CatalogError(
            "a STAC catalogue or collection is a JSON object with a list of links, got "
            f"{type(document).__name__} {str(document)[:80]!r} at {href}: correct that file, or "
            "the link to it"
        )
    return [dict(link) for link in links if link.get("rel") in rels]


class _PatientIO(StacApiIO):  # type: ignore[misc]
    """Asks again, as `base.retry` says, where an answer does not come, breaks off, or may change.

    The retries of requests end with the headers of an answer: none of those are on top.
    """

    def __init__(self) -> None:
        super().__init__(max_retries=None, timeout=CATALOGUES.timeout_s)
        self.asked_s: float | None = None  # by Retry-After of the last answer
        self.session.stream = True  # `_note` reads
        self.session.hooks["response"].append(self._note)

    def request(self, *arguments: Any, **options: Any) -> str:
        for tried in range(1, CATALOGUES.tries + 1):
            self.asked_s = None
            try:
                return str(super().request(*arguments, **options))
            except APIError as error:
                if isinstance(error.__context__, CatalogError):
                    raise error.__context__ from None
                lost = isinstance(error.__context__, _LOST)
                passing = lost or getattr(error, "status_code", None) in PASSING
                if tried == CATALOGUES.tries or not passing:
                    raise
            time.sleep(CATALOGUES.wait(tried, self.asked_s))
        raise AssertionError("there is at least one try")

    def json_loads(self, txt: str, *_: Any, **__: Any) -> Any:
        """Read JSON as Python does, whether or not orjson is there."""
        try:
            return json.loads(txt)
        except RecursionError:
            raise NestedError("it is nested too deeply") from None

    def _note(self, response: Any, **_: Any) -> None:
        """Read an answer as far as it may go, also one that only leads elsewhere."""
        self.asked_s = seconds_asked(response.headers.get("Retry-After"))
        content, until = bytearray(), time.monotonic() + LONGEST_S
        for part in response.iter_content(2**16):
            content += part
            if len(content) > MOST_BYTES or time.monotonic() > until:
                response.close()
                raise CatalogError(
                    f"an answer of a catalogue has at most {MOST_BYTES >> 20} MB and takes "
                    f"{LONGEST_S:g} s, that of {without_query(response.url)} has or takes more: "
                    "ask for a smaller area or fewer dates, or choose another catalogue"
                )
        response._content = bytes(content)  # noqa: SLF001  where requests keeps what it has read


@contextmanager
def _named(href: str) -> Iterator[None]:
    """Turn what goes wrong inside into one line that names the address."""
    try:
        yield
    except KappaMaskError:
        raise
    except APIError as error:
        raise CatalogError(_refusal(href, error)) from error
    except FileNotFoundError:
        raise CatalogError(f"no catalogue file at {href}: check the path") from None
    except (OSError, *_MALFORMED) as error:
        raise CatalogError(
            f"a STAC catalogue answers in JSON, but {href} cannot be read: {error!r}"
        ) from error


def _refusal(href: str, error: APIError) -> str:
    """Say in one line why a catalogue did not answer, and what to do."""
    status, said = getattr(error, "status_code", None), " ".join(str(error).split())
    tries = f"{CATALOGUES.tries} tries"
    if status is None and "timed out" in said:
        return (
            f"no answer from {href} within {CATALOGUES.timeout_s:g} s, in {tries}: try again "
            "later, or ask for fewer dates"
        )
    if status is None:
        # urllib3 begins with the address again
        cause = re.sub(r".*\(Caused by (.*)\)", r"\1", said)
        return (
            f"the connection to {href} failed, retries included: check the address and the "
            f"network ({cause[:200]})"
        )
    remedy = {
        401: "it wants an account: sign in there, or choose another catalogue",
        403: "it refuses access: it may want an account or another network",
        404: "there is nothing at this address: check it",
        429: f"too many requests, in {tries}: wait a few minutes, or ask for fewer dates",
    }.get(status, f"the request was refused ({said[:200]})")
    if status >= 500:
        remedy = f"the server failed, in {tries}: try again later"
    return f"{href} answers HTTP {status}: {remedy}"
