"""Array processes that openeo-processes-dask computes at once, wrongly or with a warning.

All take numbers, numpy and dask arrays; dask stays dask. Each says why it is not the library's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial, wraps
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from kappamask.openeo.engine.flat_graph import GraphError
from kappamask.openeo.engine.reducers import (
    LIBRARY,
    REDUCERS,
    Function,
    along,
    interpolate_valid,
    is_null,
    is_number,
    is_one,
)

# --- elements --------------------------------------------------------------------------------


def array_create(data: Any = None, repeat: int = 1) -> Any:
    """Make an array; one of whole arrays stays a list, over which the next process reduces."""
    if isinstance(data, list) and any(map(np.ndim, data)):
        return data * repeat
    return LIBRARY["array_create"](data, repeat)


def array_create_labeled(data: Any, labels: Any) -> xr.DataArray:
    """Give an array labels; the library makes texts of the numbers beside texts."""
    if len(data) != len(labels):
        raise GraphError(
            f"needs as many labels as values, got {len(labels)} and {len(data)}",
            code="ArrayLengthMismatch",
        )
    return xr.DataArray(np.asarray(data), {"labels": as_labels(labels)}, ["labels"])


def as_labels(labels: Any) -> np.ndarray:
    """Make labels of a list; numbers beside texts stay numbers."""
    mixed = len({isinstance(one, str) for one in labels}) > 1
    return np.array([*labels], object if mixed else None)


def labels_of(data: Any, dim_labels: Any) -> Any:
    """Give the labels of an array, its own or those of the dimension; None: it has none."""
    return data["labels"].to_numpy() if isinstance(data, xr.DataArray) else dim_labels


def array_find_label(data: Any, label: Any, *, dim_labels: Any = None) -> Any:
    """Find the index of a label; NaN where there is none, for which the library says 999999."""
    held = labels_of(data, dim_labels)
    return np.nan if held is None else array_find(held, label)


def array_element(  # the openEO process has four
    data: Any,
    index: int | None = None,
    label: Any = None,
    return_nodata: bool = False,
    *,
    axis: int | None = None,
    dim_labels: Any = None,
) -> Any:
    """Take one element; the library counts from the end, and has no no-data outside of cubes."""
    if (index is None) == (label is None):
        problem = "Missing" if index is None else "Conflict"
        raise GraphError(
            f"takes either an index or a label, got {index!r} and {label!r}",
            code=f"ArrayElementParameter{problem}",
        )
    values, along = (data.to_numpy() if isinstance(data, xr.DataArray) else data), axis or 0
    values = np.asarray(values) if isinstance(values, list) else values
    if label is not None:
        held = labels_of(data, dim_labels)
        if held is None:
            raise GraphError(
                "needs a labeled array for a label: use an index", code="ArrayNotLabeled"
            )
        wanted = np.datetime64(str(label).removesuffix("Z")) if is_time(held) else label
        (found,) = np.nonzero(np.asarray(held) == wanted)
        index = int(found[0]) if found.size else -1
    if 0 <= int(index or 0) < values.shape[along]:
        return np.take(values, int(index or 0), axis=along)
    if not return_nodata:
        told = f"the label {label!r}" if label is not None else f"the index {index}"
        held = range(values.shape[along]) if dim_labels is None else np.asarray(dim_labels).tolist()
        cause = f"has no element with {told}, only {[*held]}"
        raise GraphError(cause, code="ArrayElementNotAvailable")
    kept = values.shape[:along] + values.shape[along + 1 :]
    whole = da.full if isinstance(values, da.Array) else np.full
    return whole(kept, np.nan)[()]


def array_append(
    data: Any, value: Any, label: Any = None, *, axis: int | None = None, dim_labels: Any = None
) -> Any:
    """Append one element; the library does so along the wrong axis of cubes, or computes them."""
    if axis is not None and np.ndim(data) > 1:
        return array_concat(data, value, axis=axis)
    if isinstance(data, xr.DataArray):
        names = data["labels"].to_numpy().tolist()
        name = len(names) if label is None else label
        if name in names:
            raise GraphError(f"has the label {name!r} already: choose another", code="LabelExists")
        return array_create_labeled([*data.to_numpy().tolist(), value], [*names, name])
    if label is not None and dim_labels is None:
        raise GraphError(
            "takes a label for labeled arrays only: leave it out", code="ArrayNotLabeled"
        )
    return array_concat(data, value if isinstance(value, list) else [value])


def array_concat(array1: Any, array2: Any, *, axis: int | None = None) -> Any:
    """Join two arrays; the library turns the numbers beside texts into texts."""
    if axis is not None and np.ndim(array1) > 1:
        parts = [array1, array2]
        if np.ndim(array2) < np.ndim(array1):  # one element of each pixel
            parts[1] = np.expand_dims(array2, axis) if np.ndim(array2) else array2
        if np.ndim(parts[1]) == 0:
            shape = [1 if n == axis else size for n, size in enumerate(np.shape(array1))]
            parts[1] = np.full(shape, parts[1])
        return np.concatenate(parts, axis=axis)
    if isinstance(array1, xr.DataArray) and isinstance(array2, xr.DataArray):
        return LIBRARY["array_concat"](array1, array2)
    first, second = (np.asarray(part).tolist() if not isinstance(part, list) else part
                     for part in (array1, array2))  # fmt: skip
    joined = first + second
    return np.array(joined) if all(map(is_number, joined)) else joined


def array_modify(data: Any, values: Any, index: int, length: int = 1) -> Any:
    """Replace a part of an array; the library turns the numbers beside texts into texts."""
    if isinstance(data, xr.DataArray):
        return LIBRARY["array_modify"](data, values, index, length)
    held, put = (np.asarray(part, object).tolist() for part in (data, values))
    if index > len(held):
        cause = f"has {len(held)} elements, got the index {index}"
        raise GraphError(cause, code="ArrayElementNotAvailable")
    return held[:index] + put + held[index + length :]


def array_find(data: Any, value: Any, reverse: bool = False, *, axis: int | None = None) -> Any:
    """Find the index of a value; NaN where there is none, for which the library says 999999."""
    if axis is None or np.ndim(data) < 2:
        held = np.asarray(data).tolist() if not isinstance(data, list) else data
        findable = is_one(value) and not is_null(value)
        found = [n for n, one in enumerate(held) if findable and _same(one, value)]
        return (found[-1] if reverse else found[0]) if found else np.nan
    size = np.shape(data)[axis]
    equal = np.flip(data, axis) if reverse else data
    equal = equal == value
    index = equal.argmax(axis=axis)
    return np.where(equal.any(axis=axis), size - 1 - index if reverse else index, np.nan)


def _same(one: Any, other: Any) -> bool:
    """Tell whether two values are equal and of one kind: 1 is neither "1" nor true."""
    kinds = [bool if isinstance(v, bool | np.bool_) else str if isinstance(v, str) else float
             for v in (one, other)]  # fmt: skip
    return is_one(one) and kinds[0] is kinds[1] and bool(one == other)


def array_contains(data: Any, value: Any, *, axis: int | None = None) -> Any:
    """Tell whether a value is in an array, but not in the arrays in it."""
    if axis is None or np.ndim(data) < 2:
        return not np.isnan(array_find(data, value))
    return (data == value).any(axis=axis)


def array_apply(  # the special arguments are extra
    data: Any,
    process: Function,
    context: Any = None,
    *,
    axis: int | None = None,
    dim_labels: Any = None,
) -> Any:
    """Apply to every element, all at once; the library calls the process for each pixel.

    Inside, reductions of the outer array keep their dimension, so that the elements
    can be compared with them.
    """
    if isinstance(data, xr.DataArray):
        held = array_apply(data.to_numpy(), process, context, dim_labels=data["labels"].to_numpy())
        return data.copy(data=held) if np.issubdtype(np.asarray(held).dtype, np.number) else held
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


def array_interpolate_linear(data: Any, *, axis: int | None = None, dim_labels: Any = None) -> Any:
    """Fill no data between two values, by the distance of the labels; the library computes it."""
    labels = labels_of(data, dim_labels)
    values = data.data if isinstance(data, xr.DataArray) else data
    values = values if isinstance(values, da.Array) else np.asarray(values, float)
    size = 0 if 0 in np.shape(values) else np.shape(values)[axis or 0]
    numbers = np.asarray(range(size) if labels is None else labels)
    if numbers.dtype.kind not in "iufM":
        numbers = np.arange(size)
    work = partial(interpolate_valid, places=numbers.astype(float))
    filled = along(work, values, axis or 0, size) if size else values
    return data.copy(data=filled) if isinstance(data, xr.DataArray) else filled


# --- comparisons and logic -------------------------------------------------------------------


def choose(value: Any, accept: Any = None, reject: Any = None) -> Any:
    """Take one of two values; no data counts as false, which the library takes for true."""
    accept, reject = (np.nan if option is None else option for option in (accept, reject))
    if is_one(value):
        return accept if value and not is_nodata(value) else reject
    holds = (value == value) & (value != 0)  # noqa: PLR0124  NaN differs from itself
    return np.where(holds, accept, reject)


def is_nodata(x: Any) -> Any:
    """Tell where there is no data: NaN, which the library takes for data."""
    if x is None or isinstance(x, str | bool | list | dict):
        return x is None
    return np.isnan(x)


def is_nan(x: Any) -> Any:
    """Tell what is not a number; a text, a list and null are false, where the library fails."""
    if isinstance(x, list | dict | str) or x is None or (is_one(x) and not is_number(x)):
        return False
    return np.isnan(x)


def is_valid(x: Any) -> Any:
    """Tell what is neither no data nor infinite; a list is valid, whatever it holds."""
    return True if isinstance(x, list) else LIBRARY["is_valid"](x)


def comparing(name: str, function: Function, *, of_numbers: bool) -> Function:
    """Make a comparison; the library compares texts by their letters, and misses infinity.

    Labels of time are compared with texts as times.
    """
    plain = LIBRARY[name]

    @wraps(plain)
    def compare(x: Any, y: Any, **others: Any) -> Any:
        x, y = _as_times(x, y)
        if of_numbers and not all(_may_order(value) for value in (x, y)):
            return np.nan if is_null(x) or is_null(y) else False
        if not of_numbers and not is_time(x):
            return plain(x, y, **others)
        return np.where(_is_missing(x) | _is_missing(y), np.nan, function(x, y))

    return compare


def _is_missing(value: Any) -> Any:
    """Tell what is NaN or NaT; pandas would compute what is lazy."""
    return value != value if isinstance(value, da.Array) else pd.isna(value)  # noqa: PLR0124


def _may_order(value: Any) -> bool:
    """Tell whether the specification lets a value be greater than another."""
    if is_one(value) and not isinstance(value, np.ndarray):
        return is_number(value) or isinstance(value, np.datetime64)
    return not isinstance(value, list | dict)


def is_time(value: Any) -> bool:
    """Tell whether a value, or what an array holds, is a time."""
    return bool(np.issubdtype(getattr(value, "dtype", np.float64), np.datetime64))


def _as_times(*values: Any) -> list[Any]:
    """Read texts as times where another value is a time."""
    if not any(map(is_time, values)):
        return list(values)
    return [np.datetime64(v.removesuffix("Z")) if isinstance(v, str) else v for v in values]


def between(x: Any, min: Any, max: Any, exclude_max: bool = False) -> Any:  # noqa: A002
    """Tell what lies between two numbers; the library compares texts and booleans as well."""
    upper = COMPARISONS["lt" if exclude_max else "lte"]
    return LIBRARY["and"](COMPARISONS["gte"](x, min), upper(x, max))


COMPARISONS: Mapping[str, Function] = {
    "eq": comparing("eq", np.equal, of_numbers=False),
    "gt": comparing("gt", np.greater, of_numbers=True),
    "gte": comparing("gte", np.greater_equal, of_numbers=True),
    "lt": comparing("lt", np.less, of_numbers=True),
    "lte": comparing("lte", np.less_equal, of_numbers=True),
    "neq": comparing("neq", np.not_equal, of_numbers=False),
}


def mod(x: Any, y: Any) -> Any:
    """Compute the remainder; by 0 of whole numbers, where the library gives 0, it is refused."""
    if is_one(y) and y == 0 and is_one(x):
        raise GraphError(f"divides by 0: {x} mod 0", code="DivisionByZero")
    return LIBRARY["mod"](x, y)


def power(base: Any, p: Any) -> Any:
    """Raise to a power; no data stays no data, where 1 to its power is 1 in the library."""
    raised = LIBRARY["power"](base, p)
    return np.where(np.isnan(p), np.nan, raised) if np.any(np.isnan(p)) else raised


# --- texts -----------------------------------------------------------------------------------


def of_text(plain: Function) -> Function:
    """Make a process of a text that takes no data and labels of time, where the library fails."""

    def process(data: Any, pattern: str, case_sensitive: bool = True) -> Any:
        return np.nan if is_null(data) else plain(text_of(data), pattern, case_sensitive)

    return process


def text_of(value: Any) -> Any:
    """Write a time as openEO does; other values stay.

    Examples
    --------
    >>> text_of(np.datetime64("2022-06-17", "ns")), text_of("B02")
    ('2022-06-17T00:00:00Z', 'B02')
    """
    return f"{np.datetime_as_string(value, unit='s')}Z" if is_time(value) else value


def text_concat(data: list[Any], separator: Any = "") -> str:
    """Join texts and numbers; the library wants a separator, and says none for null."""
    words = {None: "null", True: "true", False: "false"}
    parts = [*data, separator]
    told = [words[p] if p is None or isinstance(p, bool) else str(text_of(p)) for p in parts]
    return told.pop().join(told)


def find_text(data: Any, wanted: str, case_sensitive: bool) -> Any:
    """Find where a text begins in another, NaN if nowhere; the library lacks this process."""
    text = str(data)
    found = text.find(wanted) if case_sensitive else text.lower().find(wanted.lower())
    return np.nan if found < 0 else found


def date_between(x: Any, min: str, max: str, exclude_max: bool = False) -> Any:  # noqa: A002
    """Tell whether a time lies between two; the library warns of time zones."""
    time, first, last = (np.datetime64(str(text_of(v)).removesuffix("Z")) for v in (x, min, max))
    return bool(first <= time and (time < last if exclude_max else time <= last))


ARRAY_PROCESSES: Mapping[str, Function] = {
    **REDUCERS,
    **COMPARISONS,
    **{
        process.__name__: process
        for process in (
            *(array_append, array_apply, array_concat, array_contains, array_create),
            *(array_create_labeled, array_element, array_find, array_find_label),
            *(array_interpolate_linear, array_modify, between, date_between),
            *(is_nan, is_nodata, is_valid, mod, power, text_concat),
        )
    },
    **{name: of_text(LIBRARY[name]) for name in ("text_begins", "text_contains", "text_ends")},
    "e": lambda: np.e,
    "if": choose,
    "text_find": of_text(find_text),
}
