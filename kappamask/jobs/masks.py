"""The loop over dates: each one read, labelled, written as a mask, drawn.

What one date needs is read, labelled, written and forgotten before the next one. A date that
fails is kept in mind and the others go on; finished dates are not done again. Dates whose files
could not be read are tried again when all others are through: by then a server may have
recovered, and signed addresses are renewed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import numpy as np
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling

from kappamask.base.bands import check_level
from kappamask.base.errors import CatalogError, InputError, KappaMaskError, ReadError
from kappamask.base.files import check_folder
from kappamask.base.legend import LEGEND, Label, Snow
from kappamask.base.retry import DATES, is_remote
from kappamask.base.windows import LATTICE, Grid
from kappamask.cubes.cube import (
    beside_area,
    check_scenes,
    choose_bands,
    choose_grid,
    find_inside,
    group_by_solar_day,
    hold_date,
    load_cube,
)
from kappamask.cubes.rasters import BandOnGrid
from kappamask.jobs.plan import check_room, describe, tell_date
from kappamask.jobs.stream import stream_labels
from kappamask.networks.manifest import bands_of_model
from kappamask.networks.model import load_model
from kappamask.outputs.cog import Placement, Strips
from kappamask.outputs.masks import MaskRecord
from kappamask.outputs.records import (
    Outline,
    Progress,
    find_complete,
    read_item,
    try_each,
    write_record,
)
from kappamask.predict.array import Output, Task, make_task
from kappamask.scenes.area import MAX_PIXELS, AreaLike, is_bbox, parse_area
from kappamask.scenes.catalogs import resolve_assets
from kappamask.scenes.formats import open_layers, open_pixels
from kappamask.scenes.scene import Scene, overlap
from kappamask.scenes.sources import read_scenes, renew

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr

    from kappamask.scenes.raster import Told

LOG = logging.getLogger(__name__)
LONGEST = 1200  # pixels of a picture: what is larger is drawn by overviews
HELD = 2**26  # pixels of all bands of a date that is read once, for labels and picture: 256 MB
BY_BAND = 4096**2  # pixels of a scene that is drawn band by band: three bands of it are 200 MB


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
    retry_wait: float = (
        DATES.wait_s
    )  # seconds before the first round, twice that before the next; or
    # up to half as much more

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
    failed: dict[str, str] = field(default_factory=dict)  # date: why

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
    bands: tuple[str, ...] = ()  # that are read
    inside: np.ndarray | None = None  # bool (y, x): what is missing outside; None: nothing is
    scene: Callable[[], xr.DataArray] | None = None  # what a picture is drawn of
    small: Callable[[int], xr.DataArray] | None = None  # the same, so many times as coarse
    remote: bool = False  # a pause may help

    def make(self, folder: Path, options: MaskOptions) -> Made:
        """Label, write and draw it, unless that is done."""
        there = None if options.overwrite else find_complete(self.record, folder)
        mask = there or write_record(self.record, self.labels(), folder)
        picture = None
        if self.scene is not None and options.pictures:
            factor = -(-max(self.record.placement.shape) // LONGEST)
            if self.small is not None and factor > 1:
                picture = draw_small(partial(self.small, factor), mask, title=options.title)
            else:
                picture = draw(self.scene(), mask, title=options.title)
        return Made(mask, picture, there is not None)

    def labels(self) -> Any:
        """Give the labels, missing outside of the polygon."""
        pixels = self.pixels()
        return pixels if self.inside is None else cut_out(pixels, self.inside)


@dataclass(frozen=True)
class Made:
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
) -> tuple[Report, dict[str, KappaMaskError]]:
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
    tuple
        The report, and the errors of the dates that failed.

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
        one = dates[index].make(folder, options)
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
        made |= {i: replace(one, skipped=one.skipped and not attempt) for i, one in results.items()}
        failed = {i: error for i, error in failed.items() if i not in results} | errors
        waiting = [index for index, error in errors.items() if may_pass(error)]
        if not waiting:
            break
    whys = {dates[index].name: failed[index] for index in sorted(failed)}
    kept = [made[index] for index in sorted(made)]
    report = Report(
        masks=[one.mask for one in kept],
        skipped=[one.mask for one in kept if one.skipped],
        pictures=[one.picture for one in kept if one.picture is not None],
        failed={name: str(error) for name, error in whys.items()},
    )
    return report, whys


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


def draw_small(scene: Callable[[], xr.DataArray], mask: Path, *, title: str | None = None) -> Path:
    """Draw a large mask, by its overviews and those of its scene, unless that is done."""
    from kappamask.plot import quicklook

    path = mask.with_suffix(".png")
    if path.exists() and path.stat().st_mtime_ns >= mask.stat().st_mtime_ns:
        return path
    visible = scene()
    with open_pixels(str(mask)) as raster:
        codes = raster.read(1, out_shape=visible.shape[1:], resampling=Resampling.mode)
        model = raster.tags().get("model")
    labels = visible.isel(band=0, drop=True).copy(data=codes)
    labels.attrs = {"level": visible.attrs["level"], "kappamask_model": model}
    item = read_item(mask)
    shares = np.zeros(len(LEGEND))
    for entry in item["assets"]["mask"]["classification:classes"]:
        shares[entry["value"]] = entry["percentage"] / 100
    return quicklook(visible, labels, path, title=title, shares=shares)


def draw(scene: xr.DataArray, mask: Path, *, title: str | None = None) -> Path:
    """Draw the quicklook of a mask that was written, unless a newer picture is there."""
    from kappamask.plot import quicklook
    from kappamask.plot.picture import TRUE_COLOR
    from kappamask.predict.snow import find_snow, snow_bands

    path = mask.with_suffix(".png")
    if path.exists() and path.stat().st_mtime_ns >= mask.stat().st_mtime_ns:
        return path
    visible = scene.sel(band=list(TRUE_COLOR))
    if visible[0].size < BY_BAND:
        visible = visible.compute()
    with open_layers(mask) as raster:
        codes = raster.squeeze("band", drop=True).load()
    labels = visible.isel(band=0, drop=True).copy(data=codes.values)
    labels.attrs = {"level": scene.attrs["level"], "kappamask_model": codes.attrs.get("model")}
    item = read_item(mask)
    bands = snow_bands(tuple(map(str, scene.band.values)))
    snow = None
    if bands and item["properties"].get("eo:snow_cover"):  # else its bands need not be read again
        told = scene.sel(band=list(bands)).compute()
        snow = labels.copy(data=find_snow(codes.values, *told.values)).rename("snow")
    return quicklook(visible, labels, path, title=title, snow=snow)


# --- items --------------------------------------------------------------------------------------


def mask_items(
    items: Sequence[Any],
    area: AreaLike | None,
    folder: str | Path,
    *,
    options: MaskOptions | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], object] | None = None,
) -> Report:
    """Label every date of some items over an area and write masks and pictures.

    A date of one item whose files lie on this machine is streamed: each block of them is
    decoded once, and memory holds a few windows, however large the tile. Others are read by
    `load_cube`; the masks are the same.

    Parameters
    ----------
    items, area
        As `kappamask.load_cube` takes them; None: all of the items, whole tiles as they are.
    folder
        Made if absent. Gets ``NAME.tif`` (COG), ``NAME.json`` (STAC item) and
        ``NAME.png`` (quicklook) of every date, missing outside of a polygon; what is
        already there, complete and of the same model and grid, is kept. Where three dates or
        more are to be refined, the refined masks come in its folder ``refined``.
    options
        Model, resolution, engine, offset, pictures, retries.
    progress
        Called after each date with its name, how many were tried, and how many there are;
        again for those that are tried again.
    tell
        Called with lines for people: first what will be done, then the shares of each date.

    Returns
    -------
    Report
        Files in the order of the dates, which of them were there before, and the dates that
        failed with the reason.

    Raises
    ------
    KappaMaskError
        If nothing can be done for any date: bad arguments, unreadable items, a
        folder that cannot be written to, too little memory (finished dates are kept).

    Examples
    --------
    >>> import tempfile
    >>> from kappamask import search
    >>> from kappamask.sample import SCENES, catalog_path
    >>> scene = SCENES[1]
    >>> items = search(scene.bbox, "2019-07-11", catalog=catalog_path(), level=scene.level)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = mask_items(items, scene.bbox, folder)
    ...     [path.suffix for path in report.masks + report.pictures]
    ['.tif', '.png']
    """
    options = options or MaskOptions()
    resolve = partial(resolve_assets, dn_offset=options.dn_offset)
    scenes, unreadable = read_scenes(items, options.network_bands, resolve=resolve)
    report, _ = run(
        dates_of(scenes, area, options),
        Path(folder),
        options,
        reopen=lambda: dates_of([renew(scene) for scene in scenes], area, options),
        progress=progress,
        tell=tell,
    )
    if options.refine:
        report = _refine(report, scenes, area, Path(folder), options)
    why = {name: str(error) for name, error in unreadable.items()} | report.failed
    return replace(report, failed=dict(sorted(why.items())))


def _refine(
    report: Report,
    scenes: Sequence[Scene],
    area: AreaLike | None,
    folder: Path,
    options: MaskOptions,
) -> Report:
    """Put refined masks in the place of those by single dates."""
    from kappamask.jobs.written import FOLDER, refine_masks

    cube = load_cube(
        scenes,
        area,
        resolution=options.resolution,
        bands=options.network_bands,
        margin=0,
        max_pixels=options.max_pixels,
    )
    masks, kept = refine_masks(
        report.masks,
        cube,
        scenes,
        folder / FOLDER,
        outline=outline_of(area, options),
        overwrite=options.overwrite,
    )
    # Too few to be refined, they are those of single dates still.
    return replace(report, masks=masks, skipped=report.skipped if masks == report.masks else kept)


def dates_of(
    scenes: Sequence[Scene], area: Any, options: MaskOptions, *, on_window: Progress | None = None
) -> list[Date]:
    """Say of each date how it is labelled: streamed where it can be, else with all by `load_cube`.

    Raises
    ------
    KappaMaskError
        As `load_cube`.
    """
    scenes = sorted(scenes, key=lambda scene: (scene.time, scene.id))
    level, bands, step = check_scenes(scenes), options.network_bands, options.resolution
    names = choose_bands(scenes, bands, level)
    grid = choose_grid(scenes, area, resolution=step, max_pixels=options.max_pixels)
    margins = beside_area(scenes, grid, most=options.margin)
    task = task_of(names, level, options)
    outline = outline_of(area, options)
    inside = find_inside(outline.geometry, grid) if outline else None

    @cache
    def cube() -> xr.DataArray:
        return load_cube(
            scenes,
            area,
            resolution=step,
            bands=bands,
            engine=options.engine,
            max_pixels=options.max_pixels,
            margin=options.margin,
        )

    @cache
    def labels() -> da.Array:
        from kappamask.predict.cube import check_cube, predict_blocks

        return predict_blocks(check_cube(cube()), task)

    bounds = [scene.bounds_in(grid.epsg) for scene in scenes]
    near = [
        scene
        for scene, there in zip(scenes, bounds, strict=True)
        if there is None or overlap(there, grid.bounds)
    ]
    groups = [[near[place] for place in group] for group in group_by_solar_day(near)]
    streams = [_streamable(group, names, grid, options) for group in groups]
    if not all(streams):
        labels()  # what cannot be loaded is told before the first date; it may leave out more
        left = {scene.id: scene for scene in scenes}  # of several of one id the last
        groups = [[left[name] for name in str(ids).split()] for ids in cube().source_items.values]
        streams = [_streamable(group, names, grid, options) for group in groups]
    elif len(near) < len(scenes):
        LOG.warning("left out %d items that miss the area", len(scenes) - len(near))

    @lru_cache(maxsize=1)
    def held(time: np.datetime64) -> xr.DataArray:
        return hold_date(cube(), time)

    pixels = (margins.above + grid.height + margins.below) * (
        margins.left + grid.width + margins.right
    )
    is_small = len(names) * pixels <= HELD

    def labels_at(time: np.datetime64) -> Any:
        if is_small:
            from kappamask.predict.cube import predict_blocks

            return predict_blocks(held(time), task)[0]
        return labels()[list(cube().time.values).index(time)]

    def scene_at(time: np.datetime64) -> xr.DataArray:
        return held(time).isel(time=0) if is_small else cube().sel(time=time)

    return [
        Date(
            name=str(group[0].time)[:19],
            record=replace(record_of(group, grid, task, options), outline=outline),
            inside=inside,
            pixels=partial(stream_labels, own, grid, task, margins=margins, progress=on_window)
            if own
            else partial(labels_at, group[0].time),
            bands=task.bands,
            scene=partial(scene_at, group[0].time),
            remote=any(is_remote(file.href) for one in group for file in one.files.values()),
        )
        for group, own in zip(groups, streams, strict=True)
    ]


def outline_of(area: AreaLike | None, options: MaskOptions) -> Outline | None:
    """Say what is cut out of the rectangle; None for all of it."""
    if area is None:
        return None
    geometry = parse_area(area)
    return Outline(geometry, options.field) if options.field or not is_bbox(geometry) else None


def cut_out(pixels: Any, inside: np.ndarray) -> Any:
    """Make labels, (y, x) or planes of labels and snow, missing where `inside` (y, x) is False.

    Examples
    --------
    >>> cut_out(np.array([[1, 4]], "uint8"), np.array([[True, False]])).tolist()
    [[1, 5]]
    """
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


def task_of(bands: Sequence[str], level: str, options: MaskOptions) -> Task:
    """Ask for labels, and for snow where the bands tell it.

    Raises
    ------
    InputError
        As `make_task`: where a file of snow is asked for, B11 must be there.
    """
    output: Output = "snow" if options.snow else "labels"
    model = options.model
    if isinstance(model, str):
        model = load_model(model, check_level(level), device=options.device)
    return make_task(bands, level=level, model=model, output=output).with_snow()


def record_of(sources: Sequence[Scene], grid: Grid, task: Task, options: MaskOptions) -> MaskRecord:
    """Say what the mask of some scenes is."""
    frame, step = sources[0].frame, grid.resolution
    if frame is None:
        crs, place = CRS.from_epsg(grid.epsg), [step, 0.0, grid.left, 0.0, -step, grid.top]
    else:
        crs, place = frame.crs_wkt and CRS.from_wkt(frame.crs_wkt), list(frame.transform)
    return MaskRecord(
        time=sources[0].time,
        placement=Placement(crs or None, Affine(*place), (grid.height, grid.width)),
        level=task.model.level,
        model=task.model.entry.name,
        model_sha256=task.model.entry.sha256,
        sources=tuple(sources),
        snow=bool(task.leading),
        keep_snow=options.snow,
    )


def _streamable(
    group: Sequence[Scene], names: Sequence[str], grid: Grid, options: MaskOptions
) -> Scene | None:
    """View the scene of a date as files on this machine that are read as they are.

    Returns
    -------
    Scene or None
        None if it has to be read by `load_cube`: there are several, an engine is asked for, a
        band is absent, a file lies elsewhere, its pixels do not meet those of the grid, or the
        item does not tell where they lie.
    """
    scene, *others = group
    if others or scene.epsg != grid.epsg or options.engine != MaskOptions.engine:
        return None
    files = {}
    for name in names:
        file = scene.files.get(name)
        path = local_path(file.href) if file and file.bounds else None
        if file is None or path is None:
            return None
        files[name] = replace(file, href=path)
        try:
            BandOnGrid.fit(files[name], grid)
        except InputError:
            return None
    return replace(scene, files=files)


def local_path(href: str) -> str | None:
    """Tell the path of a file on this machine; None if it lies elsewhere.

    Examples
    --------
    >>> local_path("file:///data/B%2002.tif"), local_path("s3://bucket/B02.tif")
    ('/data/B 02.tif', None)
    """
    parts = urlsplit(href)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return unquote(parts.path)
    if Path(href).is_absolute() and not href.startswith("/vsi"):
        return href
    return None
