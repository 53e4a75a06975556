"""Whole products and files on this machine to masks: the loop, for those who want an error."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from kappamask.cubes.cube import beside_area, choose_grid, find_inside
from kappamask.cubes.safe import read_product
from kappamask.jobs.masks import (
    Date,
    MaskOptions,
    dates_of,
    outline_of,
    record_of,
    run,
    task_of,
)
from kappamask.jobs.stream import stream_labels
from kappamask.outputs.records import Progress, name_failed
from kappamask.scenes.area import AreaLike
from kappamask.scenes.catalogs import resolve_assets
from kappamask.scenes.sources import scene_of


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
    options = options or MaskOptions()
    resolve = partial(resolve_assets, dn_offset=options.dn_offset)
    scenes = [scene_of(item, options.network_bands, resolve=resolve) for item in items]
    return _all_or_error(dates_of(scenes, area, options, on_window=progress), folder, options)


def mask_product(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    area: AreaLike | None = None,
    options: MaskOptions | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], object] | None = None,
) -> list[Path]:
    """Label a SAFE product, or the part of it in an area, and write masks.

    Parameters
    ----------
    path
        As `open_safe` takes it.
    folder
        Made if absent. Gets ``NAME.tif`` (COG), its ``.aux.xml`` and ``NAME.json``
        (STAC item) of every tile, the same as `write_mask` writes of
        ``predict_cube(open_safe(path))``, and of its snow where B11 is there.
    area
        As `open_safe` takes it; only this part is decoded and labelled.
    options
        Model, resolution, tile, offset, whether to write again.
    progress
        Called after each window with a name, windows done, windows in all.
    tell
        Called with lines for people: what will be done, then the shares of each tile.

    Returns
    -------
    list of Path
        The COGs, one per tile.

    Raises
    ------
    KappaMaskError
        As `open_safe`; WriteError if the folder cannot be written to.
    ReadError
        After all tiles of a product with several were tried; names those that failed.

    Examples
    --------
    >>> mask_product("S2A_MSIL1C_nowhere.SAFE", "masks")
    Traceback (most recent call last):
    ...
    kappamask.base.errors.ReadError: no SAFE product at ...S2A_MSIL1C_nowhere.SAFE: check the path
    """
    options = options or MaskOptions()
    scenes = read_product(path).scenes(
        resolution=options.resolution,  # type: ignore[arg-type]  # 10.0 is one of them
        bands=options.network_bands,
        area=area,
        tile=options.tile,
        dn_offset=options.dn_offset,
    )
    dates = []
    for scene in scenes:
        grid = choose_grid([scene], area, resolution=options.resolution, within=True)
        task = task_of(tuple(scene.files), str(scene.level), options)
        margins = beside_area([scene], grid, most=options.margin)
        pixels = partial(stream_labels, scene, grid, task, margins=margins, progress=progress)
        outline = outline_of(area, options)
        record = replace(record_of([scene], grid, task, options), outline=outline)
        inside = find_inside(outline.geometry, grid) if outline else None
        dates.append(Date(f"tile {scene.tile}", record, pixels, task.bands, inside))
    return _all_or_error(dates, folder, options, tell=tell)


def _all_or_error(
    dates: Sequence[Date],
    folder: str | os.PathLike[str],
    options: MaskOptions,
    *,
    tell: Callable[[str], object] | None = None,
) -> list[Path]:
    """Make dates whose files lie here: a second round would read the same."""
    once = replace(options, pictures=False, retries=0)
    report, failed = run(dates, Path(folder), once, reopen=lambda: dates, tell=tell)
    if failed:
        first = next(iter(failed.values()))
        if len(dates) == 1:
            raise first
        raise name_failed(failed, len(dates), unit="scene", again="repeat to try") from first
    return report.masks
