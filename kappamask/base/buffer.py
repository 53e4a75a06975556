"""Discs around selected pixels. Row 2: imports `errors`; numpy only."""

from __future__ import annotations

import math

import numpy as np

from kappamask.base.errors import InputError

_ROUNDING = 1e-9  # pixels: 60 m are six steps of 10 m, whatever division makes of it


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
