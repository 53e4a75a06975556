"""Array processes that openeo-processes-dask computes at once, pixel by pixel, or warning.

All take numbers, numpy and dask arrays; dask stays dask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import dask.array as da
import numpy as np

from kappamask.openeo.engine import library


def array_create(data: Any = None, repeat: int = 1) -> Any:
    """Make an array; one of whole arrays stays a list, over which the next process reduces."""
    if isinstance(data, list) and any(map(np.ndim, data)):
        return data * repeat
    return library.implementations()["array_create"](data, repeat)


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
    """Take one of two values; no data counts as false, which the library takes for true."""
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


# --- reductions that pass over NaN without a warning; NaN where nothing else is ---------------


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
    middle = (low + high) / 2
    return middle if keepdims else middle.squeeze(axis)


def mean_valid(values: np.ndarray, *, axis: int, keepdims: bool = False) -> Any:
    """Compute the mean of what is not NaN."""
    total = np.nansum(values, axis=axis, keepdims=keepdims)
    count = np.sum(~np.isnan(values), axis=axis, keepdims=keepdims)
    result = np.full(total.shape, np.nan, np.result_type(total, np.float32))
    return np.divide(total, count, out=result, where=count > 0)


def reducer(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
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
        kept = {"keepdims": True} if keepdims else {}  # not all of the library's know the word
        if not ignore_nodata or axis is None or isinstance(axis, tuple) or np.ndim(data) < 2:
            return plain(data, ignore_nodata=ignore_nodata, axis=axis, **kept)
        if not isinstance(data, da.Array):
            return function(np.asarray(data), axis=axis, **kept)
        along = axis % data.ndim
        whole = data.rechunk({along: -1})  # each block by itself
        layout: dict[str, Any] = {"drop_axis": along}
        if keepdims:
            layout = {"chunks": (*whole.chunks[:along], (1,), *whole.chunks[along + 1 :])}
        work = partial(function, axis=along, **kept)
        return da.map_blocks(work, whole, dtype=data.dtype, **layout)

    return reduce


ARRAY_PROCESSES: Mapping[str, Callable[..., Any]] = {
    "array_apply": array_apply,
    "array_create": array_create,
    "first": reducer("first", first_valid),
    "if": choose,
    "is_nodata": is_nodata,
    "last": reducer("last", last_valid),
    "max": reducer("max", np.fmax.reduce),
    "mean": reducer("mean", mean_valid),
    "median": reducer("median", median_valid),
    "min": reducer("min", np.fmin.reduce),
}
