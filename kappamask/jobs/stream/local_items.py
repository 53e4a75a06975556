"""Items of a catalogue whose files lie on this machine, streamed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import numpy as np

from kappamask.base.errors import InputError
from kappamask.base.grid import Grid
from kappamask.cubes.cube import group_by_solar_day, load_cube
from kappamask.cubes.rasters import BandOnGrid
from kappamask.jobs.stream.label import Progress
from kappamask.jobs.stream.scene import StreamOptions, mask_scene, try_each
from kappamask.networks.manifest import bands_of_model
from kappamask.outputs.masks import write_mask
from kappamask.predict.array import make_task
from kappamask.predict.cube import predict_cube
from kappamask.scenes.catalogs import ResolvedAsset, resolve_assets
from kappamask.scenes.scene import BandFile, NativeScene
from kappamask.scenes.sift import (
    Scene,
    check_scenes,
    choose_bands,
    choose_grid,
    read_scene,
    scene_bounds,
)
from kappamask.scenes.source_items import read_source

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
    read = [(read_scene(item, bands, resolve=resolve), item) for item in items]
    read.sort(key=lambda pair: (pair[0].time, pair[0].id))
    scenes = [scene for scene, _ in read]
    level = check_scenes(scenes)
    names = choose_bands(scenes, bands, level)
    grid = choose_grid(scenes, area, resolution=size, crs=None)
    read = [pair for pair in read if reaches(pair[0], grid)]
    scenes = [scene for scene, _ in read]

    @cache
    def labels() -> xr.DataArray:
        cube = load_cube(items, area, resolution=size, bands=bands, resolve=resolve)
        return predict_cube(cube, model=options.model)

    jobs = {}
    for group in group_by_solar_day(scenes):
        first, item = read[group[0]]
        scene = native_scene(first, item, names, grid) if len(group) == 1 else None
        if scene is None:
            work = partial(_mask_cube, labels, first.time, folder, items, options)
        else:
            task = make_task(names, level=level, model=options.model, output="labels")
            work = partial(
                mask_scene,
                scene,
                grid,
                task,
                folder,
                overwrite=options.overwrite,
                source=read_source(item),
                progress=progress,
            )
        jobs[str(first.time)[:19]] = work
    return try_each(jobs)


def _mask_cube(
    labels: Any, time: np.datetime64, folder: Any, items: Sequence[Any], options: StreamOptions
) -> Path:
    one = labels().sel(time=[time])
    (path,) = write_mask(one, folder, source_items=items, overwrite=options.overwrite)
    return path


def reaches(scene: Scene, grid: Grid) -> bool:
    """Tell whether a scene meets the grid; `load_cube` leaves out those that do not."""
    bounds = scene_bounds(scene, grid.epsg)
    if bounds is None:
        return True
    left, bottom, right, top = grid.bounds
    return bounds[0] < right and left < bounds[2] and bounds[1] < top and bottom < bounds[3]


def native_scene(scene: Scene, item: Any, names: Sequence[str], grid: Grid) -> NativeScene | None:
    """View an item as files of single bands.

    Returns
    -------
    NativeScene or None
        None if it has to be read by `load_cube`: a band is absent, a file lies elsewhere,
        its pixels do not meet those of the grid, or the item does not tell where they lie.
    """
    files = {
        name: band_file(scene, name, scene.assets[name]) for name in names if name in scene.assets
    }
    kept = {name: file for name, file in files.items() if file is not None}
    if scene.crs != grid.epsg or len(kept) < len(names):
        return None
    try:
        for file in kept.values():
            BandOnGrid.fit(file, grid)
    except InputError:
        return None
    source = read_source(item)
    return NativeScene(
        id=scene.id,
        time=scene.time,
        level=scene.level,
        tile=source.tile,
        platform=source.platform,
        epsg=grid.epsg,
        files=kept,
    )


def band_file(scene: Scene, name: str, asset: ResolvedAsset) -> BandFile | None:
    """Say where the pixels of an asset lie; None if that is not known or not simple."""
    placed = scene.placement.get(name, {})
    path = local_path(asset.href)
    if path is None or len(placed) < 2:
        return None
    step_x, skew_x, left, skew_y, step_y, top = placed["proj:transform"][:6]
    if skew_x or skew_y or step_x <= 0 or step_y != -step_x:
        return None
    height, width = placed["proj:shape"]
    return BandFile(
        band=name,
        path=path,
        gsd=step_x,
        left=left,
        top=top,
        height=height,
        width=width,
        dn_offset=asset.dn_offset,
        scale=asset.scale,
    )


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
