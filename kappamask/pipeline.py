"""The main job, date by date: cube, labels, files, pictures. Row 6: imports rows 0-5.

What one date needs is read, labelled, written and forgotten before the next one.
A date that fails is kept in mind and the others go on; finished dates are not
done again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kappamask.catalogs import resolve_assets
from kappamask.cube import load_cube
from kappamask.errors import KappaMaskError
from kappamask.manifest import bands_of_model
from kappamask.output import write_mask
from kappamask.picture import TRUE_COLOR
from kappamask.plot import quicklook
from kappamask.predict import predict_cube

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


@dataclass
class MaskReport:
    """What came of every date."""

    masks: list[Path] = field(default_factory=list)  # COGs; NAME.json lies beside NAME.tif
    pictures: list[Path] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # date: why


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
        Model, resolution, engine, offset, pictures.
    progress
        Called after each date with its name, how many are done, and how many there are.

    Returns
    -------
    MaskReport
        Files by date, and the dates that failed with the reason.

    Raises
    ------
    KappaMaskError
        If nothing can be done for any date: bad arguments, unreadable items, a
        folder that cannot be written to.

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
    cube = load_cube(
        items,
        area,
        resolution=options.resolution,
        bands=bands_of_model(options.model),
        engine=options.engine,
        resolve=resolve,
    )
    labels = predict_cube(cube, model=options.model)
    report = MaskReport()
    for index in range(cube.sizes["time"]):
        date = str(cube.time.values[index].astype("M8[s]"))
        try:
            one = labels.isel(time=[index])
            (mask,) = write_mask(one, folder, source_items=items, overwrite=False)
            report.masks.append(mask)
            if options.pictures:
                report.pictures.append(draw(cube.isel(time=index), mask, title=options.title))
        except KappaMaskError as error:
            report.failed[date] = str(error)
        if progress is not None:
            progress(date, index + 1, cube.sizes["time"])
    return report


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
