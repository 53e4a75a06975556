"""Processes along an axis that openeo-processes-dask computes wrongly, at once or warning.

NaN is no data: it is passed over, and is the result where nothing else is. All take numbers,
lists, numpy and dask arrays; dask stays dask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from kappamask.openeo.engine import library
from kappamask.openeo.engine.flat_graph import GraphError

LIBRARY = library.implementations()
Function = Callable[..., Any]


def is_one(value: Any) -> bool:
    """Tell a single value from an array, a list or a cube."""
    return not isinstance(value, list | dict | da.Array | xr.DataArray) and np.ndim(value) == 0


def is_null(value: Any) -> bool:
    """Tell whether a single value is no data: null in JSON, NaN here."""
    return is_one(value) and bool(pd.isna(value))


def is_number(value: Any) -> bool:
    """Tell whether a single value is a number; openEO's booleans are none."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool | np.bool_)


# --- of numpy arrays ---------------------------------------------------------------------------


def first_valid(values: np.ndarray, *, axis: int, keepdims: bool = False) -> Any:
    """Pick along an axis the first value that is not NaN."""
    index = np.expand_dims(np.argmax(~np.isnan(values), axis=axis), axis)
    found = np.take_along_axis(values, index, axis)
    return found if keepdims else found.squeeze(axis)


def last_valid(values: np.ndarray, *, axis: int, keepdims: bool = False) -> Any:
    """Pick along an axis the last value that is not NaN."""
    return first_valid(np.flip(values, axis), axis=axis, keepdims=keepdims)


def median_valid(values: np.ndarray, *, axis: int, keepdims: bool = False) -> Any:
    """Compute the median of what is not NaN."""
    ordered = np.sort(values, axis=axis)  # NaN comes last
    count = np.sum(~np.isnan(values), axis=axis, keepdims=True)
    low = np.take_along_axis(ordered, np.maximum(count - 1, 0) // 2, axis)
    high = np.take_along_axis(ordered, np.minimum(count // 2, values.shape[axis] - 1), axis)
    middle = low / 2 + high / 2  # the sum of two bytes may be no byte
    return middle if keepdims else middle.squeeze(axis)


def mean_valid(values: np.ndarray, *, axis: int, keepdims: bool = False) -> Any:
    """Compute the mean of what is not NaN."""
    total = np.nansum(values, axis=axis, keepdims=keepdims)
    count = np.sum(~np.isnan(values), axis=axis, keepdims=keepdims)
    result = np.full(total.shape, np.nan, np.result_type(total, np.float32))
    return np.divide(total, count, out=result, where=count > 0)


def unless_empty(function: Function) -> Function:
    """Make a reduction of numpy give NaN where all is NaN, as the specification has it."""

    def reduce(values: np.ndarray, *, axis: int, keepdims: bool = False) -> Any:
        empty = np.isnan(values).all(axis=axis, keepdims=keepdims)
        return np.where(empty, np.nan, function(values, axis=axis, keepdims=keepdims))

    return reduce


def variance_valid(values: np.ndarray, *, axis: int, keepdims: bool = False) -> Any:
    """Compute the variance of what is not NaN, of a sample; NaN of fewer than two values."""
    centred = values - mean_valid(values, axis=axis, keepdims=True)
    total = np.nansum(centred**2, axis=axis, keepdims=keepdims)
    count = np.sum(~np.isnan(values), axis=axis, keepdims=keepdims)
    result = np.full(total.shape, np.nan, np.result_type(total, np.float32))
    return np.divide(total, count - 1, out=result, where=count > 1)


def sd_valid(values: np.ndarray, *, axis: int, keepdims: bool = False) -> Any:
    """Compute the standard deviation of what is not NaN."""
    return np.sqrt(variance_valid(values, axis=axis, keepdims=keepdims))


def quantiles_valid(values: np.ndarray, *, axis: int, probabilities: np.ndarray) -> Any:
    """Interpolate quantiles of what is not NaN, along the axis."""
    ordered = np.moveaxis(np.sort(values, axis=axis), axis, -1)
    count = np.sum(~np.isnan(ordered), axis=-1, keepdims=True)
    place = probabilities * np.maximum(count - 1, 0)
    low, high = (np.take_along_axis(ordered, f(place).astype(int), -1) for f in (np.floor, np.ceil))
    share = place - np.floor(place)
    with np.errstate(invalid="ignore"):  # of infinite values
        mixed = low * (1 - share) + high * share
    return np.moveaxis(np.where((low == high) | (share == 0), low, mixed), -1, axis)


def extrema_valid(values: np.ndarray, *, axis: int) -> Any:
    """Give the lowest and the highest value that is not NaN, along the axis."""
    ends = [np.fmin.reduce(values, axis=axis), np.fmax.reduce(values, axis=axis)]
    return np.stack(ends, axis=axis)


def order_valid(
    values: np.ndarray, *, axis: int, asc: bool, nodata: bool | None, sort: bool = False
) -> Any:
    """Rank along an axis, equal values in their order; gives indices, or the values themselves.

    No data goes to the end, or to the start if `nodata` is False. If it is None it is removed:
    where a cube must stay rectangular, NaN fills the end.
    """
    absent = np.isnan(values)
    ranked = values if asc else -values.astype(float)  # bytes and booleans know no minus
    keys = np.where(absent, -np.inf if nodata is False else np.inf, ranked)
    index = np.lexsort((keys, absent if nodata is not False else ~absent), axis=axis)
    result = np.take_along_axis(values, index, axis).astype(float) if sort else index
    if nodata is not None:
        return result
    gone = np.take_along_axis(absent, index, axis)
    return result[~gone] if values.ndim == 1 else np.where(gone, np.nan, result)


def interpolate_valid(values: np.ndarray, *, axis: int, places: np.ndarray) -> Any:
    """Fill NaN between two values along an axis, linearly in the places of the values."""
    series = np.moveaxis(values, axis, -1)
    valid = np.isfinite(series)
    last = series.shape[-1] - 1
    before = np.maximum.accumulate(np.where(valid, np.arange(last + 1), -1), axis=-1)
    after = np.where(valid, np.arange(last + 1), last + 1)[..., ::-1]
    after = np.minimum.accumulate(after, axis=-1)[..., ::-1]
    low, high = np.clip(before, 0, last), np.clip(after, 0, last)
    width = places[high] - places[low]
    share = np.divide(places - places[low], width, out=np.zeros(width.shape), where=width != 0)
    first, second = (np.take_along_axis(series, index, -1) for index in (low, high))
    inside = ~valid & (before >= 0) & (after <= last)
    filled = np.where(inside, first + share * (second - first), series)
    return np.moveaxis(filled, -1, axis).astype(values.dtype)


# --- processes -------------------------------------------------------------------------------


def along(function: Function, data: Any, axis: int, size: int | None, dtype: Any = None) -> Any:
    """Apply a function of numpy arrays along an axis, of which `size` values remain; lazily.

    None: the axis goes.
    """
    if not isinstance(data, da.Array):
        return function(np.asarray(data), axis=axis)
    axis %= data.ndim
    if dtype is None and data.dtype.kind != "f":  # a median of bytes is no byte
        dtype = np.asarray(function(np.ones((1,) * data.ndim, data.dtype), axis=axis)).dtype
    whole = data.rechunk({axis: -1})  # each block by itself
    layout: dict[str, Any] = {"drop_axis": axis}
    if size is not None:
        layout = {"chunks": (*whole.chunks[:axis], (size,), *whole.chunks[axis + 1 :])}
    return da.map_blocks(partial(function, axis=axis), whole, dtype=dtype or data.dtype, **layout)


def reducer(name: str, function: Function) -> Function:
    """Make a process of a function of arrays; plain lists go to the library's as before."""
    plain = LIBRARY[name]

    def reduce(
        data: Any,
        ignore_nodata: bool = True,
        axis: int | tuple[int, ...] | None = None,
        keepdims: bool = False,
    ) -> Any:
        if isinstance(axis, tuple) and len(axis) == 1:
            (axis,) = axis
        if 0 in np.shape(data):
            return np.nan
        kept = {"keepdims": True} if keepdims else {}  # not all of the library's know the word
        if not ignore_nodata or axis is None or isinstance(axis, tuple) or np.ndim(data) < 2:
            return plain(data, ignore_nodata=ignore_nodata, axis=axis, **kept)
        return along(partial(function, **kept), data, axis, 1 if keepdims else None)

    return reduce


def picker(name: str, function: Function, step: int) -> Function:
    """Make `first` or `last`; texts are looked through one by one."""
    of_numbers = reducer(name, function)

    def pick(
        data: Any, ignore_nodata: bool = True, axis: Any = None, keepdims: bool = False
    ) -> Any:
        if isinstance(data, list) and any(isinstance(one, str) for one in data):
            kept = [one for one in data[::step] if not (ignore_nodata and is_null(one))]
            return kept[0] if kept else np.nan
        return of_numbers(data, ignore_nodata, axis, keepdims)

    return pick


def logical(*, wanted: bool) -> Function:
    """Make `any` (true wanted) or `all` (false wanted); the library takes NaN for true.

    An array of nothing but no data is as an empty one.
    """

    def reduce(
        data: Any, ignore_nodata: bool = True, axis: Any = None, keepdims: bool = False
    ) -> Any:
        values = data if isinstance(data, da.Array) else np.asarray(data, float)
        absent = np.isnan(values) if values.dtype.kind == "f" else values != values  # noqa: PLR0124
        found = ((values != 0) == wanted) & ~absent
        found = found.any(axis=axis, keepdims=keepdims)
        result = found if wanted else ~found
        if ignore_nodata:
            return result
        unknown = absent.any(axis=axis, keepdims=keepdims) & ~found
        unknown &= ~absent.all(axis=axis, keepdims=keepdims)
        return np.where(unknown, np.nan, result)

    return reduce


def quantiles(  # the special argument is extra
    data: Any,
    probabilities: Any = None,
    q: int | None = None,
    ignore_nodata: bool = True,
    *,
    axis: int | None = None,
) -> Any:
    """Compute quantiles, along the axis that is given: the library's end up on another one."""
    if (probabilities is None) == (q is None):
        problem = "Missing" if q is None else "Conflict"
        cause = f"takes either probabilities or q, got {probabilities!r} and {q!r}"
        raise GraphError(cause, code=f"QuantilesParameter{problem}")
    wanted = probabilities if q is None else q
    if isinstance(wanted, list) and len(wanted) == 1 and wanted[0] > 1:
        (wanted,) = wanted
    asked = np.arange(1, wanted) / wanted if is_one(wanted) else np.asarray(wanted, float)
    work = partial(quantiles_valid, probabilities=asked)
    return _several(work, data, ignore_nodata, axis, asked.size, np.float64)


def extrema(data: Any, ignore_nodata: bool = True, *, axis: int | None = None) -> Any:
    """Give the lowest and the highest value; the library loses the axis."""
    return _several(extrema_valid, data, ignore_nodata, axis, 2)


def _several(
    function: Function,
    data: Any,
    ignore_nodata: bool,
    axis: int | None,
    size: int,
    dtype: Any = None,
) -> Any:
    """Reduce to several values: all NaN if there is none, or one is NaN that is not ignored."""
    values = data if isinstance(data, da.Array) else np.asarray(data, float)
    if 0 in values.shape:
        return np.full(size, np.nan)
    found = along(function, values, axis or 0, size, dtype)
    absent = np.isnan(values).any(axis=axis or 0, keepdims=True)
    return found if ignore_nodata else np.where(absent, np.nan, found)


def ranking(*, sort: bool) -> Function:
    """Make `sort` or `order`; the library mixes up the pixels of cubes, and what ties."""

    def process(
        data: Any, asc: bool = True, nodata: bool | None = None, *, axis: int | None = None
    ) -> Any:
        values = data if isinstance(data, da.Array) else np.asarray(data)
        if values.dtype.kind not in "fiub":  # texts
            return LIBRARY["sort" if sort else "order"](values, asc, nodata)
        if 0 in np.shape(values):
            return values
        work = partial(order_valid, asc=asc, nodata=nodata, sort=sort)
        return along(work, values, axis or 0, values.shape[axis or 0], np.float64)

    return process


def cumulative(name: str) -> Function:
    """Make a cumulative process; the library cannot put NaN into whole numbers."""
    plain = LIBRARY[name]

    def process(data: Any, ignore_nodata: bool = True, *, axis: int | None = None) -> Any:
        if 0 in np.shape(data):
            return data
        work = partial(plain, ignore_nodata=ignore_nodata)
        floats = data.astype(float) if hasattr(data, "astype") else np.asarray(data, float)
        return along(work, floats, axis or 0, np.shape(data)[axis or 0])

    return process


def count(  # the special arguments are extra
    data: Any,
    condition: Any = None,
    context: Any = None,
    *,
    axis: int | None = None,
    keepdims: bool = False,
) -> Any:
    """Count what is valid, all, or what meets a condition, which the library calls wrongly."""
    if isinstance(data, list):
        texts = [not is_null(one) for one in data]
        values = np.array(data) if all(map(is_number, data)) else np.array(texts)
    else:
        values = data
    if condition is True:
        met = np.ones_like(values, bool)
    elif condition is None:
        met = values if values.dtype == bool else LIBRARY["is_valid"](values)
    else:
        named = {"context": context}
        met = condition(values, positional_parameters={"x": 0}, named_parameters=named)
        met = (met == met) & (met != 0)  # noqa: PLR0124  NaN differs from itself
    return met.sum(axis=axis, keepdims=keepdims)


REDUCERS: Mapping[str, Function] = {
    **{name: cumulative(name) for name in ("cummax", "cummin", "cumproduct", "cumsum")},
    "all": logical(wanted=False),
    "any": logical(wanted=True),
    "count": count,
    "extrema": extrema,
    "first": picker("first", first_valid, 1),
    "last": picker("last", last_valid, -1),
    "max": reducer("max", np.fmax.reduce),
    "mean": reducer("mean", mean_valid),
    "median": reducer("median", median_valid),
    "min": reducer("min", np.fmin.reduce),
    "order": ranking(sort=False),
    "product": reducer("product", unless_empty(np.nanprod)),
    "quantiles": quantiles,
    "sd": reducer("sd", sd_valid),
    "sort": ranking(sort=True),
    "sum": reducer("sum", unless_empty(np.nansum)),
    "variance": reducer("variance", variance_valid),
}
