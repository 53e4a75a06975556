"""Processes of cubes that openeo-processes-dask computes otherwise, or at once. Row 6.

Each one here says why it is not the library's. All are lazy: dask in, dask out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from kappamask.openeo.engine import arrays, kernels, library
from kappamask.openeo.engine.chunks import Call, Frame, run_in_windows
from kappamask.openeo.engine.flat_graph import GraphError
from kappamask.openeo.engine.neighborhood import TILE
from kappamask.openeo.engine.udf_runtime import Log


def mask(data: xr.DataArray, mask: xr.DataArray, replacement: Any = None) -> xr.DataArray:
    """Replace pixels where the mask is not 0; where it is NaN, too.

    The library keeps pixels where the mask is NaN, Copernicus masks them; and the
    library computes the mask at once, all dates of it.
    """
    if "bands" in mask.dims and mask.sizes["bands"] == 1:
        mask = mask.isel(bands=0, drop=True)  # one band masks all, as on other back ends
    missing = [str(dim) for dim in mask.dims if dim not in data.dims]
    if missing:
        raise GraphError(
            f"needs a mask whose dimensions the data has, got {', '.join(missing)} besides "
            f"{data.dims}: reduce the mask",
            code="DimensionMismatch",
        )
    mask = mask.reset_coords(drop=True)
    for dim in mask.dims:
        mask = _align(data, mask, str(dim))
    return data.where(mask == 0, np.nan if replacement is None else replacement)


def _align(data: xr.DataArray, mask: xr.DataArray, dim: str) -> xr.DataArray:
    """Give a mask the labels of the data; the pixel grid may differ, dates and bands may not."""
    ours, theirs = data[dim].to_numpy(), mask[dim].to_numpy()
    if dim in ("x", "y"):
        if ours.shape != theirs.shape or not np.allclose(ours, theirs, rtol=0, atol=1e-3):
            mask = library.resample_cube_spatial(mask, data).reset_coords(drop=True)
    elif not np.array_equal(ours, theirs):
        raise GraphError(
            f"needs a mask with the labels of the data along {dim}, got {theirs.tolist()} for "
            f"{ours.tolist()}",
            code="LabelMismatch",
        )
    return mask.assign_coords({dim: data[dim]})


def apply(
    data: xr.DataArray, process: Callable[..., Any], context: Any = None, *, log: Log | None = None
) -> xr.DataArray:
    """Apply to every value; a UDF gets tiles of one date, which the library cannot give it."""
    call = Call.of(process, context, log)
    if call is not None:
        return run_in_windows(data, call, Frame((TILE, TILE), (0, 0), per_date=True))
    return library.apply(data, process, context)  # type: ignore[no-any-return]


def apply_dimension(  # the openEO process has five
    data: xr.DataArray,
    process: Callable[..., Any],
    dimension: str,
    target_dimension: str | None = None,
    context: Any = None,
    *,
    log: Log | None = None,
) -> xr.DataArray:
    """Apply to the values along a dimension; keeps its labels, which the library loses."""
    call = Call.of(process, context, log)
    if call is not None and dimension in ("t", "bands") and target_dimension is None:
        frame = Frame((TILE, TILE), (0, 0), per_date=dimension == "bands")
        return run_in_windows(data, call, frame)
    result = library.apply_dimension(data, process, dimension, target_dimension, context)
    unchanged = target_dimension in (None, dimension)
    if unchanged and result.sizes.get(dimension) == data.sizes[dimension]:
        result = result.assign_coords({dimension: data[dimension]})
    return result  # type: ignore[no-any-return]


def reduce_dimension(
    data: xr.DataArray, reducer: Callable[..., Any], dimension: str, context: Any = None
) -> xr.DataArray:
    """Reduce a dimension; the library leaves an attribute behind that no file can hold."""
    if dimension not in data.dims:
        raise GraphError(
            f"there is no dimension {dimension!r}: the cube has {data.dims}",
            code="DimensionNotAvailable",
        )
    return data.reduce(
        reducer,
        dim=dimension,
        keep_attrs=True,
        positional_parameters={"data": 0},
        named_parameters={"context": context},
        dim_labels=data[dimension].to_numpy(),
    )


def aggregate_spatial(data: xr.DataArray, geometries: Any, **arguments: Any) -> Any:
    """Aggregate over geometries; the library opens whatever file or address a text names."""
    if isinstance(geometries, str):
        raise GraphError(
            f"takes GeoJSON in the graph itself, got {geometries[:80]!r}: inline the geometries",
            code="ProcessParameterInvalid",
        )
    compute = library.implementations()["aggregate_spatial"]
    return compute(data, geometries, **arguments)


def inspect(
    data: Any,
    message: str = "",
    code: str = "User",
    level: str = "info",
    *,
    log: Log | None = None,
) -> Any:
    """Log what is known of a value without computing it."""
    if log is not None:
        told = f"{data.dims} {data.shape}" if isinstance(data, xr.DataArray) else repr(data)[:500]
        log(level.lower(), " ".join(part for part in (f"{code}:", message, told) if part))
    return data


OWN: Mapping[str, Callable[..., Any]] = {
    **arrays.ARRAY_PROCESSES,
    "aggregate_spatial": aggregate_spatial,
    "apply": apply,
    "apply_dimension": apply_dimension,
    "apply_kernel": kernels.apply_kernel,
    "inspect": inspect,
    "mask": mask,
    "reduce_dimension": reduce_dimension,
}
