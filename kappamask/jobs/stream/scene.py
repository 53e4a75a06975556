"""One scene to the files of its mask."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio import Affine
from rasterio.crs import CRS

from kappamask.base.errors import InputError, KappaMaskError, ReadError, ResourceError, limits_named
from kappamask.base.files import check_folder
from kappamask.base.windows import Grid
from kappamask.cubes.rasters import FileReader, Reader
from kappamask.jobs.stream.label import Progress, label_strips
from kappamask.outputs.cog import Placement, Strips
from kappamask.outputs.masks import MaskRecord
from kappamask.outputs.records import is_complete, write_record
from kappamask.predict.array import Task
from kappamask.scenes.scene import Scene

CACHE = 64 * 2**20  # bytes that GDAL keeps of what it decoded; by default 5 % of the memory


@dataclass(frozen=True)
class StreamOptions:
    """What streaming can be asked for beside input, area and folder."""

    model: Any = "default"  # a name, or what `load_model` gave
    resolution: int = 10  # metres
    tile: str | None = None  # MGRS, of a product with several granules
    dn_offset: int | None = None  # where metadata do not tell it
    overwrite: bool = False  # False keeps masks that are complete

    @property
    def model_name(self) -> str:
        """Of the manifest."""
        return self.model if isinstance(self.model, str) else str(self.model.entry.name)


def mask_scene(  # noqa: PLR0913  what `mask_product` and `mask_files` have worked out
    scene: Scene,
    grid: Grid,
    task: Task,
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    reader: Reader | None = None,
    progress: Progress | None = None,
) -> Path:
    """Label one scene and write its mask: COG, class names and, last, STAC item.

    Parameters
    ----------
    scene
        Its files.
    grid
        The pixels to be labelled, in the scene's CRS.
    task
        What `make_task` gave for bands of the scene.
    folder
        Made if absent.
    overwrite
        False keeps a mask that is complete, of the same scene, model and grid.
    reader
        None: GDAL reads the files.
    progress
        Called after each window with the scene's id, windows done, windows in all.

    Returns
    -------
    Path
        Of the COG.

    Raises
    ------
    InputError
        If the pixels of the scene and the grid do not meet edge on edge.
    ReadError
        If a file is damaged.
    ResourceError
        If memory or threads run out.
    WriteError
        If the folder cannot be written to; nothing half-written is left.
    """
    if scene.epsg != grid.epsg:
        raise InputError(
            f"a scene is labelled in its own CRS, got EPSG:{scene.epsg} and a grid in "
            f"EPSG:{grid.epsg}: use load_cube, which warps"
        )
    record = make_record(scene, grid, task)
    folder = Path(folder).absolute()
    path = folder / f"{record.name}.tif"
    if not overwrite and is_complete(record, folder):
        return path
    check_folder(folder, path.name)  # before the first pixel is read
    with limits_named(), rasterio.Env(GDAL_CACHEMAX=CACHE), FileReader(scene.files) as files:
        strips = label_strips(scene, grid, task, reader or files, progress=progress)
        with closing(strips):  # its threads end before the files are closed
            return write_record(record, Strips(strips, np.dtype(np.uint8)), folder)


def make_record(scene: Scene, grid: Grid, task: Task) -> MaskRecord:
    """Say what the mask of a scene is."""
    step = grid.resolution
    return MaskRecord(
        time=scene.time,
        placement=Placement(
            CRS.from_epsg(grid.epsg),
            Affine(step, 0.0, grid.left, 0.0, -step, grid.top),
            (grid.height, grid.width),
        ),
        level=scene.level,
        model=task.model.entry.name,
        model_sha256=task.model.entry.sha256,
        sources=(scene,),
    )


def try_each(jobs: Mapping[str, Callable[[], Path]]) -> list[Path]:
    """Do one job after another; name those that failed at the end.

    Raises
    ------
    ReadError
        If one of several failed; a single one raises its own error.
    ResourceError
        If memory or threads run out: the other scenes are as large.
    """
    paths, failed = [], {}
    for name, work in jobs.items():
        try:
            paths.append(work())
        except ResourceError:
            raise
        except KappaMaskError as error:
            if len(jobs) == 1:
                raise
            failed[name] = error
    if failed:
        reasons = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise ReadError(
            f"every scene must be readable, got errors in {len(failed)} of {len(jobs)}: "
            f"{reasons}. The others are written: repeat to try only these again"
        ) from next(iter(failed.values()))
    return paths
