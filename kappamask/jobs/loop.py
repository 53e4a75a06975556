"""The loop over dates: each one read, labelled, written as a mask, drawn.

What one date needs is read, labelled, written and forgotten; meanwhile the next one is read, if
it is small. A date that fails is kept in mind and the others go on; finished dates are not done
again. Dates whose files could not be read are tried again when all others are through: by then a
server may have recovered, and signed addresses are renewed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rasterio.enums import Resampling

from kappamask.base.errors import CatalogError, KappaMaskError, ReadError, WriteError
from kappamask.base.files import check_folder
from kappamask.base.legend import LEGEND, Label, Snow
from kappamask.base.retry import DATES, is_remote
from kappamask.base.windows import LATTICE
from kappamask.networks.manifest import bands_of_model
from kappamask.outputs.cog import Placement, Strips
from kappamask.outputs.masks import MaskRecord
from kappamask.outputs.records import Progress, find_complete, read_item, try_each, write_record
from kappamask.scenes.area import MAX_PIXELS, transformer
from kappamask.scenes.formats import open_pixels
from kappamask.scenes.scene import overlap

if TYPE_CHECKING:
    import xarray as xr

    from kappamask.scenes.products import Told

LONGEST = 800  # pixels of a picture: what is larger is drawn by overviews, or reduced
BY_BAND = 4096**2  # pixels of a scene that is drawn band by band: three bands of it are 200 MB
DN_BYTES = 2  # of a pixel and band, before compression
MASK_BYTES = 0.2  # of a pixel of a mask with its overviews, compressed, at the most
SHORT = {  # titles as a line has room for them
    Label.CLEAR: "clear",
    Label.CLOUD_SHADOW: "shadow",
    Label.SEMI_TRANSPARENT: "thin",
    Label.CLOUD: "cloud",
    Label.MISSING: "missing",
}


@dataclass(frozen=True)
class MaskOptions:
    """What the loop can be asked for beside its input, area and folder."""

    model: Any = "default"  # a name, or what `load_model` gave
    device: str = "auto"  # where a network of that name computes: "cpu", "cuda"
    resolution: float = 10  # metres
    margin: int = LATTICE.margin  # pixels beside the area that the network sees too
    engine: str = "stackstac"  # of dates that are not streamed; "odc" reads all of them
    dn_offset: int | None = None  # for items and products that do not tell it
    tile: str | None = None  # MGRS, of a product with several granules
    bands: Sequence[str] | None = None  # to be read; None: all that are there
    raster: Told | None = None  # what rasters of one's own do not say
    pictures: bool = True
    snow: bool = False  # write NAME_snow.tif too; needs B11
    refine: bool = False  # let three dates or more correct one another: folder `refined`
    title: str | None = None  # of the pictures
    field: str = ""  # name of the area, for files: its polygon is cut out, be it a rectangle or not
    max_pixels: int | None = MAX_PIXELS  # of a date: more is taken for a mistake; None: any
    overwrite: bool = False  # False keeps what is complete and the same
    retries: int = DATES.tries - 1  # rounds in which dates that could not be read are tried again
    # Seconds before the first round, twice that before the next; or up to half as much more.
    retry_wait: float = DATES.wait_s

    @property
    def network_bands(self) -> tuple[str, ...] | None:
        """That are asked for, or that the model needs; None if it takes any."""
        if self.bands is not None:
            return tuple(self.bands)
        return (
            bands_of_model(self.model) if isinstance(self.model, str) else self.model.bands or None
        )


@dataclass
class Report:
    """What came of every date."""

    masks: list[Path] = field(default_factory=list)  # COGs; NAME.json lies beside NAME.tif
    skipped: list[Path] = field(default_factory=list)  # those of `masks` that were there before
    images: list[Path] = field(default_factory=list)  # COGs of composites, one per period
    pictures: list[Path] = field(default_factory=list)
    errors: dict[str, KappaMaskError] = field(default_factory=dict)  # of dates that failed

    @property
    def failed(self) -> dict[str, str]:
        """Why they did: date, reason."""
        return {date: str(error) for date, error in self.errors.items()}

    @property
    def done(self) -> list[Path]:
        """The masks that this run made."""
        return [mask for mask in self.masks if mask not in self.skipped]


@dataclass(frozen=True)
class Date:
    """One mask to be made."""

    name: str
    record: MaskRecord
    pixels: Callable[[], Any]  # labels as `MaskRecord` takes them
    inside: np.ndarray | None = None  # bool (y, x): what is missing outside; None: nothing is
    bands: tuple[str, ...] = ()  # that are read
    scene: Callable[[], xr.DataArray] | None = None  # what a picture is drawn of
    small: Callable[[int], xr.DataArray] | None = None  # the same, so many times as coarse
    ahead: Callable[[], object] | None = None  # begins to read it, and returns at once

    @property
    def remote(self) -> bool:
        """Whether a pause may help."""
        files = (file for source in self.record.sources for file in source.files.values())
        return any(is_remote(file.href) for file in files)

    def make(
        self, folder: Path, options: MaskOptions, *, then: Callable[[], object] | None = None
    ) -> Made:
        """Label, write and draw it, unless that is done; `then` is called once it is read."""
        there = None if options.overwrite else find_complete(self.record, folder)
        mask = there or write_record(self.record, self._read(then), folder)
        picture = None
        if self.scene is not None and options.pictures:
            picture = draw_beside(mask, partial(self.draw, mask, title=options.title))
        return Made(mask, picture, there is not None)

    def _read(self, then: Callable[[], object] | None) -> Any:
        pixels = cut_out(self.pixels(), self.inside)
        if then is not None:
            then()
        return pixels

    def draw(self, mask: Path, path: Path, *, title: str | None) -> Path:
        """Draw the quicklook of its mask; a large one by its overviews and those of its scene."""
        from kappamask.plot import quicklook
        from kappamask.plot.picture import TRUE_COLOR
        from kappamask.predict.snow import find_snow, snow_bands

        factor = -(-max(self.record.placement.shape) // LONGEST)
        reduced = self.small is not None and factor > 1
        scene: Any = self.small(factor) if self.small and reduced else self.scene and self.scene()
        visible = scene.sel(band=list(TRUE_COLOR))
        if visible[0].size < BY_BAND:
            visible = visible.compute()
        with open_pixels(str(mask)) as raster:
            codes = raster.read(1, out_shape=visible.shape[1:], resampling=Resampling.mode)
            model = raster.tags().get("model")
        labels = visible.isel(band=0, drop=True).copy(data=codes)
        labels.attrs = {"level": scene.attrs["level"], "kappamask_model": model}
        item, snow, shares = read_item(mask), None, None
        bands = snow_bands(tuple(map(str, scene.band.values)))
        if reduced:
            shares = np.zeros(len(LEGEND))
            for entry in item["assets"]["mask"]["classification:classes"]:
                shares[entry["value"]] = entry["percentage"] / 100
        elif bands and item["properties"].get("eo:snow_cover"):  # else need not be read again
            told = scene.sel(band=list(bands)).compute()
            snow = labels.copy(data=find_snow(codes, *told.values)).rename("snow")
        return quicklook(
            visible, labels, path, title=title, max_px=LONGEST, snow=snow, shares=shares
        )


def cut_out(pixels: Any, inside: np.ndarray | None) -> Any:
    """Make labels, (y, x) or planes of labels and snow, missing where `inside` (y, x) is False.

    Examples
    --------
    >>> cut_out(np.array([[1, 4]], "uint8"), np.array([[True, False]])).tolist()
    [[1, 5]]
    """
    if inside is None:
        return pixels
    outside = np.array([Label.MISSING, Snow.MISSING], np.uint8)[:, None, None]

    def cut(codes: Any, within: np.ndarray) -> Any:
        nothing = outside[: codes.shape[0]] if codes.ndim == 3 else outside[0]
        where = np.where if isinstance(codes, np.ndarray) else da.where
        return where(within, codes, nothing)

    if not isinstance(pixels, Strips):
        import dask.array as da

        return cut(pixels, inside)

    def strips() -> Generator[np.ndarray]:
        row = 0
        for strip in pixels.rows:
            yield cut(strip, inside[row : row + strip.shape[-2]])
            row += strip.shape[-2]

    return Strips(strips(), pixels.dtype)


def draw_beside(output: Path, draw: Callable[[Path], Path]) -> Path:
    """Draw the picture beside an output that was written, unless a newer one is there."""
    path = output.with_suffix(".png")
    if path.exists() and path.stat().st_mtime_ns >= output.stat().st_mtime_ns:
        return path
    return draw(path)


class Made(NamedTuple):
    """The files of one date."""

    mask: Path
    picture: Path | None
    skipped: bool  # the mask was there before


def run(
    dates: Sequence[Date],
    folder: Path,
    options: MaskOptions,
    *,
    reopen: Callable[[], Sequence[Date]],
    progress: Progress | None = None,
    tell: Callable[[str], object] | None = None,
) -> Report:
    """Make one date after another; those that could not be read again, after all others.

    Parameters
    ----------
    dates
        In the order of the report.
    reopen
        Gives them anew, with addresses that are valid again.
    progress
        Called after each date with its name, how many were tried, and how many there are.
    tell
        Called with a line for people: what will be done, then the shares of each date.

    Returns
    -------
    Report
        Files and errors in the order of the dates.

    Raises
    ------
    WriteError
        If the folder cannot be written to.
    ResourceError
        If memory or threads run out: the other dates are as large.
    """
    folder = folder.absolute()
    check_folder(folder, "masks")  # or every date would fail for it
    check_room(dates, folder)
    if tell is not None and dates:
        drawn = options.pictures and any(date.scene for date in dates)
        tell(describe(dates, folder, pictures=drawn))
    made: dict[int, Made] = {}
    failed: dict[int, KappaMaskError] = {}
    waiting = list(range(len(dates)))
    tried = count(1)

    def make(index: int) -> Made:
        coming = [dates[after] for after in waiting if after > index]
        then = partial(read_ahead, coming, folder, options)
        one = dates[index].make(folder, options, then=then)
        if tell is not None:
            tell(tell_date(dates[index].name, one.mask, skipped=one.skipped))
        return one

    def on_tried(index: int) -> None:
        if progress is not None:
            progress(dates[index].name, min(next(tried), len(dates)), len(dates))

    for attempt in range(1 + options.retries):
        if attempt and any(dates[index].remote for index in waiting):
            time.sleep(replace(DATES, wait_s=options.retry_wait).wait(attempt))
            dates = reopen()
        work = {index: partial(make, index) for index in waiting}
        results, errors = try_each(work, on_tried=on_tried)
        # A second try that finds the mask draws a picture that failed: that is no skip.
        made |= {i: one._replace(skipped=one.skipped and not attempt) for i, one in results.items()}
        failed = {i: error for i, error in failed.items() if i not in results} | errors
        waiting = [index for index, error in errors.items() if may_pass(error)]
        if not waiting:
            break
    kept = [made[index] for index in sorted(made)]
    return Report(
        masks=[one.mask for one in kept],
        skipped=[one.mask for one in kept if one.skipped],
        pictures=[one.picture for one in kept if one.picture is not None],
        errors={dates[index].name: failed[index] for index in sorted(failed)},
    )


def read_ahead(coming: Sequence[Date], folder: Path, options: MaskOptions) -> None:
    """Begin to read the first of the dates to come, unless there is nothing to be read of it."""
    date = coming[0] if coming else None
    if date and date.ahead and (options.overwrite or not find_complete(date.record, folder)):
        date.ahead()


def may_pass(error: KappaMaskError) -> bool:
    """Tell whether trying again may help: a read that failed, not an item or input at fault.

    A full disk is no such case either: nothing here makes room.

    Examples
    --------
    >>> may_pass(ReadError("HTTP 503")), may_pass(KappaMaskError("bands missing"))
    (True, False)
    """
    return isinstance(error, ReadError | CatalogError) and not isinstance(
        error.__cause__, ValueError
    )


# --- words for people ---------------------------------------------------------------------------


def describe(dates: Sequence[Date], folder: Path, *, pictures: bool) -> str:
    """Say area, size, grid, dates, bytes to read and what will be written, in one line."""
    places = {_size(date.record.placement): date.record for date in dates}
    days = [date.name[:10] for date in dates]
    span = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    dated = f"{numbered(len(dates), 'date')} {span}"
    if len(places) == 1:
        ((size, record),) = places.items()
        outline = record.outline
        area = f"area {outline.name}" if outline and outline.name else "area"
        said = f"{area}{size}{', a polygon cut out' if outline else ''}; {dated}"
    else:
        said = f"{numbered(len(dates), 'scene')} in {len(places)} places"
    return (
        f"{said}; reads up to {in_bytes(sum(map(_to_read, dates)))}; "
        f"writes {numbered(len(dates), 'mask')}{' with pictures' if pictures else ''} to {folder}"
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
            f"{in_bytes(needed)} for {numbered(len(dates), 'date')} in {folder}: free some space, "
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


def numbered(number: int, noun: str) -> str:
    """Write a number of things.

    Examples
    --------
    >>> numbered(1, "date"), numbered(2, "date")
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
