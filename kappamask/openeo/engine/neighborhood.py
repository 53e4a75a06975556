"""`apply_neighborhood`: which part of a cube a process gets. Row 6: imports `chunks`, `periods`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from kappamask.openeo.engine.chunks import Call, Frame, run_in_windows
from kappamask.openeo.engine.evaluate import Callback
from kappamask.openeo.engine.flat_graph import GraphError
from kappamask.openeo.engine.periods import group_by_period
from kappamask.openeo.engine.udf_runtime import Log, check_udf

PER_DATE = "P1D"
TILE = 512  # pixels per side of what a UDF gets where the graph names no window


def apply_neighborhood(
    data: xr.DataArray,
    process: Callback,
    size: Sequence[Mapping[str, Any]],
    overlap: Sequence[Mapping[str, Any]] | None = None,
    context: Any = None,
    *,
    log: Log | None = None,
) -> xr.DataArray:
    """Apply a UDF to windows of a cube, or a process to the series of every pixel; lazily.

    Parameters
    ----------
    data
        (t, bands, y, x), in any order; bands or t may be absent.
    process
        A child graph of one `run_udf`; or, with a size of 1 x 1 px, of processes over
        the dates (of each period, if `size` has one) or, with P1D, over the bands.
    size, overlap
        As openEO words them: px in x and y, ``P1D`` or a period in t.
    context
        Passed to the child graph.
    log
        Receives what a UDF inspects.

    Raises
    ------
    GraphError
        If the sizes are of another kind.
    """
    sizes, overlaps = read_sizes(size), read_sizes(overlap or ())
    period = sizes.pop("t", None)
    if set(sizes) != {"x", "y"} or set(overlaps) - {"x", "y"}:
        raise GraphError(
            f"needs a size in px for x and y and no overlap in t, got {list(sizes)} and "
            f"{list(overlaps)}",
            code="ProcessParameterInvalid",
        )
    call = Call.of(process, context, log)
    if call is not None:
        if period not in (None, PER_DATE):
            raise GraphError(
                f"gives a UDF one date ({PER_DATE!r} in t) or all (no size in t), got {period!r}",
                code="ProcessParameterInvalid",
            )
        margins = overlaps.get("y", 0), overlaps.get("x", 0)
        frame = Frame((sizes["y"], sizes["x"]), margins, period == PER_DATE)
        return run_in_windows(data, call, frame)
    if set(sizes.values()) != {1} or any(overlaps.values()):
        raise GraphError(
            "runs one run_udf, or other processes with a size of 1 px in x and y and no overlap, "
            f"got sizes {sizes}: use a UDF, or apply_kernel",
            code="ProcessParameterInvalid",
        )
    if period == PER_DATE:
        return map_series(data, process, "bands", [np.arange(data.sizes["bands"])], context)
    groups = [np.arange(data.sizes["t"])]
    if period is not None:
        _, groups = group_by_period(data["t"].values, str(period))
    return map_series(data, process, "t", [group for group in groups if group.size], context)


def read_sizes(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Read sizes by dimension: integers in pixels, a word in t.

    Examples
    --------
    >>> read_sizes([{"dimension": "x", "value": 8, "unit": "px"}, {"dimension": "t",
    ...             "value": "P1D"}])
    {'x': 8, 't': 'P1D'}
    """
    read: dict[str, Any] = {}
    for entry in entries:
        dim, value, unit = entry.get("dimension"), entry.get("value"), entry.get("unit")
        if dim == "t" and isinstance(value, str | None):
            read |= {} if value is None else {"t": value}
        elif dim in ("x", "y") and unit in ("px", None) and float(value or 0).is_integer():
            read[dim] = int(value or 0)
        else:
            raise GraphError(
                f"takes whole px in x and y, and {PER_DATE!r} or a period in t, got {entry}",
                code="ProcessParameterInvalid",
            )
    return read


def map_series(
    data: xr.DataArray, process: Callback, dim: str, groups: list[np.ndarray], context: Any
) -> xr.DataArray:
    """Apply processes to the values along one dimension, group by group; lazily."""
    ordered = data.transpose(dim, ...)
    parts = []
    for group in groups:
        part = ordered.isel({dim: group})
        values = process(
            part.data,
            positional_parameters={"data": 0},
            named_parameters={"context": context},
            axis=0,
            dim_labels=part[dim].values,
        )
        if np.shape(values) != part.shape:
            raise GraphError(
                f"needs as many values back as it gives along {dim}, got the shape "
                f"{np.shape(values)} for {part.shape}: use reduce_dimension or aggregate_temporal"
            )
        parts.append(part.copy(data=values))
    joined = xr.concat(parts, dim=dim, coords="minimal", compat="override")
    inverse = np.argsort(np.concatenate(groups))
    return joined.isel({dim: inverse}).transpose(*data.dims)


def run_udf(  # the openEO process has five
    data: Any,
    udf: str,
    runtime: str,
    version: str | None = None,
    context: Any = None,
    *,
    log: Log | None = None,
) -> xr.DataArray:
    """Run a UDF on a whole cube: one date after the other, in tiles without overlap.

    Within `apply_neighborhood`, `apply` and `apply_dimension` the window is theirs.
    """
    del version  # there is one
    if not isinstance(data, xr.DataArray):
        raise GraphError(
            "runs a UDF on a cube, or within apply_neighborhood, apply or apply_dimension as the "
            "only process there",
            code="ProcessParameterInvalid",
        )
    call = Call(check_udf(udf, runtime), context, "run_udf", log)
    return run_in_windows(data, call, Frame((TILE, TILE), (0, 0), per_date=True))
