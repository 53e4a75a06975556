"""Dates by calendar period or interval, each reduced lazily. Row 6: imports `flat_graph`.

openeo-processes-dask 2026.9 labels months by their last day where back ends label them
by their first, leaves out what was seen at the very start of an interval, and knows no
decade of days within a year that ends in the last one. So the groups are made here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from kappamask.openeo.engine.flat_graph import GraphError

# openEO's period: pandas' frequency of period starts; what is None is counted by hand
PERIODS: dict[str, str | None] = {
    "hour": "h",
    "day": "D",
    "week": "W-MON",
    "dekad": None,  # days 1-10, 11-20, 21-end of each month
    "month": "MS",
    "season": "QS-DEC",
    "tropical-season": None,  # November to April, May to October
    "year": "YS",
    "decade": None,  # 0 to 9
    "decade-ad": None,  # 1 to 0
}
_STARTS: dict[str, Callable[[pd.Timestamp], bool]] = {
    "dekad": lambda day: day.day in (1, 11, 21),
    "tropical-season": lambda day: (day.month, day.day) in ((5, 1), (11, 1)),
    "decade": lambda day: (day.year % 10, day.month, day.day) == (0, 1, 1),
    "decade-ad": lambda day: (day.year % 10, day.month, day.day) == (1, 1, 1),
}


def period_starts(first: Any, last: Any, period: str) -> pd.DatetimeIndex:
    """List the starts of the periods that hold the times from `first` to `last`.

    Raises
    ------
    GraphError
        If openEO has no such period.

    Examples
    --------
    >>> [str(day.date()) for day in period_starts("2022-06-28", "2022-07-12", "dekad")]
    ['2022-06-21', '2022-07-01', '2022-07-11']
    """
    if period not in PERIODS:
        raise GraphError(
            f"unknown period {period!r}: expected one of {', '.join(PERIODS)}",
            code="ProcessParameterInvalid",
        )
    start, end = pd.Timestamp(first), pd.Timestamp(last)
    frequency = PERIODS[period]
    if period == "hour":
        return pd.date_range(start.floor("h"), end, freq="h")
    early = start.normalize() - pd.DateOffset(years=11)  # longer than any period
    if period in ("day", "week", "dekad"):
        early = start.normalize() - pd.DateOffset(days=12)
    days = pd.date_range(early, end, freq=frequency or "D")
    if frequency is None:
        days = days[[_STARTS[period](day) for day in days]]
    return days[days.searchsorted(start, side="right") - 1 :]


def group_by_period(times: np.ndarray, period: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """List the starts of all periods from the first to the last time, and the indices of each.

    Examples
    --------
    >>> times = np.array(["2022-06-02", "2022-06-30", "2022-08-01"], "datetime64[ns]")
    >>> starts, groups = group_by_period(times, "month")
    >>> [(str(start)[:10], group.tolist()) for start, group in zip(starts, groups)]
    [('2022-06-01', [0, 1]), ('2022-07-01', []), ('2022-08-01', [2])]
    """
    starts = period_starts(times.min(), times.max(), period).to_numpy().astype(times.dtype)
    which = np.searchsorted(starts, times, side="right") - 1
    return starts, [np.flatnonzero(which == index) for index in range(starts.size)]


def aggregate_temporal_period(
    data: xr.DataArray,
    period: str,
    reducer: Callable[..., Any],
    dimension: str | None = None,
    context: Any = None,
) -> xr.DataArray:
    """Reduce the dates of every period to one, labelled by the period's start."""
    dim = time_dimension(data, dimension)
    starts, groups = group_by_period(data[dim].to_numpy(), period)
    return reduce_groups(data, dim, groups, starts, reducer, context)


def aggregate_temporal(
    data: xr.DataArray,
    intervals: Sequence[Sequence[str | None]],
    reducer: Callable[..., Any],
    labels: Sequence[Any] | None = None,
    dimension: str | None = None,
    context: Any = None,
) -> xr.DataArray:
    """Reduce the dates of every interval to one; an interval holds its start, not its end."""
    dim = time_dimension(data, dimension)
    times = data[dim].to_numpy()
    ends = [
        tuple(None if end is None else np.datetime64(end).astype(times.dtype) for end in pair)
        for pair in intervals
    ]
    groups = [
        np.flatnonzero(
            (True if start is None else times >= start) & (True if end is None else times < end)
        )
        for start, end in ends
    ]
    if labels:
        names = np.array(labels)
    elif any(start is None for start, _ in ends):
        raise GraphError("intervals without a start need labels", code="ProcessParameterInvalid")
    else:
        names = np.array([start for start, _ in ends], times.dtype)
    if len(names) != len(groups):
        raise GraphError(
            f"needs one label per interval, got {len(names)} and {len(groups)}",
            code="ProcessParameterInvalid",
        )
    return reduce_groups(data, dim, groups, names, reducer, context)


def time_dimension(data: xr.DataArray, dimension: str | None) -> str:
    """Find the temporal dimension.

    Raises
    ------
    GraphError
        DimensionNotAvailable or TooManyDimensions, as openEO words it.
    """
    if dimension is not None:
        if dimension not in data.dims:
            raise GraphError(
                f"there is no dimension {dimension!r}: the cube has {data.dims}",
                code="DimensionNotAvailable",
            )
        return dimension
    found = [str(dim) for dim in data.dims if np.issubdtype(data[dim].dtype, np.datetime64)]
    if len(found) != 1:
        raise GraphError(
            f"needs one temporal dimension, got {found or 'none'} of {data.dims}: name it",
            code="TooManyDimensions" if found else "DimensionNotAvailable",
        )
    return found[0]


def reduce_groups(
    data: xr.DataArray,
    dim: str,
    groups: Sequence[np.ndarray],
    labels: np.ndarray,
    reducer: Callable[..., Any],
    context: Any,
) -> xr.DataArray:
    """Reduce each group of labels along `dim`; an empty group gives NaN."""
    filled = next((group for group in groups if group.size), None)
    if filled is None:
        raise GraphError(
            f"none of the {data.sizes[dim]} dates lies in the intervals: widen them",
            code="NoDataAvailable",
        )
    reduced = {
        index: data.isel({dim: group}).reduce(
            reducer,
            dim=dim,
            keep_attrs=True,
            positional_parameters={"data": 0},
            named_parameters={"context": context},
            dim_labels=data[dim].to_numpy()[group],
        )
        for index, group in enumerate(groups)
        if group.size
    }
    empty = xr.full_like(next(iter(reduced.values())), np.nan, dtype=np.float32)
    parts = [reduced.get(index, empty) for index in range(len(groups))]
    joined = xr.concat(parts, dim=dim, coords="minimal", compat="override")
    return joined.assign_coords({dim: labels}).transpose(*data.dims)
