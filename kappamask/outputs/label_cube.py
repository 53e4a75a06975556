"""Label cubes as files and pictures need them: axes and grid. Imports `predict`."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import rioxarray  # noqa: F401  (registers the .rio accessor)
import xarray as xr
from rasterio import Affine
from rioxarray.exceptions import OneDimensionalRaster

from kappamask.base.bands import check_level
from kappamask.base.errors import InputError
from kappamask.composites.cube import check_times
from kappamask.predict.cube import lattice_origin, refuse_snow

Pixels = TypeVar("Pixels", xr.DataArray, xr.Dataset)


def check_labels(labels: Any) -> xr.DataArray:
    """Check a label cube; bring it to (time, y, x), north up, x to the east.

    Codes are not looked at: that would compute the labels.

    Returns
    -------
    DataArray
        Still lazy if it was. ``.rio.crs`` and ``.rio.transform()`` say where its pixels lie.

    Raises
    ------
    InputError
        If anything breaks the rules of `kappamask.write_mask`.
    """
    if isinstance(labels, xr.DataArray) and "time" not in labels.dims and "time" in labels.coords:
        labels = labels.expand_dims("time")
    dims = getattr(labels, "dims", type(labels).__name__)
    if set(dims) != {"time", "y", "x"}:
        raise InputError(
            "labels must be a DataArray with dims (time, y, x), or (y, x) and a scalar time, got "
            f"{dims}: pass what predict_cube returned, or add labels.assign_coords(time=...)"
        )
    if labels.dtype != np.uint8:
        raise InputError(
            f"labels must be uint8 class codes, got {labels.dtype}: "
            "pass the labels, not probabilities, and do not mask them"
        )
    if 0 in labels.shape:
        raise InputError(
            f"labels must hold at least one date and pixel, got shape {labels.shape}: "
            "check the area and the dates"
        )
    check_times(labels, "labels")
    check_level(labels.attrs.get("level"))
    refuse_snow(labels)
    if labels.rio.crs is None:
        raise InputError("labels must have a CRS, got none: add it with labels.rio.write_crs(...)")
    return north_up(labels.transpose("time", "y", "x"))


def north_up(labels: xr.DataArray) -> xr.DataArray:
    """Turn a plane of pixels north up and x to the east; say so in ``.rio.transform()``."""
    lattice_origin(labels)  # refuses coordinates that are absent or uneven
    labels = face_north(labels)
    dx, dy = _pixel_size(labels)
    left, top = float(labels["x"].min()) - dx / 2, float(labels["y"].max()) + dy / 2
    return labels.rio.write_transform(Affine(dx, 0.0, left, 0.0, -dy, top))  # type: ignore[no-any-return]


def face_north(data: Pixels) -> Pixels:
    """Turn rows and columns so that y falls and x rises."""
    falls = {dim: data[dim].values[0] > data[dim].values[-1] for dim in ("x", "y")}
    turned = {"x": falls["x"], "y": not falls["y"] and data.sizes["y"] > 1}
    return data.isel({dim: slice(None, None, -1) for dim, turn in turned.items() if turn})


def _pixel_size(labels: xr.DataArray) -> tuple[float, float]:
    """Width and height of a pixel in units of the CRS.

    Two coordinates tell it. Where there is only one the recorded GeoTransform does, if
    it does not contradict the other axis; its origin stays behind when an array is cut.
    """
    try:
        dx, dy = (abs(step) for step in labels.rio.resolution(recalc=True))
    except OneDimensionalRaster:
        dx = dy = np.nan
    for axis, step in (("x", dx), ("y", dy)):
        values = labels[axis].values
        extent = step * (values.size - 1)
        if not np.isclose(abs(values[-1] - values[0]), extent, atol=0):
            single = "x" if labels.sizes["x"] == 1 else "y"
            raise InputError(
                f"the pixel size must be known, got a single coordinate along {single} and no "
                "GeoTransform that fits: take an area of 2 x 2 pixels or more, or record it "
                "with labels.rio.write_transform(...)"
            )
    return dx, dy
