"""SAFE products to masks."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from kappamask.cubes.safe import choose_grid, read_product
from kappamask.jobs.stream.label import Progress
from kappamask.jobs.stream.scene import StreamOptions, mask_scene, try_each
from kappamask.networks.manifest import bands_of_model
from kappamask.predict.array import make_task


def mask_product(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    area: Any = None,
    options: StreamOptions | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Label a SAFE product, or the part of it in an area, and write masks.

    Parameters
    ----------
    path
        As `open_safe` takes it.
    folder
        Made if absent. Gets ``NAME.tif`` (COG), its ``.aux.xml`` and ``NAME.json``
        (STAC item) of every tile, the same as `write_mask` writes of
        ``predict_cube(open_safe(path))``.
    area
        As `open_safe` takes it; only this part is decoded and labelled.
    options
        Model, resolution, tile, offset, whether to write again.
    progress
        Called after each window with a name, windows done, windows in all.

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
    options = options or StreamOptions()
    scenes = read_product(path).scenes(
        resolution=options.resolution,
        bands=bands_of_model(options.model_name),
        area=area,
        tile=options.tile,
        dn_offset=options.dn_offset,
    )
    jobs = {}
    for scene in scenes:
        names = tuple(scene.files)
        task = make_task(names, level=scene.level, model=options.model, output="labels")
        grid = choose_grid([scene], area, resolution=options.resolution)
        jobs[f"tile {scene.tile}"] = partial(
            mask_scene, scene, grid, task, folder, overwrite=options.overwrite, progress=progress
        )
    return try_each(jobs)
