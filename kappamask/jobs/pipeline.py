"""The main job, date by date: cube, labels, files, pictures. Row 6: imports rows 0-5.

What one date needs is read, labelled, written and forgotten before the next one.
A date that fails is kept in mind and the others go on; finished dates are not
done again. Dates whose files could not be read are tried again when all others
are through: by then a server may have recovered, and signed addresses are renewed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kappamask.base.errors import CatalogError, KappaMaskError, ReadError, ResourceError
from kappamask.base.files import check_folder
from kappamask.base.retry import is_remote, spread
from kappamask.cubes.cube import load_cube
from kappamask.networks.manifest import bands_of_model
from kappamask.outputs.label_cube import check_labels
from kappamask.outputs.masks import make_records
from kappamask.outputs.records import is_complete, write_record
from kappamask.plot import quicklook
from kappamask.plot.picture import TRUE_COLOR
from kappamask.predict.cube import predict_cube
from kappamask.scenes.catalogs import resolve_assets
from kappamask.scenes.scene import Scene
from kappamask.scenes.sources import read_scenes, renew

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class MaskOptions:
    """What the main job can be asked for beside area, items and folder."""

    model: str = "default"
    resolution: float = 10  # metres
    engine: str = "stackstac"
    dn_offset: int | None = None  # for items that do not tell it
    pictures: bool = True
    title: str | None = None  # of the pictures
    retries: int = 2  # rounds in which dates that could not be read are tried again
    retry_wait: float = 5.0  # seconds before the first round, twice that before the next; or
    # up to half as much more


@dataclass
class MaskReport:
    """What came of every date."""

    masks: list[Path] = field(default_factory=list)  # COGs; NAME.json lies beside NAME.tif
    skipped: list[Path] = field(default_factory=list)  # those of `masks` that were there before
    pictures: list[Path] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # date: why

    @property
    def done(self) -> list[Path]:
        """The masks that this run made."""
        return [mask for mask in self.masks if mask not in self.skipped]


def mask_items(
    items: Sequence[Any],
    area: Any,
    folder: str | Path,
    *,
    options: MaskOptions | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> MaskReport:
    """Label every date of some items over an area and write masks and pictures.

    Parameters
    ----------
    items, area
        As `kappamask.load_cube` takes them.
    folder
        Made if absent. Gets ``NAME.tif`` (COG), ``NAME.json`` (STAC item) and
        ``NAME.png`` (quicklook) of every date; what is already there, complete and
        of the same model and grid, is kept.
    options
        Model, resolution, engine, offset, pictures, retries.
    progress
        Called after each date with its name, how many were tried, and how many there are;
        again for those that are tried again.

    Returns
    -------
    MaskReport
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
    scenes, unreadable = read_scenes(items, bands_of_model(options.model), resolve=resolve)
    series = open_series(scenes, area, Path(folder), options)
    dates = series.cube.sizes["time"]
    check_folder(series.folder.absolute(), "masks")  # or every date would fail for it
    made: dict[int, Made] = {}
    failed: dict[int, KappaMaskError] = {}
    waiting = list(range(dates))
    for attempt in range(1 + options.retries):
        if attempt and any(series.is_remote(index) for index in waiting):
            time.sleep(spread(options.retry_wait * 2 ** (attempt - 1)))
            series = open_series([renew(scene) for scene in scenes], area, Path(folder), options)
        for position, index in enumerate(waiting, 1):
            try:
                result = series.make(index)
                # A second try that finds the mask draws a picture that failed: that is no skip.
                made[index] = replace(result, skipped=result.skipped and attempt == 0)
                failed.pop(index, None)
            except ResourceError:
                raise  # the other dates are as large
            except KappaMaskError as error:
                failed[index] = error
            if progress is not None:
                tried = position if attempt == 0 else dates
                progress(series.date(index), tried, dates)
        waiting = [index for index, error in sorted(failed.items()) if may_pass(error)]
        if not waiting:
            break
    report = make_report(series, made, failed)
    why = {name: str(error) for name, error in unreadable.items()} | report.failed
    return replace(report, failed=dict(sorted(why.items())))


@dataclass(frozen=True)
class Made:
    """The files of one date."""

    mask: Path
    picture: Path | None
    skipped: bool  # the mask was there before


@dataclass(frozen=True)
class Series:
    """All dates of one job, lazily."""

    cube: xr.DataArray  # (time, band, y, x)
    labels: xr.DataArray  # (time, y, x)
    scenes: Sequence[Scene]
    folder: Path
    options: MaskOptions

    @cached_property
    def scenes_by_id(self) -> dict[str, Scene]:
        """Of several scenes of one id the last, as `write_mask` takes it."""
        return {scene.id: scene for scene in self.scenes}

    def date(self, index: int) -> str:
        """Name one date."""
        return str(self.cube.time.values[index].astype("M8[s]"))

    def scenes_of(self, index: int) -> list[Scene]:
        """Find the scenes of one date: with all of them, each date would look through all."""
        ids = str(self.cube["source_items"].values[index]).split()
        return [self.scenes_by_id[name] for name in ids]

    def is_remote(self, index: int) -> bool:
        """Tell whether files of one date lie on a server, which may need a pause."""
        files = [file for scene in self.scenes_of(index) for file in scene.files.values()]
        return any(is_remote(file.href) for file in files)

    def make(self, index: int) -> Made:
        """Label one date, write it and draw it, unless that is done."""
        labels, scenes = self.labels.isel(time=[index]), self.scenes_of(index)
        (record,) = make_records(check_labels(labels), scenes)
        folder = self.folder.absolute()
        skipped = is_complete(record, folder)
        mask = write_record(record, labels.data[0], folder, overwrite=False)
        if not self.options.pictures:
            return Made(mask, None, skipped)
        scene = self.cube.isel(time=index)
        return Made(mask, draw(scene, mask, title=self.options.title), skipped)


def open_series(scenes: Sequence[Scene], area: Any, folder: Path, options: MaskOptions) -> Series:
    """Load and label scenes lazily."""
    cube = load_cube(
        scenes,
        area,
        resolution=options.resolution,
        bands=bands_of_model(options.model),
        engine=options.engine,
    )
    return Series(cube, predict_cube(cube, model=options.model), scenes, folder, options)


def may_pass(error: KappaMaskError) -> bool:
    """Tell whether trying again may help: a read that failed, not an item or input at fault.

    A full disk is no such case either: nothing here makes room.

    Examples
    --------
    >>> may_pass(ReadError("HTTP 503")), may_pass(KappaMaskError("bands missing"))
    (True, False)
    """
    # `write_mask` reports whatever kept a date from being computed as a failed read.
    return isinstance(error, ReadError | CatalogError) and not isinstance(
        error.__cause__, ValueError
    )


def make_report(
    series: Series, made: Mapping[int, Made], failed: Mapping[int, KappaMaskError]
) -> MaskReport:
    """Tell what came of the dates, in their order."""
    results = [made[index] for index in sorted(made)]
    return MaskReport(
        masks=[result.mask for result in results],
        skipped=[result.mask for result in results if result.skipped],
        pictures=[result.picture for result in results if result.picture is not None],
        failed={series.date(index): say_reason(failed[index]) for index in sorted(failed)},
    )


def say_reason(error: KappaMaskError) -> str:
    """Say why one date failed: what `write_mask` says of several dates is left out.

    Examples
    --------
    >>> say_reason(ReadError("HTTP 503"))
    'HTTP 503'
    """
    cause = error.__cause__
    single = isinstance(error, ReadError) and isinstance(cause, KappaMaskError)
    return str(cause if single else error)


def draw(scene: xr.DataArray, mask: Path, *, title: str | None = None) -> Path:
    """Draw the quicklook of a mask that was written, unless a newer picture is there."""
    import rioxarray

    path = mask.with_suffix(".png")
    if path.exists() and path.stat().st_mtime_ns >= mask.stat().st_mtime_ns:
        return path
    visible = scene.sel(band=list(TRUE_COLOR)).compute()
    with rioxarray.open_rasterio(mask) as raster:
        codes = raster.squeeze("band", drop=True).load()
    labels = visible.isel(band=0, drop=True).copy(data=codes.values)
    labels.attrs = {"level": scene.attrs["level"], "kappamask_model": codes.attrs.get("model")}
    return quicklook(visible, labels, path, title=title)
