"""Digital numbers to reflectance on another pixel size. Row 0: imports numpy only."""

from __future__ import annotations

import numpy as np


def to_reflectance(
    dn: np.ndarray, offset: np.ndarray | np.floating, scale: np.ndarray | np.floating
) -> np.ndarray:
    """Compute ``(dn + offset) * scale``, NaN where `dn` is 0.

    Examples
    --------
    >>> to_reflectance(np.array([0, 1500], "uint16"), np.float32(-1000), np.float32(1e-4))
    array([ nan, 0.05], dtype=float32)
    """
    reflectance = dn.astype(np.float32)
    reflectance += offset
    reflectance *= scale
    np.copyto(reflectance, np.float32(np.nan), where=dn == 0)
    return reflectance


def repeat_pixels(values: np.ndarray, factor: int) -> np.ndarray:
    """Put `factor` x `factor` equal pixels in the place of each: (y, x) of any type.

    Examples
    --------
    >>> repeat_pixels(np.array([[1, 2]]), 2)
    array([[1, 1, 2, 2],
           [1, 1, 2, 2]])
    """
    if factor == 1:
        return values
    height, width = values.shape
    shape = (height, factor, width, factor)
    repeated = np.broadcast_to(values[:, None, :, None], shape)
    return repeated.reshape(height * factor, width * factor)


def average_dn(dn: np.ndarray, factor: int) -> np.ndarray:
    """Average blocks of `factor` x `factor` DN; 0 (no data) counts only where there is no other.

    Rounded to whole DN, halves up, as GDAL's average does, so that a SAFE product and
    the same scene in COGs give one cube. GDAL adds in single precision and rounds one
    tie in a thousand the other way.

    Examples
    --------
    >>> average_dn(np.array([[1000, 1001, 0, 0], [1001, 0, 0, 0]], "uint16"), 2)
    array([[1001,    0]], dtype=uint16)
    """
    if factor == 1:
        return dn
    height, width = (size // factor for size in dn.shape)
    blocks = dn.reshape(height, factor, width, factor)
    total = blocks.sum(axis=(1, 3), dtype=np.uint64)
    count = np.maximum((blocks > 0).sum(axis=(1, 3)), 1).astype(np.uint64)
    mean: np.ndarray = (2 * total + count) // (2 * count)  # floor(total / count + 1/2), exactly
    return mean.astype(np.uint16)
