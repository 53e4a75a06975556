"""Copernicus' masks of dilated scene classes, so that notebooks written for it run unchanged.

`to_scl_dilation_mask` and `mask_scl_dilation` are no processes of openEO's specification. They
mask snow with the clouds, and much clear ground around both: ours is
`kappamask.openeo.graphs.cloud_mask`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from kappamask.openeo.engine.flat_graph import ArgumentError, GraphError
from kappamask.openeo.engine.processes import convolve, map_around, mask

KEPT = (2, 4, 5, 6, 7)  # dark, vegetation, bare, water, unclassified
CLOUDY = (3, 8, 9, 10, 11)  # shadow, cloud of medium and high probability, cirrus, snow
# Share of a Gaussian kernel that must be hit for a pixel to be masked.
THRESHOLDS = (0.057, 0.025)


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
    scene = scl.transpose(..., "y", "x")
    values = scene.data if isinstance(scene.data, da.Array) else da.from_array(scene.to_numpy())
    reach = max(sizes) // 2 + sizes[2]
    work = partial(dilate, sizes=sizes, kept=tuple(mask1_values), cloudy=tuple(mask2_values))
    dilated = map_around(work, values, (reach, reach), "nearest", np.dtype(np.float32))
    masked = scene.copy(data=dilated).transpose(*scl.dims)
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
    from scipy import ndimage

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
