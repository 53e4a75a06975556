"""Products and files on this machine to masks: the loop over them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kappamask.base.errors import InputError, NoItemsError
from kappamask.base.windows import LATTICE, snap_chunks
from kappamask.cubes.cube import beside_area, build_cube, choose_grid, find_inside
from kappamask.cubes.native import is_own, read_lazily, read_small
from kappamask.jobs.loop import Date, MaskOptions, Report, run
from kappamask.jobs.masks import dates_of, outline_of, record_of, task_of
from kappamask.jobs.stream import stream_labels
from kappamask.outputs.records import Progress, name_failed, try_each
from kappamask.plot.picture import TRUE_COLOR
from kappamask.scenes.area import AreaLike
from kappamask.scenes.catalogs import resolve_assets
from kappamask.scenes.products import Told, find_products, is_raster, read_product, read_raster
from kappamask.scenes.scene import Scene
from kappamask.scenes.sources import listed, scene_of

if TYPE_CHECKING:
    import xarray as xr

LOG = logging.getLogger(__name__)


def mask_files(
    items: Sequence[Any],
    folder: str | os.PathLike[str],
    *,
    area: AreaLike | None = None,
    options: MaskOptions | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Label items whose files lie on this machine, and write a mask of every date.

    As `mask_items` without pictures and further rounds, for those who want an error.

    Parameters
    ----------
    items
        Of one level, as `load_cube` takes them.
    folder, options, progress
        As `mask_product` takes them; ``options.tile`` means nothing here.
    area
        As `load_cube` takes it; None: all of the items.

    Returns
    -------
    list of Path
        The COGs, one per date.

    Raises
    ------
    KappaMaskError
        As `load_cube`; WriteError if the folder cannot be written to.
    ReadError
        After all dates were tried; names those that failed.

    Examples
    --------
    >>> import tempfile
    >>> from kappamask import search
    >>> from kappamask.sample import SCENES, catalog_path
    >>> scene = SCENES[1]
    >>> items = search(scene.bbox, "2019-07-11", catalog=catalog_path(), level=scene.level)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.suffix for path in mask_files(items, folder)]
    ['.tif']
    """
    # A second round would read the same files.
    once = replace(options or MaskOptions(), pictures=False, retries=0)
    resolve = partial(resolve_assets, dn_offset=once.dn_offset)
    scenes = [scene_of(item, once.network_bands, resolve=resolve) for item in listed(items)]
    dates = dates_of(scenes, area, once, on_window=progress)
    return _all_or_error(run(dates, Path(folder), once, reopen=lambda: dates))


def mask_product(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    area: AreaLike | None = None,
    options: MaskOptions | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], object] | None = None,
) -> list[Path]:
    """Label a product, or the part of it in an area, and write masks.

    As `mask_products` without pictures, for those who want an error.

    Parameters
    ----------
    path, folder, area, options, progress, tell
        As `mask_products` takes them.

    Returns
    -------
    list of Path
        The COGs, one per tile.

    Raises
    ------
    KappaMaskError
        As `open_safe` and `open_raster`; WriteError if the folder cannot be written to.
    ReadError
        After all tiles of a product with several were tried; names those that failed.

    Examples
    --------
    >>> mask_product("S2A_MSIL1C_nowhere.SAFE", "masks")
    Traceback (most recent call last):
    ...
    kappamask.base.errors.ReadError: no SAFE product at ...S2A_MSIL1C_nowhere.SAFE: check the path
    """
    once = replace(options or MaskOptions(), pictures=False, retries=0)
    if find_products([path]) != [os.fspath(path)]:  # a folder of products is none
        read_product(path)  # its error names one of them
    return _all_or_error(
        mask_products([path], folder, area=area, options=once, progress=progress, tell=tell)
    )


def mask_products(
    paths: Iterable[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    *,
    area: AreaLike | None = None,
    options: MaskOptions | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], object] | None = None,
) -> Report:
    """Label many products and rasters, each tile for itself, and write masks and pictures.

    They are streamed: each block of their files is decoded once, and memory holds a few windows.

    Parameters
    ----------
    paths
        SAFE products (folder, zip, ``MTD_MSIL*.xml``) and EOPF Zarr products, here or at an
        https or s3 address, rasters of one's own (``.tif``, ``.vrt``...; `options.raster` says
        what they do not), and folders of these.
    folder
        Made if absent. Gets ``NAME.tif`` (COG), its ``.aux.xml``, ``NAME.json`` (STAC item) and
        ``NAME.png`` (quicklook) of every tile and raster, the same as `write_mask` writes of
        ``predict_cube`` of ``open_safe`` or ``open_raster``, and of its snow where B11 is there.
        What is there, complete and the same, is kept. Two products of one pass and tile get
        names of their own.
    area
        As `open_safe` takes it; only this part is decoded and labelled, and what lies outside
        is left out.
    options
        Model, resolution (rasters keep theirs), bands, tile, offset, pictures.
    progress
        Called after each window with a name, windows done, windows in all.
    tell
        Called with lines for people: what will be done, then the shares of each tile.

    Returns
    -------
    Report
        Files in the order of the products, which of them were there before, and those that
        failed with the reason.

    Raises
    ------
    KappaMaskError
        If nothing can be done for any product: as `open_safe` and `open_raster`.
    WriteError
        If the folder cannot be written to.
    ResourceError
        If memory or threads run out; finished masks are kept.

    Examples
    --------
    >>> from kappamask.sample import catalog_path
    >>> mask_products([catalog_path().parent], "masks")
    Traceback (most recent call last):
    ...
    kappamask.base.errors.InputError: a SAFE product holds MTD_MSIL1C.xml or MTD_MSIL2A.xml, ...
    """
    options = options or MaskOptions()
    products = find_products(paths)
    work = {path: partial(_dates_of, path, area, options, progress) for path in products}
    read, unreadable = try_each(work)
    outside = [path for path, why in unreadable.items() if isinstance(why, NoItemsError)]
    if unreadable and not any(read.values()):
        raise next(iter(unreadable.values()))
    if outside:
        LOG.warning("left out %d products that miss the area", len(outside))
    dates = _named_apart([date for some in read.values() for date in some], Path(folder))
    report = run(dates, Path(folder), options, reopen=lambda: dates, tell=tell)
    errors = {Path(path).name: why for path, why in unreadable.items() if path not in outside}
    return replace(report, errors=errors | report.errors)


def _dates_of(path: str, area: Any, options: MaskOptions, progress: Progress | None) -> list[Date]:
    """Say of each tile of a product, or of a raster, how it is labelled."""
    told = options.raster or Told()
    if is_raster(path):
        wanted = Told(**{**vars(told), "bands": told.bands or options.bands})
        scenes = [read_raster(path, wanted)]
    else:
        product = read_product(path)
        if told.level not in (None, product.metadata.level):
            raise InputError(
                f"product {product.metadata.name} is of level {product.metadata.level}, got level "
                f"{told.level}: leave the level out (kappamask mask: --level)"
            )
        scenes = product.scenes(
            resolution=options.resolution,  # type: ignore[arg-type]  # 10.0 is one of them
            bands=options.network_bands,
            area=area,
            tile=options.tile,
            dn_offset=options.dn_offset,
            apart=True,
        )
    return [_date_of(scene, area, options, progress) for scene in scenes]


def _date_of(scene: Scene, area: Any, options: MaskOptions, progress: Progress | None) -> Date:
    own = min(file.gsd for file in scene.files.values())
    resolution = own if is_own(scene) else options.resolution
    grid = choose_grid([scene], area, resolution=resolution, within=True)
    task = task_of(tuple(scene.files), scene.level, options)
    margins = beside_area([scene], grid, most=options.margin)
    outline = outline_of(area, options)

    def cube() -> xr.DataArray:
        names = list(scene.files)
        pixels = read_lazily([scene], names, grid, snap_chunks(grid, LATTICE.core))
        return build_cube(pixels, [[scene]], names, grid).isel(time=0)

    return Date(
        f"tile {scene.tile}" if scene.tile else scene.id,
        record_of([scene], grid, task, options, outline),
        partial(stream_labels, scene, grid, task, margins=margins, progress=progress),
        find_inside(outline.geometry, grid) if outline else None,
        task.bands,
        scene=None if scene.frame else cube,
        small=None if is_own(scene) else partial(read_small, scene, TRUE_COLOR, grid),
    )


def _named_apart(dates: Sequence[Date], folder: Path) -> list[Date]:
    """Give names of their own to masks whose name another product's has, here or in the folder.

    A pass is sometimes cut into two products of one tile, each of which shows a part.
    """
    taken: dict[str, str] = {}
    apart = []
    for date in dates:
        record, (source,) = date.record, date.record.sources
        before = _source_of(folder / f"{record.name}.json")
        if record.name in taken or before not in (None, source.id):
            # Two strips of a pass differ in the end of their names, one product twice in its place.
            twice = taken.get(record.name) == source.id
            record = replace(record, suffix=_discriminator(source, by_place=twice))
        taken[record.name] = source.id
        apart.append(replace(date, record=record))
    return apart


def _source_of(path: Path) -> str | None:
    """Tell from which product a mask was made that is there."""
    try:
        links = json.loads(path.read_text("utf-8"))["links"]
        titles = [link["title"] for link in links if link["title"].startswith("Source item ")]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return titles[0].removeprefix("Source item ") if titles else None


def _discriminator(scene: Scene, *, by_place: bool) -> str:
    """Take what the name of a product ends with, or a number made of where its files lie."""
    found = re.search(r"_(\d{8}T\d{6})$", scene.id)
    if found and not by_place:
        return found[1]
    places = " ".join(sorted({file.href for file in scene.files.values()}))
    return hashlib.sha256(f"{scene.id} {places}".encode("utf-8", "replace")).hexdigest()[:8]


def _all_or_error(report: Report) -> list[Path]:
    """Give the masks, or raise what some of them failed for."""
    total = len(report.masks) + len(report.errors)
    if report.errors:
        first = next(iter(report.errors.values()))
        if total == 1:
            raise first
        raise name_failed(report.errors, total, unit="scene", again="repeat to try") from first
    return report.masks
