"""A folder of masks as one page to read. Row 6: imports rows 0-5; jinja2.

`write_report` reads as the pipeline: read the items, read their pictures, render, write.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

from kappamask import __version__
from kappamask.base.errors import InputError, ItemError, NoItemsError
from kappamask.base.files import publish, staging
from kappamask.base.legend import LEGEND, Label

REPORT = "report.html"
PNG = b"\x89PNG\r\n\x1a\n"  # what every PNG begins with (PNG specification, section 5.2)
SHOWN = tuple(entry for entry in LEGEND if entry.label is not Label.UNDEFINED)  # never predicted


@dataclass(frozen=True)
class Source:
    """An item that a mask was made from."""

    id: str
    href: str | None  # http(s) only: a link in a page must not run anything


@dataclass(frozen=True)
class MaskEntry:
    """What the page says of one mask."""

    name: str
    group: str  # folder below the one reported on, "." is that one
    time: str  # RFC 3339
    shares: Mapping[str, float]  # class name: percent of all pixels
    cloud_cover: float | None  # percent of the pixels with data; None: there are none
    settings: tuple[tuple[str, str], ...]  # name, value
    sources: tuple[Source, ...]
    credit: str
    picture: str | None  # data URI

    @property
    def date(self) -> str:
        """Day and minute, UTC."""
        return self.time[:16].replace("T", " ")


def write_report(
    folder: str | Path, path: str | Path | None = None, *, pictures: bool = True
) -> Path:
    """Write one HTML page of the masks in a folder.

    The page is one file: pictures and style are inside, it loads nothing and runs no
    script, and says so to the browser. Dates, class shares, settings and versions come
    from the STAC items that `write_mask` wrote, pictures from the PNG files beside them.

    Parameters
    ----------
    folder
        What `kappamask mask` wrote, or a folder of such folders as of `kappamask demo`.
    path
        Of the page; None: ``report.html`` in `folder`.
    pictures
        False leaves them out: the page is then a few kB per date.

    Returns
    -------
    pathlib.Path
        Of the page.

    Raises
    ------
    InputError
        If `folder` is none.
    NoItemsError
        If no mask lies in it.
    ItemError
        If the item of a mask is damaged; the message names the file.
    WriteError
        If the page cannot be written; an older one stays.

    Examples
    --------
    >>> import tempfile
    >>> from kappamask import search
    >>> from kappamask.jobs import mask_items
    >>> from kappamask.sample import SCENES, catalog_path
    >>> scene = SCENES[1]
    >>> items = search(scene.bbox, "2019-07-11", catalog=catalog_path(), level=scene.level)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = mask_items(items, scene.bbox, folder)
    ...     page = write_report(folder)
    ...     page.name, page.read_text(encoding="utf-8").count("<img")
    ('report.html', 1)
    """
    folder = Path(folder)
    page = folder / REPORT if path is None else Path(path)
    html = render(read_entries(folder, pictures=pictures), title=folder.resolve().name)
    with staging(page.parent, page.name) as aside:
        publish(aside, {page: html.encode()})
    return page


def read_entries(folder: Path, *, pictures: bool = True) -> list[MaskEntry]:
    """Read the items of all masks in a folder and below it, by folder and time."""
    if not folder.is_dir():
        raise InputError(
            f"a report is made of a folder of masks, got {folder}: give the folder that "
            "`kappamask mask --out` wrote"
        )
    paths = [
        path
        for path in folder.rglob("kappamask_*.json")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]  # a run that goes on keeps what is not finished in hidden folders
    found = [
        read_entry(path, document, folder, pictures=pictures)
        for path in paths
        if "mask" in (document := _read_item(path))["assets"]  # a composite has other ones
    ]
    if not found:
        raise NoItemsError(
            f"no mask lies in {folder}: a report is made of what `kappamask mask --out` or "
            "`kappamask.write_mask` wrote"
        )
    return sorted(found, key=lambda entry: (entry.group, entry.time, entry.name))


def _read_item(path: Path) -> dict[str, Any]:
    """Read an item as far as the page relies on it."""
    try:
        item = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(item["properties"], dict) and isinstance(item["assets"], dict):
            return item  # type: ignore[no-any-return]
        problem = "properties or assets are no objects"
    except (OSError, ValueError, LookupError, TypeError) as error:
        problem = repr(error)
    raise _damaged(path, problem)


def _damaged(path: Path, problem: str) -> ItemError:
    return ItemError(
        f"the item of a mask is a STAC item as `kappamask.write_mask` writes it, but {path} is "
        f"not ({problem}): delete it and mask that date again"
    )


def read_entry(path: Path, item: dict[str, Any], folder: Path, *, pictures: bool) -> MaskEntry:
    """Read what the page says of one mask."""
    properties, mask = item["properties"], item["assets"]["mask"]
    try:
        return MaskEntry(
            name=path.stem,
            group=path.parent.relative_to(folder).as_posix(),
            time=str(properties["datetime"]),
            shares={x["name"]: float(x["percentage"]) for x in mask["classification:classes"]},
            cloud_cover=_percent(properties.get("eo:cloud_cover")),
            settings=tuple(_settings(properties, mask)),
            sources=tuple(_sources(item.get("links") or ())),
            credit=str(properties.get("description", "")),
            picture=_picture(path.with_suffix(".png")) if pictures else None,
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, repr(error)) from error


def _percent(value: Any) -> float | None:
    return None if value is None else float(value)


def _settings(properties: Mapping[str, Any], mask: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List what the masks of one run usually share."""
    rows, columns = properties["proj:shape"]
    software = properties.get("processing:software", {})
    spacing = mask.get("raster:spatial_resolution")
    known = {
        "model": properties.get("kappamask:model"),
        "sha256 of its weights": properties.get("kappamask:model_sha256"),
        "versions": ", ".join(f"{name} {version}" for name, version in software.items()),
        "level": properties.get("processing:level"),
        "tile": str(properties.get("grid:code") or "").removeprefix("MGRS-"),
        "grid": properties.get("proj:code") or "see proj:wkt2 in the items",
        "pixel": f"{spacing:g} m" if spacing else None,
        "size": f"{columns} x {rows} pixels",
    }
    return [(name, str(value)) for name, value in known.items() if value]


def _sources(links: Sequence[Mapping[str, Any]]) -> list[Source]:
    """List the source items among the links; the model's own link says what settings say."""
    found = []
    for link in links:
        href = str(link.get("href", ""))
        if link.get("rel") == "derived_from" and not href.startswith("urn:kappamask:model:"):
            name = str(link.get("title") or href).removeprefix("Source item ")
            found.append(Source(name, href if href.startswith(("https://", "http://")) else None))
    return found


def _picture(path: Path) -> str | None:
    """Give a PNG as a data URI; None where there is none, or something else of that name."""
    content = path.read_bytes() if path.is_file() else b""
    if not content.startswith(PNG):
        return None
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


# --- the page ------------------------------------------------------------------------------


def render(entries: Sequence[MaskEntry], *, title: str) -> str:
    """Render the page; every text is escaped.

    Parameters
    ----------
    entries
        Sorted by group.
    title
        Of the page.

    Examples
    --------
    >>> entry = MaskEntry("a", ".", "2022-06-02T10:15:59Z", {"clear": 100.0}, 0.0, (), (), "", None)
    >>> "<h1>Cloud masks: A &amp; B</h1>" in render([entry], title="A & B")
    True
    """
    from jinja2 import Environment, StrictUndefined

    source = resources.files("kappamask.plot").joinpath("report.html.j2").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    common, single = split_settings(entries)
    return environment.from_string(source).render(
        version=__version__,
        title=title,
        legend=SHOWN,
        groups=[(name, list(group)) for name, group in groupby(entries, lambda x: x.group)],
        first=min(entry.time for entry in entries)[:10],
        last=max(entry.time for entry in entries)[:10],
        count=len(entries),
        common=common,
        single=single,
        credits=sorted({entry.credit for entry in entries if entry.credit}),
    )


def split_settings(
    entries: Sequence[MaskEntry],
) -> tuple[list[tuple[str, str]], dict[str, list[tuple[str, str]]]]:
    """Part settings that all masks share from those of single masks.

    Returns
    -------
    list of (str, str)
        Shared: name, value.
    dict of str to list of (str, str)
        By group and name of a mask: what is its own.

    Examples
    --------
    >>> first, second = (
    ...     MaskEntry(name, ".", "2022", {}, None, (("level", "L2A"), ("tile", name)), (), "", None)
    ...     for name in ("32TPS", "32TQS")
    ... )
    >>> split_settings([first, second])
    ([('level', 'L2A')], {'./32TPS': [('tile', '32TPS')], './32TQS': [('tile', '32TQS')]})
    """
    counts = Counter(pair for entry in entries for pair in entry.settings)
    shared = [pair for pair in entries[0].settings if counts[pair] == len(entries)]
    return shared, {
        f"{entry.group}/{entry.name}": [pair for pair in entry.settings if pair not in shared]
        for entry in entries
    }
