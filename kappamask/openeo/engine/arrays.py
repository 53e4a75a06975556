"""Array processes that openeo-processes-dask computes at once, pixel by pixel, or warning. Row 6.

All take numbers, numpy and dask arrays; dask stays dask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import dask.array as da
import numpy as np

from kappamask.openeo.engine import library


def first(data: Any, ignore_nodata: bool = True, axis: int | None = None) -> Any:
    """Take the first value that is there; the library loads a cube for that."""
    if np.ndim(data) < 2 or axis is None:  # a plain array
        return library.first(data, ignore_nodata=ignore_nodata, axis=axis)
    if not ignore_nodata:
        return data.take(0, axis=axis)
    if not isinstance(data, da.Array):
        return first_valid(data, axis=axis)
    return map_axis(first_valid, data, axis)


def last(data: Any, ignore_nodata: bool = True, axis: int | None = None) -> Any:
    """Take the last value that is there."""
    if np.ndim(data) < 2 or axis is None:  # a plain array
        return library.last(data, ignore_nodata=ignore_nodata, axis=axis)
    return first(np.flip(data, axis), ignore_nodata=ignore_nodata, axis=axis)


def first_valid(values: np.ndarray, *, axis: int) -> np.ndarray:
    """Pick along an axis the first value that is not NaN.

    Examples
    --------
    >>> first_valid(np.array([[np.nan, 1.0], [2.0, 3.0]]), axis=0)
    array([2., 1.])
    """
    index = np.expand_dims(np.argmax(~np.isnan(values), axis=axis), axis)
    return np.take_along_axis(values, index, axis).squeeze(axis)


def array_create(data: Any = None, repeat: int = 1) -> Any:
    """Make an array; one of whole arrays stays a list, over which the next process reduces."""
    if isinstance(data, list) and any(map(np.ndim, data)):
        return data * repeat
    return library.array_create(data, repeat)


def array_apply(  # the special arguments are extra
    data: Any,
    process: Callable[..., Any],
    context: Any = None,
    *,
    axis: int | None = None,
    dim_labels: Any = None,
) -> Any:
    """Apply to every element, all at once; the library calls the process for each pixel.

    Inside, reductions of the outer array keep their dimension, so that the elements
    can be compared with them.
    """
    values = np.asarray(data) if isinstance(data, list) else data
    along = 0 if axis is None else axis
    shape = [1] * max(np.ndim(values), 1)
    shape[along] = -1
    length = np.shape(values)[along]
    labels = np.arange(length) if dim_labels is None else np.asarray(dim_labels)
    special: dict[str, Any] = {} if axis is None else {"axis": axis, "keepdims": True}
    return process(
        values,
        positional_parameters={"x": 0},
        named_parameters={
            "context": context,
            "index": np.arange(length).reshape(shape),
            "label": labels.reshape(shape),
        },
        **special,
    )


def choose(value: Any, accept: Any = None, reject: Any = None) -> Any:
    """Take one of two values; no data counts as false, which the library takes for true.

    Examples
    --------
    >>> choose(np.array([1.0, 0.0, np.nan]), 5, 6)
    array([5, 6, 6])
    """
    accept, reject = (np.nan if option is None else option for option in (accept, reject))
    if np.ndim(value) == 0 and not isinstance(value, da.Array):
        return accept if value and not is_nodata(value) else reject
    holds = (value == value) & (value != 0)  # noqa: PLR0124  NaN differs from itself
    return np.where(holds, accept, reject)


def is_nodata(x: Any) -> Any:
    """Tell where there is no data: NaN, which the library takes for data."""
    if x is None or isinstance(x, str | bool | list | dict):
        return x is None
    return np.isnan(x)


# --- reductions that pass over NaN without a warning -----------------------------------------


def median_valid(values: np.ndarray, *, axis: int, keepdims: bool = False) -> Any:
    """Compute the median of what is not NaN; NaN where nothing is.

    Examples
    --------
    >>> median_valid(np.array([[np.nan, 4.0], [np.nan, 1.0]]), axis=0)
    array([nan, 2.5])
    """
    ordered = np.sort(values, axis=axis)  # NaN comes last
    count = np.sum(~np.isnan(values), axis=axis, keepdims=True)
    low = np.take_along_axis(ordered, np.maximum(count - 1, 0) // 2, axis)
    high = np.take_along_axis(ordered, np.minimum(count // 2, values.shape[axis] - 1), axis)
    middle = (low + high) / 2
    return middle if keepdims else middle.squeeze(axis)


def mean_valid(values: np.ndarray, *, axis: int, keepdims: bool = False) -> Any:
    """Compute the mean of what is not NaN; NaN where nothing is.

    Examples
    --------
    >>> mean_valid(np.array([[np.nan, 4.0], [np.nan, 1.0]]), axis=0)
    array([nan, 2.5])
    """
    total = np.nansum(values, axis=axis, keepdims=keepdims)
    count = np.sum(~np.isnan(values), axis=axis, keepdims=keepdims)
    result = np.full(total.shape, np.nan, np.result_type(total, np.float32))
    return np.divide(total, count, out=result, where=count > 0)


def lowest_valid(values: np.ndarray, *, axis: int, keepdims: bool = False) -> Any:
    """Find the lowest value that is not NaN; NaN where nothing is."""
    return np.fmin.reduce(values, axis, keepdims=keepdims)  # type: ignore[call-overload]


def highest_valid(values: np.ndarray, *, axis: int, keepdims: bool = False) -> Any:
    """Find the highest value that is not NaN; NaN where nothing is."""
    return np.fmax.reduce(values, axis, keepdims=keepdims)  # type: ignore[call-overload]


def reducer(name: str, function: Callable[..., np.ndarray]) -> Callable[..., Any]:
    """Make a process of a function of arrays; plain lists go to the library's as before."""
    plain = library.implementations()[name]

    def reduce(
        data: Any,
        ignore_nodata: bool = True,
        axis: int | tuple[int, ...] | None = None,
        keepdims: bool = False,
    ) -> Any:
        if isinstance(axis, tuple) and len(axis) == 1:
            (axis,) = axis
        if not ignore_nodata or axis is None or isinstance(axis, tuple) or np.ndim(data) < 2:
            return plain(data, ignore_nodata=ignore_nodata, axis=axis, keepdims=keepdims)
        if not isinstance(data, da.Array):
            return function(np.asarray(data), axis=axis, keepdims=keepdims)
        return map_axis(partial(function, keepdims=keepdims), data, axis, keepdims=keepdims)

    return reduce


def map_axis(
    function: Callable[..., np.ndarray], data: da.Array, axis: int, *, keepdims: bool = False
) -> da.Array:
    """Reduce one axis of a lazy array, each block by itself."""
    axis %= data.ndim
    whole = data.rechunk({axis: -1})
    if keepdims:
        chunks = tuple((1,) if at == axis else c for at, c in enumerate(whole.chunks))
        return da.map_blocks(function, whole, axis=axis, chunks=chunks, dtype=data.dtype)
    return da.map_blocks(function, whole, axis=axis, drop_axis=axis, dtype=data.dtype)


ARRAY_PROCESSES: Mapping[str, Callable[..., Any]] = {
    "array_apply": array_apply,
    "array_create": array_create,
    "first": first,
    "if": choose,
    "is_nodata": is_nodata,
    "last": last,
    "max": reducer("max", highest_valid),
    "mean": reducer("mean", mean_valid),
    "median": reducer("median", median_valid),
    "min": reducer("min", lowest_valid),
}
