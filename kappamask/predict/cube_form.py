"""What a cube looks like, and how labels are dressed as one. Row 3: imports `predict_window`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.base.errors import InputError
from kappamask.base.legend import LEGEND, PREDICTED, Label
from kappamask.predict.predict_window import Task, check_reflectance_dtype

if TYPE_CHECKING:
    import xarray as xr


def check_cube(cube: xr.DataArray) -> xr.DataArray:
    """Check that a cube is the canonical one, or say what is missing."""
    if not all(hasattr(cube, name) for name in ("dims", "coords", "shape", "dtype")):
        raise InputError(
            f"a cube is an xarray.DataArray, got {type(cube).__name__}: take one variable of a "
            "Dataset, or use predict_array"
        )
    extra = set(cube.dims) - {"time", "band", "y", "x"}
    lacking = {"band", "y", "x"} - set(cube.dims)
    if extra or lacking:
        raise InputError(
            f"a cube has dims (time, band, y, x), got {cube.dims}: rename or select dimensions"
        )
    if 0 in cube.shape:
        raise InputError(
            f"a cube needs at least one pixel, band and date, got {dict(cube.sizes)}: "
            "check area and dates"
        )
    if "band" not in cube.coords:
        raise InputError("a cube names its bands in cube.coords['band'], got none: assign them")
    if not has_crs(cube):
        raise InputError(
            "a cube needs a coordinate reference system, got none: "
            "set it with cube.rio.write_crs('EPSG:...')"
        )
    check_reflectance_dtype(cube.dtype)
    return cube


def check_same(cube: xr.DataArray, labels: xr.DataArray, rule: str, *, dims: Sequence[str]) -> None:
    """Refuse labels of other dates or pixels: xarray would silently keep what they share.

    Raises
    ------
    InputError
        If sizes or coordinates differ along one of `dims`; `rule` says what the two must do.
    """
    for dim in dims:
        ours, theirs = cube.sizes[dim], labels.sizes[dim]
        same = ours == theirs
        if same and dim in cube.coords and dim in labels.coords:
            one, other = cube[dim].values, labels[dim].values
            same = (one == other).all() if dim == "time" else np.allclose(one, other, rtol=1e-9)
        if not same:
            raise InputError(
                f"cube and labels must {rule}, got {ours} and {theirs} along {dim}, or other "
                "coordinates: pass the cube that was labelled"
            )


def has_crs(cube: xr.DataArray) -> bool:
    """Tell whether a cube names its CRS as CF or GDAL do; rioxarray reads and writes both.

    CF conventions 1.11, section 5.6 (grid mappings).
    """
    keys = ("crs_wkt", "spatial_ref", "grid_mapping_name")
    return "crs" in cube.attrs or any(
        key in coordinate.attrs for coordinate in cube.coords.values() for key in keys
    )


def lattice_origin(cube: xr.DataArray) -> tuple[int, int]:
    """Row and column of a cube's first pixel on the projected pixel grid.

    Rows count from the projected origin in the direction in which `y` runs.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> cube = xr.DataArray(np.zeros((2, 2)), dims=("y", "x"),
    ...                     coords={"y": [995.0, 985.0], "x": [205.0, 215.0]})
    >>> lattice_origin(cube)
    (-100, 20)
    """
    return _axis_origin(cube, "y"), _axis_origin(cube, "x")


def _axis_origin(cube: xr.DataArray, dim: str) -> int:
    if dim not in cube.coords:
        raise InputError(f"a cube needs the coordinate {dim} at pixel centres: assign it")
    if cube[dim].dtype.kind not in "iuf" or not np.isfinite(cube[dim].values).all():
        raise InputError(
            f"the coordinate {dim} holds pixel centres, finite numbers, got "
            f"{str(cube[dim].values)[:80]}: assign it"
        )
    centres = cube[dim].values.astype(float)
    if centres.size == 1:
        return 0  # one pixel has no step, and no neighbour that could disagree
    steps = np.diff(centres)
    step = (centres[-1] - centres[0]) / steps.size
    if step == 0 or not np.allclose(steps, step, rtol=0, atol=abs(step) * 1e-3):
        raise InputError(
            f"the coordinate {dim} must run in even steps, got steps from {steps.min():g} to "
            f"{steps.max():g}: sort or resample the cube"
        )
    return round(float((centres[0] - step / 2) / step))


def wrap_result(data: Any, scene: xr.DataArray, task: Task) -> xr.DataArray:
    """Dress the blocks as a DataArray that other tools read as classes."""
    import xarray as xr

    entries = [LEGEND[code] for code in (*PREDICTED, Label.MISSING)]
    coords = {key: value for key, value in scene.coords.items() if "band" not in value.dims}
    coords.pop("band", None)
    attrs: dict[str, Any] = {
        "level": task.model.level,
        "kappamask_model": task.model.entry.name,
        "kappamask_model_sha256": task.model.entry.sha256,
    }
    if task.output == "probabilities":
        names = [LEGEND[code].name for code in PREDICTED]
        dims: tuple[str, ...] = ("time", "label", "y", "x")
        coords["label"] = xr.DataArray(names, dims="label")
        attrs |= {"long_name": "probability of each class", "units": "1"}
    else:
        dims = ("time", "y", "x")
        attrs |= {
            "long_name": "cloud and cloud shadow classes",
            "flag_values": np.array([entry.label for entry in entries], np.uint8),
            "flag_meanings": " ".join(entry.name for entry in entries),
        }
    return xr.DataArray(data, dims=dims, coords=coords, name=task.output, attrs=attrs)
