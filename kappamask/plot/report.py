"""A folder of masks as one page to read, by jinja2."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

from kappamask import __version__
from kappamask.base.errors import InputError, ItemError, NoItemsError
from kappamask.base.files import publish, read_bounded, read_json, staging
from kappamask.base.legend import LEGEND, Label

REPORT = "report.html"
LARGEST_PICTURE = 64 * 2**20  # bytes
PNG = b"\x89PNG\r\n\x1a\n"  # what every PNG begins with (PNG specification, section 5.2)
SHOWN = tuple(entry for entry in LEGEND if entry.label is not Label.UNDEFINED)  # never predicted


@dataclass(frozen=True)
class MaskEntry:
    """What the page says of one mask."""

    name: str
    group: str  # folder below the one reported on, "." is that one
    time: str  # RFC 3339
    shares: Mapping[str, float]  # class name: percent of all pixels
    cloud_cover: float | None  # percent of the pixels with data; None: there are none
    settings: Mapping[str, str]
    sources: Sequence[tuple[str, str | None]]  # id, address: http(s) only, no link runs anything
    credit: str
    picture: str | None  # data URI


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
    from jinja2 import Environment, StrictUndefined

    folder = Path(folder)
    page = folder / REPORT if path is None else Path(path)
    entries = read_entries(folder, pictures=pictures)
    counts = Counter(pair for entry in entries for pair in entry.settings.items())
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("kappamask.plot").joinpath("report.html.j2").read_text("utf-8")
    html = environment.from_string(source).render(
        version=__version__,
        title=folder.resolve().name,
        legend=SHOWN,
        groups=[(name, list(group)) for name, group in groupby(entries, lambda x: x.group)],
        first=min(entry.time for entry in entries)[:10],
        last=max(entry.time for entry in entries)[:10],
        count=len(entries),
        common={pair for pair, count in counts.items() if count == len(entries)},
        credits=sorted({entry.credit for entry in entries if entry.credit}),
    )
    with staging(page.parent, page.name) as aside:
        publish(aside, {page: html.encode("utf-8", "backslashreplace")})
    return page


def read_entries(folder: Path, *, pictures: bool = True) -> list[MaskEntry]:
    """Read the items of all masks in a folder and below it, by folder and time."""
    if not folder.is_dir():
        raise InputError(
            f"a report is made of a folder of masks, got {folder}, which is "
            f"{'no folder' if folder.exists() else 'not there'}: give the folder that "
            "`kappamask mask --out` wrote"
        )
    found = [
        entry
        for path in folder.rglob("kappamask_*.json")
        # a run that goes on keeps what is not finished in hidden folders
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and (entry := _read_entry(path, folder, pictures=pictures))
    ]
    if not found:
        raise NoItemsError(
            f"no mask lies in {folder}: a report is made of what `kappamask mask --out` or "
            "`kappamask.write_mask` wrote"
        )
    return sorted(found, key=lambda entry: (entry.group, entry.time, entry.name))


def _read_entry(path: Path, folder: Path, *, pictures: bool) -> MaskEntry | None:
    """Read what the page says of one mask; None where a composite is meant."""
    picture = _picture(path.with_suffix(".png")) if pictures else None
    try:
        item = read_json(path)
        properties, assets = dict(item["properties"]), dict(item["assets"])
        if "mask" not in assets:
            return None
        cover = properties.get("eo:cloud_cover")
        return MaskEntry(
            name=path.stem,
            group=path.parent.relative_to(folder).as_posix(),
            time=str(properties["datetime"] or ""),
            shares={
                entry["name"]: float(entry["percentage"])
                for entry in assets["mask"]["classification:classes"]
            },
            cloud_cover=None if cover is None else float(cover),
            settings=_settings(properties, assets["mask"]),
            sources=_sources(item),
            credit=str(properties.get("description", "")),
            picture=picture,
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ItemError(
            f"the item of a mask is a STAC item as `kappamask.write_mask` writes it, but {path} "
            f"is not ({error!r}): delete it and mask that date again"
        ) from error


def _settings(properties: Mapping[str, Any], mask: Mapping[str, Any]) -> dict[str, str]:
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
    return {name: str(value) for name, value in known.items() if value}


def _sources(item: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """List the source items among the links; the model's own link says what settings say."""
    found: list[tuple[str, str | None]] = []
    for link in item.get("links") or ():
        href = str(link.get("href", ""))
        if link.get("rel") == "derived_from" and not href.startswith("urn:kappamask:model:"):
            name = str(link.get("title") or href).removeprefix("Source item ")
            found.append((name, href if href.startswith(("https://", "http://")) else None))
    return found


def _picture(path: Path) -> str | None:
    """Give a PNG as a data URI; None where there is none, or something else of that name."""
    content = read_bounded(path, LARGEST_PICTURE) if path.is_file() else b""
    if not content.startswith(PNG):
        return None
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
