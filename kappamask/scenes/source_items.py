"""Which items made each date of a label cube. Row 4: imports `items` and `errors`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.base.errors import InputError, ItemError
from kappamask.scenes.items import document_of, links_of, sensing_time, tile_of, view_of

if TYPE_CHECKING:
    import xarray as xr

# Passes over one place are a few hours apart on one solar day, and nearly a day on two.
SAME_PASS = np.timedelta64(12, "h")


@dataclass(frozen=True)
class SourceItem:
    """One STAC item that a mask was made from."""

    id: str
    tile: str | None  # MGRS tile, "32TPS"
    href: str | None = None  # where the item itself lies
    time: np.datetime64 | None = None  # sensing time, UTC; None where only the id is known
    platform: str | None = None  # "sentinel-2a"


def read_source(item: Any) -> SourceItem:
    """Read what a mask must know of an item it came from.

    Parameters
    ----------
    item
        A ``pystac.Item`` or the dict of one.

    Raises
    ------
    ItemError
        If it is no STAC item or its time cannot be read.

    Examples
    --------
    >>> read_source({
    ...     "id": "S2A_T32TPS_20220602T101559_L2A", "assets": {},
    ...     "properties": {"datetime": "2022-06-02T10:15:59Z"},
    ... }).tile
    '32TPS'
    """
    if not isinstance(item, Mapping) and not hasattr(item, "to_dict"):
        raise ItemError(
            "a source item must be a pystac.Item or the dict of one, got "
            f"{type(item).__name__}: pass the items that the cube was loaded from"
        )
    view = view_of(item)
    hrefs = links_of(document_of(item))
    return SourceItem(
        id=view.id,
        tile=tile_of(view),
        href=hrefs.get("self") or hrefs.get("canonical"),
        time=np.datetime64(sensing_time(view).replace(tzinfo=None), "ns"),
        platform=str(view.properties.get("platform") or "").lower() or None,
    )


def sources_of_dates(
    labels: xr.DataArray, items: Iterable[Any] | None
) -> list[tuple[SourceItem, ...]]:
    """Say which items made each date of a label cube.

    The coordinate ``source_items`` (ids separated by spaces, one text per date)
    decides if the cube carries it. Otherwise an item belongs to the date nearest in
    time, of the same solar day.

    Parameters
    ----------
    labels
        Dims (time, y, x).
    items
        ``pystac.Item`` or dicts; None if they are not known.

    Returns
    -------
    list of tuple of SourceItem
        One tuple per date, empty where nothing is known.

    Raises
    ------
    InputError
        If items are given and a date finds none of its own among them.
    ItemError
        If something given is no STAC item.
    """
    given = None if items is None else [read_source(item) for item in items]
    if "source_items" in labels.coords:
        ids = [str(text).split() for text in np.atleast_1d(labels["source_items"].values)]
        return _match_by_id(ids, given)
    if given is None:
        return [()] * labels.sizes["time"]
    return _match_by_time(labels["time"].values, given)


def _match_by_id(
    ids: list[list[str]], given: list[SourceItem] | None
) -> list[tuple[SourceItem, ...]]:
    names = {name for date in ids for name in date}
    if given is None:
        given = [SourceItem(name, _tile_in_id(name)) for name in names]
    known = {source.id: source for source in given}
    if absent := sorted(names - set(known)):
        raise InputError(
            "source_items must hold every item that the labels name; missing "
            f"{', '.join(absent)}: pass the items the cube was loaded from, or leave them out"
        )
    return [tuple(known[name] for name in date) for date in ids]


def _tile_in_id(name: str) -> str | None:
    return tile_of({"id": name, "properties": {}, "assets": {}})


def _match_by_time(times: np.ndarray, given: list[SourceItem]) -> list[tuple[SourceItem, ...]]:
    matched: list[list[SourceItem]] = [[] for _ in times]
    for source in given:
        apart = np.abs(times - source.time)
        if apart.min() < SAME_PASS:
            matched[apart.argmin()].append(source)
    lone = [str(time)[:19] for time, sources in zip(times, matched, strict=True) if not sources]
    if lone:
        raise InputError(
            "every date must come from one of source_items; none is of the solar day of "
            f"{', '.join(lone)}: pass the items the cube was loaded from, or leave them out"
        )
    return [tuple(sources) for sources in matched]
