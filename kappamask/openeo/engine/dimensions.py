"""Processes along a dimension: labels, dates, periods and intervals.

openeo-processes-dask 2026.9 leaves out what was seen at the very start of an interval, knows no
decade of days within a year that ends in the last one, takes no empty interval, labels months
by their last day, and finds no label of time. So all of these are made here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from kappamask.base.errors import UnknownNameError
from kappamask.composites.periods import PERIODS, period_edges
from kappamask.openeo.engine import library
from kappamask.openeo.engine.arrays import as_labels, text_of
from kappamask.openeo.engine.flat_graph import ArgumentError, GraphError
from kappamask.openeo.engine.udfs import Call, Frame, Log, run_in_windows

STARTS = "period_start"  # coordinate that keeps the times of periods, whose labels are texts
HALVES = {
    "season": {12: "djf", 3: "mam", 6: "jja", 9: "son"},
    "tropical-season": {11: "ndjfma", 5: "mjjaso"},
}


def check_dimension(data: xr.DataArray, dimension: str) -> str:
    """Check that a cube has a dimension; returns its name.

    Raises
    ------
    GraphError
        DimensionNotAvailable.
    """
    if dimension not in data.dims:
        raise GraphError(
            f"there is no dimension {dimension!r}: the cube has {data.dims}",
            code="DimensionNotAvailable",
        )
    return dimension


def apply_dimension(  # the openEO process has five
    data: xr.DataArray,
    process: Callable[..., Any],
    dimension: str,
    target_dimension: str | None = None,
    context: Any = None,
    *,
    log: Log | None = None,
) -> xr.DataArray:
    """Apply to the values along a dimension; the library loses labels and new dimensions."""
    call = Call.of(process, context, log)
    if call is not None and dimension in ("t", "bands") and target_dimension is None:
        return run_in_windows(data, call, Frame(per_date=dimension == "bands"))
    axis = data.get_axis_num(check_dimension(data, dimension))
    values = process(
        data.data,
        positional_parameters={"data": 0},
        named_parameters={"context": context},
        axis=axis,
        dim_labels=data[dimension].to_numpy(),
        source_transposed_axis=axis,
    )
    if isinstance(values, list):  # array_create of several reductions
        values = (da if isinstance(data.data, da.Array) else np).stack(values, axis=axis)
    elif np.ndim(values) == data.ndim - 1:
        values = np.expand_dims(values, axis)
    count, target = np.shape(values)[axis], target_dimension or dimension
    if target != dimension and target in data.dims:
        return _spread(data, values, dimension, target)
    same = target == dimension and count == data.sizes[dimension]
    labels = data[dimension].to_numpy() if same else np.arange(count)
    dims = [target if dim == dimension else dim for dim in data.dims]
    kept = data.coords if same else data.isel({dimension: 0}, drop=True).coords
    return xr.DataArray(values, {**kept, target: labels}, dims, data.name, data.attrs)


def _spread(data: xr.DataArray, values: Any, dimension: str, target: str) -> xr.DataArray:
    """Put the values of each label of the target beside it, as Copernicus does: bands first."""
    rest = [dim for dim in data.dims if dim not in (dimension, target)]
    ordered = xr.DataArray(values, dims=data.dims).transpose(target, dimension, *rest)
    flat = ordered.data.reshape((-1, *ordered.shape[2:]))
    kept = data.isel({dimension: 0, target: 0}, drop=True).coords
    coords = {**kept, target: np.arange(flat.shape[0])}
    spread = xr.DataArray(flat, coords, (target, *rest), data.name, data.attrs)
    return spread.transpose(*(dim for dim in data.dims if dim != dimension))


def reduce_dimension(
    data: xr.DataArray, reducer: Callable[..., Any], dimension: str, context: Any = None
) -> xr.DataArray:
    """Reduce a dimension; the library leaves an attribute behind that no file can hold."""
    return data.reduce(
        reducer,
        dim=check_dimension(data, dimension),
        keep_attrs=True,
        positional_parameters={"data": 0},
        named_parameters={"context": context},
        dim_labels=data[dimension].to_numpy(),
    )


# --- labels ----------------------------------------------------------------------------------


def dimension_labels(data: xr.DataArray, dimension: str) -> list[Any]:
    """List the labels of a dimension, times to the second as openEO writes them."""
    return [text_of(label) for label in data[check_dimension(data, dimension)].to_numpy()]


def filter_labels(
    data: xr.DataArray, condition: Callable[..., Any], dimension: str, context: Any = None
) -> xr.DataArray:
    """Keep the labels that meet a condition; the library keeps the first of them only.

    A time is given as such: a comparison reads the text beside it as a time.
    """
    labels = data[check_dimension(data, dimension)].to_numpy()
    held = [condition(named_parameters={"value": label, "context": context}) for label in labels]
    index = [n for n, met in enumerate(held) if not np.isnan(float(met)) and bool(met)]
    if not index:
        raise GraphError(
            f"none of the labels of {dimension!r} meets the condition, they are "
            f"{', '.join(map(str, dimension_labels(data, dimension)))[:400]}",
            code="NoDataAvailable",
        )
    return data.isel({dimension: index})


def filter_bands(data: xr.DataArray, bands: Sequence[str] | None = None) -> xr.DataArray:
    """Keep bands, by name or common name; the library knows no common names."""
    if not bands:
        raise GraphError("needs bands", code="BandFilterParameterMissing")
    names = data[check_dimension(data, "bands")].to_numpy().tolist()
    common = data["common_name"].to_numpy().tolist() if "common_name" in data.coords else []
    index = []
    for band in bands:
        found = [n for n, name in enumerate(names) if name == band]
        found = found or [n for n, name in enumerate(common) if name == band]
        if not found:
            raise UnknownNameError.of("band", str(band), [*map(str, names)])
        index += found
    return data.isel(bands=list(dict.fromkeys(index)))


def rename_labels(
    data: xr.DataArray,
    dimension: str,
    target: Sequence[Any] | None = None,
    source: Sequence[Any] | None = None,
) -> xr.DataArray:
    """Rename labels; the library copies the cube, and takes names as sources only with targets."""
    labels = data[check_dimension(data, dimension)].to_numpy()
    if not source or not target:  # one list is for labels that are mere numbers
        if labels.tolist() != list(range(labels.size)) and len(target or ()) != labels.size:
            raise GraphError(
                f"needs a source for labels that have names, got {labels.tolist()} of "
                f"{dimension!r}: name those to rename",
                code="LabelsNotEnumerated",
            )
        target = list(target or source or ())
        if len(target) > labels.size:
            raise GraphError(f"has {labels.size} labels, got {len(target)}", code="LabelMismatch")
        return data.assign_coords(
            {dimension: as_labels([*target, *labels[len(target) :].tolist()])}
        )
    return library.implementations()["rename_labels"](data, dimension, [*target], [*source])  # type: ignore[no-any-return]


# --- times -----------------------------------------------------------------------------------


def read_instant(text: str) -> datetime:
    """Read a date, a year or an instant as openEO writes them; in UTC.

    Raises
    ------
    ArgumentError
        If it is none.

    Examples
    --------
    >>> read_instant("2022-06-01").isoformat()
    '2022-06-01T00:00:00+00:00'
    """
    try:
        time = datetime.fromisoformat(text if len(text) != 4 else f"{text}-01-01")  # a year
    except ValueError:
        raise ArgumentError(f"a date is YYYY-MM-DD or YYYY-MM-DDTHH:MM:SSZ, got {text!r}") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def times_along(data: xr.DataArray, dim: str) -> np.ndarray | None:
    """Give the times along a dimension, those at which its periods begin; None: it has none."""
    has_starts = STARTS in data.coords and data[STARTS].dims == (dim,)
    labels = data[STARTS if has_starts else dim].to_numpy()
    return labels if np.issubdtype(labels.dtype, np.datetime64) else None


def find_times(data: xr.DataArray, dimension: str | None) -> tuple[str, np.ndarray]:
    """Find the temporal dimension and its times.

    Raises
    ------
    GraphError
        DimensionNotAvailable or TooManyDimensions, as openEO words it.
    """
    dims = data.dims if dimension is None else [check_dimension(data, dimension)]
    found = [
        (str(dim), times) for dim in dims if (times := times_along(data, str(dim))) is not None
    ]
    if len(found) != 1:
        raise GraphError(
            f"needs one temporal dimension, got {[dim for dim, _ in found] or 'none'} of "
            f"{data.dims}: name it",
            code="TooManyDimensions" if found else "DimensionNotAvailable",
        )
    return found[0]


def is_within(times: np.ndarray, interval: Sequence[str | None]) -> np.ndarray:
    """Tell which times lie in an interval of instants, or of times of the day.

    It holds its start, not its end.
    """
    daily = any(str(end)[2:3] == ":" for end in interval)
    given = times - times.astype("M8[D]") if daily else times
    ends: list[Any] = [None if end is None else _end(end, daily=daily) for end in interval]
    after = np.full(times.shape, True) if ends[0] is None else given >= ends[0]
    before = np.full(times.shape, True) if ends[1] is None else given < ends[1]
    over_midnight = daily and None not in ends and ends[1] < ends[0]
    within: np.ndarray = after | before if over_midnight else after & before
    return within


def _end(text: str, *, daily: bool) -> np.datetime64 | np.timedelta64:
    moment = read_instant(f"1970-01-01T{text}" if daily else text).replace(tzinfo=None)
    return np.datetime64(moment) - np.datetime64("1970-01-01") if daily else np.datetime64(moment)


def filter_temporal(
    data: xr.DataArray, extent: Sequence[str | None], dimension: str | None = None
) -> xr.DataArray:
    """Keep the dates of an interval; the library knows no periods, and no times of the day."""
    dim, times = find_times(data, dimension)
    start, end = extent
    if start and end and ":" not in start[:3] and read_instant(end) <= read_instant(start):
        raise GraphError(
            f"needs an end after its start, got {start} and {end}", code="TemporalExtentEmpty"
        )
    return data.isel({dim: np.flatnonzero(is_within(times, extent))})


def date_cube(cube: xr.DataArray) -> xr.DataArray:
    """Label periods by the times at which they begin: files hold times, not names of periods."""
    times = times_along(cube, "t") if "t" in cube.dims else None
    return cube if times is None else cube.assign_coords(t=times).drop_vars(STARTS, errors="ignore")


# --- periods ---------------------------------------------------------------------------------


def group_by_period(times: np.ndarray, period: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """List the starts of all periods from the first to the last time, and the indices of each.

    Raises
    ------
    UnknownNameError
        If openEO has no such period.
    """
    if period not in PERIODS:
        raise UnknownNameError.of("period", str(period), [*PERIODS])
    starts = period_edges(times.min(), times.max(), period)[:-1].astype(times.dtype)
    which = np.searchsorted(starts, times, side="right") - 1
    return starts, [np.flatnonzero(which == index) for index in range(starts.size)]


def period_label(start: np.datetime64, period: str) -> str:
    """Name a period as the specification of `aggregate_temporal_period` does.

    Examples
    --------
    >>> [period_label(np.datetime64("2022-12-01"), name) for name in ("month", "dekad", "season")]
    ['2022-12', '2022-34', '2022-djf']
    >>> period_label(np.datetime64("2022-12-05"), "week")
    '2022-49'
    """
    date = start.astype("M8[s]").item()
    if period in HALVES:
        return f"{date.year}-{HALVES[period][date.month]}"
    if period == "week":
        year, week, _ = date.isocalendar()
        return f"{year}-{week:02}"
    if period == "dekad":
        return f"{date.year}-{3 * date.month - 2 + date.day // 10:02}"
    forms = {"hour": "%Y-%m-%d-%H", "day": "%Y-%j", "month": "%Y-%m"}
    return str(date.strftime(forms.get(period, "%Y")))


def aggregate_temporal_period(
    data: xr.DataArray,
    period: str,
    reducer: Callable[..., Any],
    dimension: str | None = None,
    context: Any = None,
) -> xr.DataArray:
    """Reduce the dates of every period to one; files name it by the day on which it begins."""
    dim, times = find_times(data, dimension)
    starts, groups = group_by_period(times, period)
    labels = [period_label(start, period) for start in starts]
    return reduce_groups(data, groups, {dim: labels, STARTS: (dim, starts)}, reducer, context)


def aggregate_temporal(
    data: xr.DataArray,
    intervals: Sequence[Sequence[str | None]],
    reducer: Callable[..., Any],
    labels: Sequence[Any] | None = None,
    dimension: str | None = None,
    context: Any = None,
) -> xr.DataArray:
    """Reduce the dates of every interval to one; an interval holds its start, not its end."""
    dim, times = find_times(data, dimension)
    groups = [np.flatnonzero(is_within(times, interval)) for interval in intervals]
    firsts = [start for start, _ in intervals]
    if not labels and None in firsts:
        raise ArgumentError("intervals without a start need labels")
    names = list(labels or map(str, firsts))
    coords: dict[str, Any] = {dim: names}
    if not labels and not any(name[2:3] == ":" for name in names):
        moments = [read_instant(name).replace(tzinfo=None) for name in names]
        coords[STARTS] = (dim, np.array(moments, times.dtype))
    if len(names) != len(groups):
        raise ArgumentError(f"needs one label per interval, got {len(names)} and {len(groups)}")
    if len(set(names)) < len(names):
        raise GraphError(
            f"needs labels that differ, got {names}: give labels",
            code="DistinctDimensionLabelsRequired",
        )
    return reduce_groups(data, groups, coords, reducer, context)


def reduce_groups(
    data: xr.DataArray,
    groups: Sequence[np.ndarray],
    coords: Mapping[str, Any],
    reducer: Callable[..., Any],
    context: Any,
) -> xr.DataArray:
    """Reduce each group of labels along the first of the new coordinates; an empty one to NaN."""
    dim = next(iter(coords))
    plain = data.drop_vars(STARTS, errors="ignore")
    reduced = {
        index: reduce_dimension(plain.isel({dim: group}), reducer, dim, context)
        for index, group in enumerate(groups)
        if group.size
    }
    like = next(iter(reduced.values()), plain.isel({dim: slice(1)}).max(dim))
    empty = xr.full_like(like, np.nan, dtype=np.float32)
    parts = [reduced.get(index, empty) for index in range(len(groups))]
    joined = xr.concat(parts, dim=dim, coords="minimal", compat="override")
    return joined.assign_coords(coords).transpose(*data.dims)


DIMENSION_PROCESSES = (
    *(aggregate_temporal, aggregate_temporal_period, apply_dimension, dimension_labels),
    *(filter_bands, filter_labels, filter_temporal, reduce_dimension, rename_labels),
)
