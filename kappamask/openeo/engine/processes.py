"""Processes of cubes that openeo-processes-dask lacks, computes otherwise, or at once.

Each one here says why it is not the library's. All are lazy: dask in, dask out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from scipy import ndimage, signal

from kappamask.openeo.engine import library
from kappamask.openeo.engine.dimensions import (
    DIMENSION_PROCESSES,
    apply_dimension,
    find_times,
    group_by_period,
)
from kappamask.openeo.engine.evaluate import Callback
from kappamask.openeo.engine.flat_graph import ArgumentError, GraphError
from kappamask.openeo.engine.spatial import SPATIAL_PROCESSES, align_grids, mask_polygon
from kappamask.openeo.engine.udfs import Call, Frame, Log, check_udf, run_in_windows

LIBRARY = library.implementations()
PER_DATE = "P1D"
LARGE = 15  # pixels per side from which a kernel is applied by Fourier transform
# Scene classes, for Copernicus' own masks.
KEPT = (2, 4, 5, 6, 7)  # dark, vegetation, bare, water, unclassified
CLOUDY = (3, 8, 9, 10, 11)  # shadow, cloud of medium and high probability, cirrus, snow
# Share of a Gaussian kernel that must be hit for a pixel to be masked.
THRESHOLDS = (0.057, 0.025)


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
    for dim in mask.dims:  # the pixel grid may differ, dates and bands may not
        ours, theirs = data[dim].to_numpy(), mask[dim].to_numpy()
        if dim not in ("x", "y") and not np.array_equal(ours, theirs):
            raise GraphError(
                f"needs a mask with the labels of the data along {dim}, got {theirs.tolist()} for "
                f"{ours.tolist()}",
                code="LabelMismatch",
            )
    mask = align_grids(mask, data).reset_coords(drop=True)
    return data.where(mask == 0, np.nan if replacement is None else replacement)


def apply(
    data: xr.DataArray, process: Callable[..., Any], context: Any = None, *, log: Log | None = None
) -> xr.DataArray:
    """Apply to every value; a UDF gets tiles of one date, which the library cannot give it."""
    call = Call.of(process, context, log)
    if call is not None:
        return run_in_windows(data, call, Frame())
    return LIBRARY["apply"](data, process, context)  # type: ignore[no-any-return]


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


# --- surroundings ----------------------------------------------------------------------------


def apply_polygon(  # noqa: PLR0913  the openEO process has five, and an older name
    data: xr.DataArray,
    geometries: Any = None,
    process: Callable[..., Any] | None = None,
    mask_value: Any = None,
    context: Any = None,
    polygons: Any = None,
    *,
    log: Log | None = None,
) -> xr.DataArray:
    """Apply to the pixels of polygons, the others become `mask_value`; the library knows no UDF."""
    held = polygons if geometries is None else geometries
    if process is None:
        raise ArgumentError("needs a process")
    masked, call = mask_polygon(data, held), Call.of(process, context, log)
    if call is not None:
        return mask_polygon(run_in_windows(masked, call, Frame()), held, mask_value)
    named = {"x": masked.data, "data": masked, "context": context}
    applied = process(positional_parameters={}, named_parameters=named)
    applied = applied if isinstance(applied, xr.DataArray) else masked.copy(data=applied)
    return mask_polygon(applied, held, mask_value)


def apply_kernel(
    data: xr.DataArray,
    kernel: Any,
    factor: float = 1.0,
    border: Any = 0,
    replace_invalid: float | None = 0,
) -> xr.DataArray:
    """Convolve every date and band; block by block, where the library joins whole images."""
    weights = np.asarray(kernel, dtype=np.float64)
    if weights.ndim != 2 or not all(size % 2 for size in weights.shape):
        raise GraphError(
            f"needs a kernel of rows of an odd length, got the shape {weights.shape}",
            code="KernelDimensionsUneven",
        )
    filled = data if replace_invalid is None else data.fillna(replace_invalid)
    if not isinstance(border, int | float) or not isinstance(data.data, da.Array):
        return LIBRARY["apply_kernel"](filled, weights, factor, border, 0)  # type: ignore[no-any-return]
    values = filled if filled.dtype.kind == "f" else filled.astype(np.float32)
    reach = [size // 2 for size in weights.shape]
    return map_around(partial(convolve, weights=weights * factor), values, reach, border)


def map_around(
    work: Callable[[np.ndarray], np.ndarray],
    cube: xr.DataArray,
    reach: Sequence[int],
    border: float | str,
) -> xr.DataArray:
    """Map a function over the blocks of a cube and what lies around them in y and x, lazily.

    Dask refuses an image that is smaller than what lies around it: such a one is one block.

    Parameters
    ----------
    work
        Takes an array (..., y, x); gives one of the same shape and type.
    cube
        Of any dimensions, y and x among them.
    reach
        Pixels along y and x that a block sees of its neighbours.
    border
        What lies around the image: a number, or "nearest" for its edge.
    """
    scene = cube.transpose(..., "y", "x")
    values = scene.data if isinstance(scene.data, da.Array) else da.from_array(scene.to_numpy())
    rows, columns = reach
    size = values.shape[-2:]
    given = {"dtype": values.dtype, "meta": np.empty((0,) * values.ndim, values.dtype)}
    if size[0] >= rows and size[1] >= columns:
        depth = {values.ndim - 2: rows, values.ndim - 1: columns}
        mapped = da.map_overlap(work, values, depth=depth, boundary=border, **given)
    else:
        width = (*((0, 0),) * (values.ndim - 2), (rows, rows), (columns, columns))
        edge = {"mode": "edge"} if border == "nearest" else {"constant_values": border}

        def work_on_all(block: np.ndarray) -> np.ndarray:
            wide = work(np.pad(block, width, **edge))
            return wide[..., rows : rows + size[0], columns : columns + size[1]]

        whole = values.rechunk({values.ndim - 2: -1, values.ndim - 1: -1})
        mapped = da.map_blocks(work_on_all, whole, **given)
    return scene.copy(data=mapped).transpose(*cube.dims)


def convolve(values: np.ndarray, *, weights: np.ndarray) -> np.ndarray:
    """Convolve the last two axes.

    A large kernel goes through a Fourier transform. Its noise (1e-15) is rounded away:
    what no pixel reaches is exactly 0 again, so that equal scores stay equal.
    """
    if not values.any():
        return np.zeros_like(values)
    kernel = weights.reshape((1,) * (values.ndim - 2) + weights.shape)
    if max(weights.shape) < LARGE:
        return ndimage.convolve(values, kernel, mode="constant", output=values.dtype)  # type: ignore[no-any-return]
    result = signal.fftconvolve(values.astype(np.float64), kernel, mode="same", axes=(-2, -1))
    rounded: np.ndarray = np.round(result, 9)
    return rounded.astype(values.dtype)


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
        raise ArgumentError(
            f"needs a size in px for x and y and no overlap in t, got {list(sizes)} and "
            f"{list(overlaps)}"
        )
    call = Call.of(process, context, log)
    if call is not None:
        if period not in (None, PER_DATE):
            raise ArgumentError(
                f"gives a UDF one date ({PER_DATE!r} in t) or all (no size in t), got {period!r}"
            )
        margins = overlaps.get("y", 0), overlaps.get("x", 0)
        frame = Frame((sizes["y"], sizes["x"]), margins, period == PER_DATE)
        return run_in_windows(data, call, frame)
    if set(sizes.values()) != {1} or any(overlaps.values()):
        raise ArgumentError(
            "runs one run_udf, or other processes with a size of 1 px in x and y and no overlap, "
            f"got sizes {sizes}: use a UDF, or apply_kernel"
        )
    if period == PER_DATE:
        return map_series(data, process, "bands", [np.arange(data.sizes["bands"])], context)
    groups = [np.arange(data.sizes["t"])]
    if period is not None:
        _, groups = group_by_period(find_times(data, "t")[1], str(period))
    return map_series(data, process, "t", [group for group in groups if group.size], context)


def read_sizes(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Read sizes by dimension: integers in pixels, a word in t."""
    read: dict[str, Any] = {}
    for entry in entries:
        dim, value, unit = entry.get("dimension"), entry.get("value"), entry.get("unit")
        if dim == "t" and isinstance(value, str | None):
            read |= {} if value is None else {"t": value}
        elif dim in ("x", "y") and unit in ("px", None) and float(value or 0).is_integer():
            read[dim] = int(value or 0)
        else:
            raise ArgumentError(
                f"takes whole px in x and y, and {PER_DATE!r} or a period in t, got {entry}"
            )
    return read


def map_series(
    data: xr.DataArray, process: Callback, dim: str, groups: list[np.ndarray], context: Any
) -> xr.DataArray:
    """Apply processes to the values along one dimension, group by group; lazily."""
    parts = []
    for group in groups:
        part = data.isel({dim: group})
        parts.append(apply_dimension(part, process, dim, context=context))
        if parts[-1].shape != part.shape:
            raise GraphError(
                f"needs as many values back as it gives along {dim}, got the shape "
                f"{parts[-1].shape} for {part.shape}: use reduce_dimension or aggregate_temporal"
            )
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
        raise ArgumentError(
            "runs a UDF on a cube, or within apply_neighborhood, apply or apply_dimension as the "
            "only process there"
        )
    call = Call(check_udf(udf, runtime), context, "run_udf", log)
    return run_in_windows(data, call, Frame())


# --- Copernicus' masks of dilated scene classes -------------------------------------------------
#
# So that notebooks written for it run unchanged: they are no processes of openEO's specification.
# They mask snow with the clouds, and much clear ground around both: ours is
# `kappamask.openeo.graphs.cloud_mask`.


def to_scl_dilation_mask(  # noqa: PLR0913, PLR0917  Copernicus' process has seven
    data: xr.DataArray,
    scl_band_name: str | None = None,
    kernel1_size: int = 17,
    kernel2_size: int = 201,
    mask1_values: Sequence[int] = KEPT,
    mask2_values: Sequence[int] = CLOUDY,
    erosion_kernel_size: int = 0,
) -> xr.DataArray:
    """Mask what is not clear by scene classes, dilated: 1 where masked; lazily.

    Parameters
    ----------
    data
        Cube with the band SCL.
    scl_band_name
        Its name; None: the only band, or the one that is called SCL.
    kernel1_size, kernel2_size
        Pixels of 10 m: of the Gaussian around what is not in `mask1_values`, and of the
        wider one around `mask2_values`.
    mask1_values, mask2_values
        Classes that are clear, and those that reach far.
    erosion_kernel_size
        Pixels: what is narrower is no cloud; 0: all is.

    Returns
    -------
    xarray.DataArray
        Dimensions of the data with one band, float32 of 0 and 1.
    """
    scl = pick_scl(data, scl_band_name)
    sizes = kernel1_size, kernel2_size, erosion_kernel_size or 1
    if any(size < 1 or size % 2 == 0 for size in sizes):
        raise GraphError(f"needs kernels of odd sizes, got {sizes}", code="KernelDimensionsUneven")
    reach = max(sizes) // 2 + sizes[2]
    work = partial(dilate, sizes=sizes, kept=tuple(mask1_values), cloudy=tuple(mask2_values))
    masked = map_around(work, scl.astype(np.float32), (reach, reach), "nearest")
    return masked.assign_coords(bands=["to_scl_dilation_mask"])


def mask_scl_dilation(
    data: xr.DataArray, scl_band_name: str | None = "SCL", **options: Any
) -> xr.DataArray:
    """Mask a cube by its own scene classes; options as of `to_scl_dilation_mask`."""
    return mask(data, to_scl_dilation_mask(data, scl_band_name, **options))


def pick_scl(data: xr.DataArray, name: str | None) -> xr.DataArray:
    """Take the band of scene classes, with its dimension."""
    bands = [str(band) for band in data["bands"].to_numpy()] if "bands" in data.dims else []
    wanted = name or (bands[0] if len(bands) == 1 else "SCL")
    if wanted not in bands:
        raise ArgumentError(f"needs the band {wanted!r}, the cube has {', '.join(bands) or 'none'}")
    return data.isel(bands=[bands.index(wanted)]).drop_vars("common_name", errors="ignore")


def dilate(
    classes: np.ndarray,
    *,
    sizes: tuple[int, int, int],
    kept: tuple[int, ...],
    cloudy: tuple[int, ...],
) -> np.ndarray:
    """Mask the last two axes of an array of classes; NaN is not clear."""
    near = ~np.isin(classes, kept)
    far = np.isin(classes, cloudy)
    if sizes[2] > 1:
        square = np.ones((1,) * (classes.ndim - 2) + (sizes[2], sizes[2]), bool)
        near, far = (ndimage.binary_erosion(hit, square, border_value=1) for hit in (near, far))
    masked = np.zeros(classes.shape, bool)
    for hit, size, threshold in zip((near, far), sizes, THRESHOLDS, strict=False):
        line = np.exp(-0.5 * ((np.arange(size) - size // 2) / (size / 6)) ** 2)
        weights = np.outer(line, line) / line.sum() ** 2
        masked |= convolve(hit.astype(np.float32), weights=weights) > threshold
    return masked.astype(np.float32)


OWN: Mapping[str, Callable[..., Any]] = {
    process.__name__: process
    for process in (
        *DIMENSION_PROCESSES,
        *SPATIAL_PROCESSES,
        *(apply, apply_kernel, apply_neighborhood, apply_polygon, inspect, mask, run_udf),
        *(mask_scl_dilation, to_scl_dilation_mask),
    )
}
