"""What a job will do, in one line before it begins, and what came of a date, in one after it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kappamask.base.errors import WriteError
from kappamask.base.legend import Label
from kappamask.outputs.records import read_item
from kappamask.scenes.area import transformer
from kappamask.scenes.scene import overlap

if TYPE_CHECKING:
    from kappamask.jobs.masks import Date
    from kappamask.outputs.cog import Placement

DN_BYTES = 2  # of a pixel and band, before compression
MASK_BYTES = 0.2  # of a pixel of a mask with its overviews, compressed, at the most
SHORT = {  # titles as a line has room for them
    Label.CLEAR: "clear",
    Label.CLOUD_SHADOW: "shadow",
    Label.SEMI_TRANSPARENT: "thin",
    Label.CLOUD: "cloud",
    Label.MISSING: "missing",
}


def describe(dates: Sequence[Date], folder: Path, *, pictures: bool) -> str:
    """Say area, size, grid, dates, bytes to read and what will be written, in one line."""
    places = {_size(date.record.placement): date.record for date in dates}
    days = [date.name[:10] for date in dates]
    span = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    dated = f"{count(len(dates), 'date')} {span}"
    if len(places) == 1:
        ((size, record),) = places.items()
        outline = record.outline
        area = f"area {outline.name}" if outline and outline.name else "area"
        said = f"{area}{size}{', a polygon cut out' if outline else ''}; {dated}"
    else:
        said = f"{count(len(dates), 'scene')} in {len(places)} places"
    return (
        f"{said}; reads up to {in_bytes(sum(map(_to_read, dates)))}; "
        f"writes {count(len(dates), 'mask')}{' with pictures' if pictures else ''} to {folder}"
    )


def _size(placement: Placement) -> str:
    """Say where pixels lie, how many and how large they are."""
    rows, columns = placement.shape
    step = placement.transform.a
    if placement.crs is None:
        return f" of {columns} x {rows} px without a place"
    size = f"{columns} x {rows} px of {step:g}"
    if placement.crs.is_projected:
        size = f"{columns * step / 1000:,.2f} x {rows * step / 1000:,.2f} km, {size} m"
    return f" at {_place(placement)}, {size} in {placement.crs.to_string()}"


def check_room(dates: Sequence[Date], folder: Path) -> None:
    """Refuse what the disk has no room for, before the first date.

    Raises
    ------
    WriteError
        If less is free than the masks take at the most.
    """
    needed = sum(MASK_BYTES * date.record.placement.shape[0] * date.record.placement.shape[1]
                 for date in dates)  # fmt: skip
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise WriteError(
            f"the disk must have room for all masks, got {in_bytes(free)} free of "
            f"{in_bytes(needed)} for {count(len(dates), 'date')} in {folder}: free some space, "
            "choose another folder, a smaller area or fewer dates"
        )


def tell_date(name: str, mask: Path, *, skipped: bool) -> str:
    """Say in one line what share of the pixels each class has in a mask that was written."""
    item = read_item(mask)
    classes = item["assets"]["mask"]["classification:classes"]
    shares = {entry["value"]: entry["percentage"] for entry in classes}
    said = "  ".join(f"{title} {shares[int(code)]:5.1f} %" for code, title in SHORT.items())
    return f"{name[:16].replace('T00:00', '').replace('T', ' '):16}  {said}" + (
        "  (finished before)" if skipped else ""
    )


def in_bytes(number: float) -> str:
    """Write a number of bytes with the unit that people read.

    Examples
    --------
    >>> in_bytes(512), in_bytes(5.8e10)
    ('1 kB', '58.0 GB')
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{max(number / 1000, 1):.0f} kB"


def count(number: int, noun: str) -> str:
    """Write a number of things.

    Examples
    --------
    >>> count(1, "date"), count(2, "date")
    ('1 date', '2 dates')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _to_read(date: Date) -> float:
    """Give the bytes of all bands of a date in its area, before compression."""
    placement, total = date.record.placement, 0.0
    left, bottom, right, top = placement.bounds
    for scene in date.record.sources:
        placed = scene.files and placement.crs and not scene.frame
        crs: Any = placement.crs
        there = scene.bounds_in(crs.to_epsg()) if placed else None
        if there is None or not overlap(there, placement.bounds):
            continue
        width = min(right, there[2]) - max(left, there[0])
        height = min(top, there[3]) - max(bottom, there[1])
        read = [file for name, file in scene.files.items() if name in date.bands]
        total += sum(DN_BYTES * width * height / file.gsd**2 for file in read)
    return total


def _place(placement: Placement) -> str:
    left, bottom, right, top = placement.bounds
    there = transformer(placement.crs.to_wkt(), 4326)
    east, north = there.transform((left + right) / 2, (bottom + top) / 2)
    return f"{abs(north):.3f} {'NS'[north < 0]} {abs(east):.3f} {'EW'[east < 0]}"
