"""Masks on this machine: read as lazy labels, and refined date by date."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.windows import Window

from kappamask.base.errors import ReadError
from kappamask.base.legend import Label
from kappamask.composites.cube import CLEAR_FRACTION
from kappamask.jobs.loop import MaskOptions, Report
from kappamask.jobs.masks import load, outline_of
from kappamask.outputs.label_cube import check_labels
from kappamask.outputs.masks import make_records
from kappamask.outputs.records import find_complete, read_item, write_together
from kappamask.predict.cube import BY, REFINED
from kappamask.predict.refine import FEWEST, refine
from kappamask.scenes.area import AreaLike
from kappamask.scenes.formats import open_pixels
from kappamask.scenes.scene import Scene

if TYPE_CHECKING:
    import xarray as xr

TOGETHER = 24  # dates that are refined and written together: each is a compressed file in memory
FOLDER = "refined"  # of refined masks, inside that of those by single dates


def refine_masks(
    report: Report,
    scenes: Sequence[Scene],
    area: AreaLike | None,
    folder: Path,
    options: MaskOptions,
) -> Report:
    """Refine masks of single dates by one another, and write them in their folder ``refined``.

    Some dates are refined together, block by block: each mask is read for all of them. What is
    there, of the same witnesses, is kept.

    Parameters
    ----------
    report
        Of masks by single dates; fewer than three stay as they are.
    scenes, area, folder, options
        What it was made of.

    Returns
    -------
    Report
        With refined masks in the place of those by single dates, and which were there before.
    """
    if len(report.masks) < FEWEST:
        return report
    # For its grid and the sun.
    labels = read_masks(report.masks, load(scenes, area, options, margin=0))
    refined = check_labels(refine(labels))
    folder = folder.absolute() / FOLDER
    records = make_records(refined, scenes, outline_of(area, options))
    there = [None if options.overwrite else find_complete(record, folder) for record in records]
    absent = [index for index, path in enumerate(there) if path is None]
    made: dict[int, Path] = {}
    for first in range(0, len(absent), TOGETHER):
        some = absent[first : first + TOGETHER]
        written = write_together(
            [records[index] for index in some], [refined.data[index] for index in some], folder
        )
        made |= zip(some, written, strict=True)
    return replace(
        report,
        masks=[path or made[index] for index, path in enumerate(there)],
        skipped=[path for path in there if path],
    )


def read_masks(paths: Sequence[Path], cube: xr.DataArray) -> xr.DataArray:
    """Open masks that `write_mask` wrote as lazy labels of the dates of a cube.

    Parameters
    ----------
    paths
        COGs with their items beside them, of pixels of the cube.
    cube
        Its chunks along y and x are taken.

    Returns
    -------
    xarray.DataArray
        uint8 (time, y, x), with the dates of the masks and their share of clear pixels.

    Raises
    ------
    ReadError
        If an item is no item of a mask, or the grid is another one.
    """
    import dask.array as da
    import xarray as xr

    layers, times, shares, asked, attrs = [], [], [], [], {"level": cube.attrs["level"]}
    for path in paths:
        try:
            item = read_item(path)
            known = item["properties"]
            classes = item["assets"]["mask"]["classification:classes"]
            times.append(np.datetime64(known["datetime"].removesuffix("Z"), "ns"))
            shares.append(_share(classes))
            grid = tuple(known["proj:transform"]), tuple(known["proj:shape"])
        except (OSError, ValueError, LookupError) as error:
            raise ReadError(
                f"a mask has its STAC item beside it, got {error} for {path}: write it again"
            ) from error
        if grid != (tuple(cube.rio.transform())[:6], cube.shape[2:]):
            raise ReadError(
                f"masks must be on the grid of the cube, got {grid} in {path.name}: remove it, "
                "or choose another folder"
            )
        for name in ("kappamask:model", "kappamask:model_sha256"):
            if name in known:
                attrs[name.replace(":", "_")] = known[name]
        asked.append(" ".join(known.get("kappamask:refined_by", ())))
        layers.append(
            da.from_array(MaskFile(path, grid[1]), chunks=cube.data.chunks[2:], name=False)
        )
    wanted = cube["time"].values.astype("M8[us]")  # what an item says of the time
    found = [int(np.flatnonzero(wanted == time.astype("M8[us]"))[0]) for time in times]
    dates = cube.isel(time=found)
    kept = ("time", "y", "x", "spatial_ref", "sun_azimuth", "sun_elevation")
    coords = {name: dates[name] for name in kept if name in dates.coords}
    labels = xr.DataArray(da.stack(layers), dims=("time", "y", "x"), coords=coords, attrs=attrs)
    if all(asked):
        labels = labels.assign_coords({BY: ("time", asked)}).assign_attrs({REFINED: 1})
    return labels.assign_coords({CLEAR_FRACTION: ("time", shares)})


def _share(classes: Sequence[Mapping[str, Any]]) -> float:
    counts = {entry["value"]: entry["count"] for entry in classes}
    return float(counts[int(Label.CLEAR)] / sum(counts.values()))


@dataclass(frozen=True)
class MaskFile:
    """A mask on disk that dask cuts blocks out of; no file stays open."""

    path: Path
    shape: tuple[int, ...]

    ndim = 2
    dtype = np.dtype(np.uint8)

    def __getitem__(self, key: tuple[slice, slice]) -> np.ndarray:
        """Read one block."""
        with open_pixels(str(self.path)) as raster:
            block: np.ndarray = raster.read(1, window=Window.from_slices(*key))
        return block
