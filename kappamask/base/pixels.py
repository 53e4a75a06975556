"""Pixels: numbers to reflectance, to another pixel size, discs around selected ones, counts.

Imports `errors`, `legend` and numpy.
"""

from __future__ import annotations

import math

import numpy as np

from kappamask.base.errors import InputError
from kappamask.base.legend import LEGEND

_ROUNDING = 1e-9  # pixels: 60 m are six steps of 10 m, whatever division makes of it


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
    # Rows last: they are copied whole. A broadcast view in one step takes four times as long.
    return values.repeat(factor, axis=1).repeat(factor, axis=0)


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


def dilate(selected: np.ndarray, radius: int) -> np.ndarray:
    """Grow the selection by a disc: whatever lies within `radius` of a selected pixel.

    Parameters
    ----------
    selected
        (y, x) bool.
    radius
        Pixels between pixel centres, 0 or more; 0 changes nothing.

    Returns
    -------
    numpy.ndarray
        (y, x) bool.

    Raises
    ------
    InputError
        If the radius is negative or no whole number.

    Examples
    --------
    >>> dot = np.zeros((5, 5), bool)
    >>> dot[2, 2] = True
    >>> dilate(dot, 2).sum(axis=1).tolist()
    [1, 3, 5, 3, 1]
    """
    if radius != int(radius) or radius < 0:
        raise InputError(f"a buffer is a whole number of pixels, 0 or more, got {radius}: round it")
    return within(selected, float(radius))


def within(
    selected: np.ndarray, distance: float, *, step: tuple[float, float] = (1.0, 1.0)
) -> np.ndarray:
    """Find the pixels whose centre lies at most so far from that of a selected one.

    Parameters
    ----------
    selected
        (y, x) bool.
    distance
        0 or more, in any unit.
    step
        Height and width of a pixel in the same unit.

    Returns
    -------
    numpy.ndarray
        (y, x) bool.

    Examples
    --------
    >>> dot = np.zeros((1, 5), bool)
    >>> dot[0, 2] = True
    >>> within(dot, 25, step=(20, 20)).astype(int).tolist()
    [[0, 1, 1, 1, 0]]
    """
    if distance == 0 or not selected.any():
        return selected.copy()
    along = _distance_along_rows(selected)
    height = len(selected)
    grown = np.zeros_like(selected)
    reach = min(int(distance / step[0] + _ROUNDING), height - 1)
    for down in range(-reach, reach + 1):
        squared = max(0.0, distance**2 - (down * step[0]) ** 2)
        half_chord = int(math.sqrt(squared) / step[1] + _ROUNDING)
        source = slice(max(0, -down), height - max(0, down))
        target = slice(max(0, down), height - max(0, -down))
        grown[target] |= along[source] <= half_chord
    return grown


def _distance_along_rows(selected: np.ndarray) -> np.ndarray:
    """Pixels to the nearest selected one of the same row, (y, x); large where there is none."""
    width = selected.shape[1]
    columns = np.arange(width, dtype=np.int32)
    far = 2 * width + 2**30 // 2
    before = np.maximum.accumulate(np.where(selected, columns, -far), axis=1)
    after = np.minimum.accumulate(np.where(selected, columns, far)[:, ::-1], axis=1)[:, ::-1]
    distance: np.ndarray = np.minimum(columns - before, after - columns)
    return distance


def count_codes(codes: np.ndarray, *, where: str) -> np.ndarray:
    """Count the pixels of each class code: integers (6,).

    `np.bincount` would turn a tile of 120 MB into one of 1 GB first.

    Raises
    ------
    InputError
        If a code is not in the legend; `where` tells the reader which labels.

    Examples
    --------
    >>> count_codes(np.array([[1, 4], [4, 5]], dtype="uint8"), where="here").tolist()
    [0, 1, 0, 0, 2, 1]
    """
    if codes.max() >= len(LEGEND):
        raise InputError(
            f"labels must be codes of kappamask.Label, 0 to {len(LEGEND) - 1}, got "
            f"{codes.max()} {where}: pass what predict_cube returned"
        )
    return np.array([np.count_nonzero(codes == int(entry.label)) for entry in LEGEND])
