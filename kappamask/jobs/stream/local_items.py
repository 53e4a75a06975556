"""Items of a catalogue whose files lie on this machine, streamed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import numpy as np

from kappamask.base.errors import InputError
from kappamask.base.windows import Grid
from kappamask.cubes.cube import (
    check_scenes,
    choose_bands,
    choose_grid,
    group_by_solar_day,
    load_cube,
)
from kappamask.cubes.rasters import BandOnGrid
from kappamask.jobs.stream.label import Progress
from kappamask.jobs.stream.scene import StreamOptions, mask_scene, try_each
from kappamask.networks.manifest import bands_of_model
from kappamask.outputs.masks import write_mask
from kappamask.predict.array import make_task
from kappamask.predict.cube import predict_cube
from kappamask.scenes.catalogs import resolve_assets
from kappamask.scenes.scene import Scene
from kappamask.scenes.sources import scene_of

if TYPE_CHECKING:
    import xarray as xr


def mask_files(
    items: Sequence[Any],
    folder: str | os.PathLike[str],
    *,
    area: Any = None,
    options: StreamOptions | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Label items whose files lie on this machine, and write a mask of every date.

    The same files as `write_mask` writes of ``predict_cube(load_cube(items, area))``. A
    date of one item is streamed; one whose items have to be joined, warped or fetched
    is read by `load_cube`.

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
    options = options or StreamOptions()
    resolve = partial(resolve_assets, dn_offset=options.dn_offset)
    bands, size = bands_of_model(options.model_name), options.resolution
    scenes = [scene_of(item, bands, resolve=resolve) for item in items]
    scenes.sort(key=lambda scene: (scene.time, scene.id))
    level = check_scenes(scenes)
    names = choose_bands(scenes, bands, level)
    grid = choose_grid(scenes, area, resolution=size, crs=None)
    scenes = [scene for scene in scenes if reaches(scene, grid)]

    @cache
    def labels() -> xr.DataArray:
        cube = load_cube(scenes, area, resolution=size, bands=bands)
        return predict_cube(cube, model=options.model)

    jobs = {}
    for group in group_by_solar_day(scenes):
        first = scenes[group[0]]
        scene = local_scene(first, names, grid) if len(group) == 1 else None
        if scene is None:
            work = partial(_mask_cube, labels, first.time, folder, scenes, options)
        else:
            task = make_task(names, level=level, model=options.model, output="labels")
            work = partial(
                mask_scene,
                scene,
                grid,
                task,
                folder,
                overwrite=options.overwrite,
                progress=progress,
            )
        jobs[str(first.time)[:19]] = work
    return try_each(jobs)


def _mask_cube(
    labels: Any, time: np.datetime64, folder: Any, scenes: Sequence[Scene], options: StreamOptions
) -> Path:
    one = labels().sel(time=[time])
    (path,) = write_mask(one, folder, source_items=scenes, overwrite=options.overwrite)
    return path


def reaches(scene: Scene, grid: Grid) -> bool:
    """Tell whether a scene meets the grid; `load_cube` leaves out those that do not."""
    bounds = scene.bounds_in(grid.epsg)
    if bounds is None:
        return True
    left, bottom, right, top = grid.bounds
    return bounds[0] < right and left < bounds[2] and bounds[1] < top and bottom < bounds[3]


def local_scene(scene: Scene, names: Sequence[str], grid: Grid) -> Scene | None:
    """View a scene as files on this machine that are read as they are.

    Returns
    -------
    Scene or None
        None if it has to be read by `load_cube`: a band is absent, a file lies elsewhere,
        its pixels do not meet those of the grid, or the item does not tell where they lie.
    """
    files = {}
    for name in names:
        file = scene.files.get(name)
        path = local_path(file.href) if file and file.bounds else None
        if file is None or path is None:
            return None
        files[name] = replace(file, href=path)
    if scene.epsg != grid.epsg:
        return None
    try:
        for file in files.values():
            BandOnGrid.fit(file, grid)
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
