"""Whether a cloud stands between a pixel and the sun. Imports `base` only.

A shadow lies where the ray to the sun meets a cloud. How high clouds are is not known, but those of
a date lie mostly at one height, at which their moved outlines fall on what is called shadow: the
match that Fmask makes (Zhu and Woodcock 2012, doi:10.1016/j.rse.2011.10.028). A shadow that no
cloud at or around that height can cast is water, or other dark ground.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kappamask.base.legend import Label

CELL_M = 40.0  # of the map on which clouds are moved: their heights are not known to better
LOWEST_M, HIGHEST_M = 200.0, 10_000.0  # of clouds above ground
HEIGHTS = 60  # that are tried
FITS_FROM = 0.15  # share of the moved clouds that must fall on shadow; below, no height is known
AROUND = 1 / 3, 3.0  # of the height found: where clouds of a date may be
SPREAD = 20.0  # cells: few cells prove no height
NEAR_M = 500.0  # rays that leave the map close to the ground may meet a cloud there
COVER = 1.5  # times the share of cloud in a cell, at most 1, hides the sun
THIN = 0.7  # how much of a cloud semi-transparent cloud is
SHADED_FROM = 0.2  # evidence below which there is no shadow


@dataclass(frozen=True)
class Sun:
    """Where the sun stands, degrees, and how large the pixels are, metres."""

    azimuth: float  # from north, clockwise
    elevation: float
    step: tuple[float, float]  # height and width of a pixel, metres; negative where y runs north

    @property
    def known(self) -> bool:
        """Whether shadows can be told."""
        return bool(np.isfinite(self.azimuth) and 0 < self.elevation < 90)

    @property
    def stride(self) -> tuple[int, int]:
        """Pixels per cell of the map, along y and x."""
        rows, columns = (max(1, round(CELL_M / abs(size))) for size in self.step)
        return rows, columns

    @property
    def cells_per_metre(self) -> tuple[float, float]:
        """By how many cells, along y and x, a shadow moves per metre of height."""
        angle, length = np.radians(self.azimuth), 1 / np.tan(np.radians(self.elevation))
        # Away from the sun: rows run south, columns east.
        metres = np.cos(angle) * length, -np.sin(angle) * length
        cells = (size * count for size, count in zip(self.step, self.stride, strict=True))
        down, across = (along / cell for along, cell in zip(metres, cells, strict=True))
        return float(down), float(across)


def find_shaded(codes: np.ndarray, sun: Sun) -> np.ndarray:
    """Find the cells onto which a cloud may cast its shadow.

    Parameters
    ----------
    codes
        uint8 class codes (y, x) of the whole area, one pixel of each cell (`Sun.stride`).
    sun
        Of the date; `Sun.known`.

    Returns
    -------
    numpy.ndarray
        (y, x) bool. True too where rays leave the area, or meet pixels without data: a cloud may
        stand there.

    Examples
    --------
    >>> codes = np.full((60, 90), 1, np.uint8)
    >>> codes[30:36, 40:46] = 4
    >>> codes[30:36, 30:36] = 2  # the sun in the east, 45 degrees high: a cloud at 400 m
    >>> shaded = find_shaded(codes, Sun(90.0, 45.0, (10.0, 10.0)))
    >>> bool(shaded[32, 32]), bool(shaded[10, 32]), bool(shaded[32, 89])
    (True, False, True)
    """
    from scipy.ndimage import maximum_filter, uniform_filter

    per_metre = sun.cells_per_metre
    cover = np.array([0, 0, 0, THIN, 1, 0], np.float32)[codes]
    cover = maximum_filter(uniform_filter(cover, 3), 3)
    outside = (codes == Label.MISSING) | (codes == Label.UNDEFINED)
    low, high = find_heights(cover > 0.5, codes == Label.CLOUD_SHADOW, per_metre)
    longest = max(map(abs, per_metre))
    steps = np.arange(low * longest, high * longest + 1) / longest  # metres, a cell apart
    cloud, unseen, weights = np.zeros_like(cover), np.zeros_like(cover), 0.0
    for height in steps:
        shift = round(height * per_metre[0]), round(height * per_metre[1])
        np.maximum(cloud, moved(cover, shift, fill=0), out=cloud)
        weight = 1 / (height / np.tan(np.radians(sun.elevation)) + NEAR_M)
        unseen += np.float32(weight) * moved(outside, shift, fill=1)
        weights += weight
    lit = (1 - np.minimum(1, COVER * cloud)) * (1 - np.minimum(1, COVER * unseen / weights))
    shaded: np.ndarray = 1 - lit >= SHADED_FROM
    return shaded


def find_heights(
    cloud: np.ndarray, shadow: np.ndarray, per_metre: tuple[float, float]
) -> tuple[float, float]:
    """Say between which heights the clouds of a date are, metres above ground.

    Parameters
    ----------
    cloud, shadow
        (y, x) bool, cells called so.
    per_metre
        `Sun.cells_per_metre`.
    """
    free, best = shadow & ~cloud, (FITS_FROM, 0.0)
    if cloud.any() and free.any():
        for height in np.geomspace(LOWEST_M, HIGHEST_M, HEIGHTS):
            shift = round(height * per_metre[0]), round(height * per_metre[1])
            below = moved(cloud, shift, fill=0) & ~cloud
            hits = np.count_nonzero(below & free)
            best = max(best, (hits / (np.count_nonzero(below) + SPREAD), float(height)))
    if not best[1]:
        return LOWEST_M, HIGHEST_M
    return AROUND[0] * best[1], AROUND[1] * best[1]


def moved(layer: np.ndarray, shift: tuple[int, int], *, fill: float) -> np.ndarray:
    """Move a layer (y, x) by whole cells; what comes in from outside is `fill`.

    Examples
    --------
    >>> moved(np.array([[1, 2, 3]]), (0, 1), fill=0)
    array([[0, 1, 2]])
    """
    before, after = ([max(sign * by, 0) for by in shift] for sign in (1, -1))
    padded = np.pad(layer, list(zip(before, after, strict=True)), constant_values=fill)
    rows, columns = (slice(n, n + size) for n, size in zip(after, layer.shape, strict=True))
    return padded[rows, columns]
