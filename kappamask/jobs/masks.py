"""Items to masks on disk. Imports the loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import numpy as np
from rasterio import Affine
from rasterio.crs import CRS

from kappamask.base.bands import check_level
from kappamask.base.errors import InputError
from kappamask.base.windows import Grid
from kappamask.cubes.cube import (
    beside_area,
    check_scenes,
    choose_bands,
    choose_grid,
    find_inside,
    group_by_solar_day,
    hold_date,
    load_scenes,
)
from kappamask.cubes.native import BandOnGrid
from kappamask.jobs.loop import Date, MaskOptions, Report, run
from kappamask.jobs.stream import stream_labels
from kappamask.networks.model import announce_model
from kappamask.outputs.cog import Placement
from kappamask.outputs.masks import MaskRecord
from kappamask.outputs.records import Outline, Progress
from kappamask.predict.array import Output, Task, make_task
from kappamask.predict.cube import check_cube, predict_blocks
from kappamask.scenes.area import AreaLike, is_bbox, parse_area
from kappamask.scenes.catalogs import resolve_assets
from kappamask.scenes.scene import Scene, overlap
from kappamask.scenes.sources import read_scenes, renew

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr

LOG = logging.getLogger(__name__)
HELD = 2**26  # values of a date that is read once, for labels and picture, or of two: 256 MB


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
    report = run(
        dates_of(scenes, area, options),
        Path(folder),
        options,
        reopen=lambda: dates_of([renew(scene) for scene in scenes], area, options),
        progress=progress,
        tell=tell,
    )
    if options.refine:
        from kappamask.jobs.refined import refine_masks

        report = refine_masks(report, scenes, area, Path(folder), options)
    return replace(report, errors=dict(sorted((unreadable | report.errors).items())))


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
    level = check_scenes(scenes)
    names = choose_bands(scenes, options.network_bands, level)
    grid = choose_grid(scenes, area, resolution=options.resolution, max_pixels=options.max_pixels)
    margins = beside_area(scenes, grid, most=options.margin)
    task = task_of(names, level, options)
    outline = outline_of(area, options)
    inside = find_inside(outline.geometry, grid) if outline else None
    around = grid.widened(margins)
    values = len(names) * around.height * around.width
    is_small, are_two_small = values <= HELD, 2 * values <= HELD

    @cache
    def cube() -> xr.DataArray:
        return load(scenes, area, options, apart=is_small)

    @cache
    def checked() -> xr.DataArray:
        return check_cube(cube())

    @cache
    def labels() -> da.Array:
        return predict_blocks(checked(), task)

    bounds = [scene.bounds_in(grid.epsg) for scene in scenes]
    near = [
        scene
        for scene, there in zip(scenes, bounds, strict=True)
        if there is None or overlap(there, grid.bounds)
    ]
    groups = [[near[place] for place in group] for group in group_by_solar_day(near)]
    streams = [_streamable(group, names, grid, options) for group in groups]
    if not all(streams):
        checked()  # what cannot be loaded is told before the first date; it may leave out more
        left = {scene.id: scene for scene in scenes}  # of several of one id the last
        groups = [[left[name] for name in str(ids).split()] for ids in cube().source_items.values]
        streams = [_streamable(group, names, grid, options) for group in groups]
    elif len(near) < len(scenes):
        LOG.warning("left out %d items that miss the area", len(scenes) - len(near))

    held = HeldDates(lambda time: hold_date(cube(), time))
    unlabelled = cache(partial(_load_pictured, scenes, names, area, options)) if is_small else cube
    labelled: set[np.datetime64] = set()

    def labels_at(time: np.datetime64) -> Any:
        if is_small:
            labelled.add(time)
            held.begin(time)
            task.model.start()  # for the first date, while its files are read
            return predict_blocks(held.get(time), task)[0]
        return labels()[list(cube().time.values).index(time)]

    def scene_at(time: np.datetime64) -> xr.DataArray:
        scene = held.get(time).isel(time=0) if time in labelled else unlabelled().sel(time=time)
        return scene.compute() if is_small else scene  # once for picture and snow

    return [
        Date(
            str(group[0].time)[:19],
            record_of(group, grid, task, options, outline),
            partial(stream_labels, own, grid, task, margins=margins, progress=on_window)
            if own
            else partial(labels_at, group[0].time),
            inside,
            task.bands,
            partial(scene_at, group[0].time),
            ahead=partial(held.begin, group[0].time) if are_two_small and not own else None,
        )
        for group, own in zip(groups, streams, strict=True)
    ]


class HeldDates:
    """Dates in memory, by their time: the one that is labelled and drawn, and the next one.

    They are read by a thread of their own, one after another in the order of `begin`, and what
    reading them raises is raised by `get`. The third one that is begun drives out the first.
    """

    def __init__(self, read: Callable[[np.datetime64], xr.DataArray]) -> None:
        self._read = read
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kappamask-read")
        self._dates: dict[np.datetime64, Future[xr.DataArray]] = {}

    def begin(self, time: np.datetime64) -> None:
        """Begin to read a date, unless it is there or being read."""
        if time in self._dates:
            return
        while len(self._dates) > 1:
            del self._dates[next(iter(self._dates))]
        self._dates[time] = self._thread.submit(self._read, time)

    def get(self, time: np.datetime64) -> xr.DataArray:
        """Wait for a date; one whose reading failed is read anew the next time."""
        self.begin(time)
        try:
            return self._dates[time].result()
        except BaseException:
            self._dates.pop(time, None)
            raise


def load(scenes: Sequence[Scene], area: Any, options: MaskOptions, **how: Any) -> xr.DataArray:
    """Load scenes as the options say, and `how`, lazily."""
    asked = {name: getattr(options, name) for name in ("resolution", "engine", "margin")}
    asked |= {"bands": options.network_bands, "max_pixels": options.max_pixels}
    return load_scenes(scenes, area, **(asked | how))


def _load_pictured(
    scenes: Sequence[Scene], names: Sequence[str], area: Any, options: MaskOptions
) -> xr.DataArray:
    """Load what pictures of masks that were there are drawn of: few bands, no margins."""
    from kappamask.plot.picture import TRUE_COLOR
    from kappamask.predict.snow import snow_bands

    drawn = {*TRUE_COLOR, *(snow_bands(tuple(names)) or ())}
    bands = [name for name in names if name in drawn]
    return load(scenes, area, replace(options, bands=bands, margin=0))


def outline_of(area: AreaLike | None, options: MaskOptions) -> Outline | None:
    """Say what is cut out of the rectangle; None for all of it."""
    if area is None:
        return None
    geometry = parse_area(area)
    return Outline(geometry, options.field) if options.field or not is_bbox(geometry) else None


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
        model = announce_model(model, check_level(level), device=options.device)
    return make_task(bands, level=level, model=model, output=output).with_snow()


def record_of(
    sources: Sequence[Scene],
    grid: Grid,
    task: Task,
    options: MaskOptions,
    outline: Outline | None = None,
) -> MaskRecord:
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
        outline=outline,
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
