"""Arrays and cubes to labels. Row 3: imports rows 0-2, `predict_window` and `cube_form`.

One window is one call of the network. `predict_array` runs its windows one after
another; `predict_cube` makes each of them a dask task that reads its own margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.base.errors import InputError
from kappamask.base.windows import plan_axis, plan_windows
from kappamask.networks.model import Model
from kappamask.predict.blocks import map_windows
from kappamask.predict.cube_form import check_cube, lattice_origin, wrap_result
from kappamask.predict.predict_window import (
    HIGHEST_REFLECTANCE,
    Output,
    Task,
    check_reflectance_dtype,
    make_task,
    predict_window,
)

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "HIGHEST_REFLECTANCE",
    "Output",
    "check_cube",
    "lattice_origin",
    "predict_array",
    "predict_cube",
]


def predict_array(
    reflectance: np.ndarray,
    bands: Sequence[str],
    *,
    level: str,
    model: str | Model = "default",
    output: Output = "labels",
    origin: tuple[int, int] = (0, 0),
) -> np.ndarray:
    """Label one scene held in memory.

    Parameters
    ----------
    reflectance
        (band, y, x) floating point, 1.0 = 100 %, offsets applied, NaN = no data (or what a
        `numpy.ma.MaskedArray` masks), one resolution, best at 10 m.
    bands
        Names along the first axis, in any order; B02, B03, B04 and B08 (or B8A)
        at least, more is better. A published model needs all of `Model.bands`; AOT
        is in 1, WVP in cm.
    level
        ``"L1C"`` or ``"L2A"``.
    model
        Name of a model of the manifest, or one that `load_model` gave.
    output
        ``"labels"``, or ``"probabilities"`` of the four classes clear, cloud
        shadow, semi-transparent, cloud.
    origin
        Row and column of the first pixel on the projected pixel grid
        (`lattice_origin` of a cube). Windows are anchored to that grid, so that
        a shifted area gets the same labels.

    Returns
    -------
    numpy.ndarray
        Labels (y, x) uint8, codes of `Label`; or probabilities (4, y, x) float32
        that sum to 1, NaN where data is missing. A pixel is missing where B02,
        B03, B04 or the near infrared (B08, else B8A) has no data.

    Raises
    ------
    InputError
        If the shape, type, bands or level is wrong, or values above 10 or below -1 show
        that DN, or what stands for no data, were passed as reflectance.
    UnknownNameError
        If a band or model is unknown.
    WeightsError
        If the model's weights were not fetched (`kappamask models fetch NAME`), or
        are damaged.

    Examples
    --------
    >>> import numpy as np
    >>> scene = np.full((4, 64, 64), 0.05, dtype="float32")
    >>> scene[:, :, 32:] = np.nan
    >>> labels = predict_array(scene, ["B02", "B03", "B04", "B08"], level="L2A")
    >>> labels.shape, labels.dtype, set(labels[:, 32:].ravel().tolist())
    ((64, 64), dtype('uint8'), {5})
    """
    if isinstance(reflectance, np.ma.MaskedArray) and reflectance.dtype.kind == "f":
        reflectance = reflectance.filled(np.nan)  # the values below a mask are no data
    reflectance = np.asarray(reflectance)
    if reflectance.ndim != 3 or reflectance.shape[0] != len(bands):
        raise InputError(
            "reflectance must be (band, y, x) with one name per band, got shape "
            f"{reflectance.shape} and {len(bands)} names: transpose it or name every band"
        )
    check_reflectance_dtype(reflectance.dtype)
    if any(int(first) != first for first in origin):
        raise InputError(f"an origin is a whole row and column, got {origin}: see lattice_origin")
    task = make_task(bands, level=level, model=model, output=output)
    height, width = reflectance.shape[1:]
    windows = list(plan_windows(height, width, origin=origin, lattice=task.model.entry.lattice))
    kept = [list(bands).index(name) for name in task.bands]
    result = np.empty((*task.leading, height, width), task.dtype)
    for window in windows:
        rows, columns = window.rows, window.columns
        layers = [reflectance[index, rows.read, columns.read] for index in kept]
        result[..., rows.core, columns.core] = predict_window(task, layers, window)
    return result


def predict_cube(
    cube: xr.DataArray,
    *,
    model: str | Model = "default",
    output: Output = "labels",
    level: str | None = None,
) -> xr.DataArray:
    """Label a cube, lazily: nothing is read or computed before the result is.

    Parameters
    ----------
    cube
        (time, band, y, x) or (band, y, x), in any order, float reflectance, NaN =
        no data, with band names, `x` and `y` at pixel centres and a CRS
        (``cube.rio.crs``). What `load_cube` gives.
    model, output
        As in `predict_array`.
    level
        Only needed where ``cube.attrs["level"]`` is absent.

    Returns
    -------
    xarray.DataArray
        Labels (time, y, x) uint8 with CF flag attributes, or probabilities
        (time, label, y, x) float32; without `time` if the cube has none. Chunks
        are the cores of the window lattice, one dask task each, whatever the
        chunks of the cube; values do not depend on those.

    Raises
    ------
    InputError
        If dims, band names, CRS or level are missing, or the cube is empty.
    WeightsError
        As `predict_array`.

    Examples
    --------
    >>> import numpy as np, xarray as xr, rioxarray
    >>> cube = xr.DataArray(
    ...     np.full((1, 4, 40, 40), 0.05, "float32"),
    ...     dims=("time", "band", "y", "x"),
    ...     coords={"band": ["B02", "B03", "B04", "B08"],
    ...             "y": 5000395.0 - 10 * np.arange(40), "x": 600005.0 + 10 * np.arange(40)},
    ...     attrs={"level": "L2A"},
    ... ).rio.write_crs(32632)
    >>> labels = predict_cube(cube)
    >>> labels.dims, labels.dtype, labels.attrs["flag_meanings"].split()[0]
    (('time', 'y', 'x'), dtype('uint8'), 'clear')
    """
    cube = check_cube(cube)
    level = level or cube.attrs.get("level")
    task = make_task(
        [str(name) for name in cube.band.values], level=level or "", model=model, output=output
    )
    scene = cube if "time" in cube.dims else cube.expand_dims("time")
    scene = scene.sel(band=list(task.bands)).transpose("time", "band", "y", "x")
    result = wrap_result(predict_blocks(scene, task), scene, task)
    return result if "time" in cube.dims else result.isel(time=0, drop="time" not in cube.coords)


def predict_blocks(scene: xr.DataArray, task: Task) -> Any:
    """Label (time, band, y, x) lazily, one dask task per date and window."""
    import dask.array as da
    from dask.base import tokenize

    source = scene.data
    if not isinstance(source, da.Array):
        source = da.from_array(source, chunks=(1, -1, -1, -1))  # in memory: windows are views of it
    row, column = lattice_origin(scene)
    model = task.model
    plan = (
        plan_axis(scene.sizes["y"], origin=row, lattice=model.entry.lattice),
        plan_axis(scene.sizes["x"], origin=column, lattice=model.entry.lattice),
    )
    entry = model.entry  # two models may feed one file of weights differently
    computed_by = (entry.name, entry.sha256, model.level, model.precision, model.engine)
    token = tokenize(source.name, computed_by, task.bands, plan)
    return map_windows(
        partial(predict_window, task),
        source,
        plan,
        token=f"kappamask-{task.output}-{token}",
        leading=task.leading,
        dtype=task.dtype,
    )
