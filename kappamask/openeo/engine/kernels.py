"""`apply_kernel`, block by block where openeo-processes-dask joins whole images. Row 6."""

from __future__ import annotations

from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from kappamask.base.windows import Window
from kappamask.openeo.engine import library
from kappamask.openeo.engine.chunks import cut
from kappamask.openeo.engine.flat_graph import GraphError
from kappamask.predict.blocks import map_windows

LARGE = 15  # pixels per side from which a kernel is applied by Fourier transform


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
    if not isinstance(border, int | float) or not isinstance(data.data, da.Array):
        filled = data if replace_invalid is None else data.fillna(replace_invalid)
        return library.apply_kernel(filled, weights, factor, border, 0)  # type: ignore[no-any-return]
    scene = data.transpose(..., "y", "x")
    layers = scene.data.reshape((-1, 1, *scene.shape[-2:]))  # (t * bands, 1, y, x)
    size = max(layers.chunks[2][0], layers.chunks[3][0])
    plan = (
        cut(scene.sizes["y"], size=size, overlap=weights.shape[0] // 2),
        cut(scene.sizes["x"], size=size, overlap=weights.shape[1] // 2),
    )
    work = partial(convolve_window, weights=weights * factor, invalid=replace_invalid, edge=border)
    token = tokenize(layers.name, weights, factor, border, replace_invalid)
    convolved = map_windows(
        work, layers, plan, token=f"kernel-{token}", leading=(1,), dtype=np.float32
    )
    return scene.copy(data=convolved.reshape(scene.shape)).transpose(*data.dims)


def convolve_window(
    pixels: np.ndarray,
    window: Window,
    *,
    weights: np.ndarray,
    invalid: float | None,
    edge: float,
) -> np.ndarray:
    """Convolve what a window reads and crop it to the core; `edge` stands beyond the cube."""
    values = pixels.astype(np.float32)
    if invalid is not None:
        values[np.isnan(values)] = invalid
    axes = (window.rows, window.columns)
    pads = [(span.pad_before, span.pad_after) for span in axes]
    convolved = convolve(np.pad(values, [(0, 0), *pads], constant_values=edge), weights=weights)
    rows, columns = (
        slice(span.crop.start + span.pad_before, span.crop.stop + span.pad_before) for span in axes
    )
    return convolved[:, rows, columns]


def convolve(values: np.ndarray, *, weights: np.ndarray) -> np.ndarray:
    """Convolve the last two axes.

    A large kernel goes through a Fourier transform. Its noise (1e-15) is rounded away:
    what no pixel reaches is exactly 0 again, so that equal scores stay equal.
    """
    from scipy import ndimage, signal

    if not values.any():
        return np.zeros_like(values)
    kernel = weights.reshape((1,) * (values.ndim - 2) + weights.shape)
    if max(weights.shape) < LARGE:
        return ndimage.convolve(values, kernel, mode="constant", output=np.float32)  # type: ignore[no-any-return]
    result = signal.fftconvolve(values.astype(np.float64), kernel, mode="same", axes=(-2, -1))
    rounded: np.ndarray = np.round(result, 9)
    return rounded.astype(np.float32)
