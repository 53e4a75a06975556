"""How a place looks without cloud, by its other dates, and how bright what lies between is.

Numpy only.
"""

from __future__ import annotations

import numpy as np

NEAREST = 7  # clear dates that a reference is the median of
ASKED = 40  # dates that are looked at for them, those that say most
# How much an earlier or later date says: days until the ground has changed, and how much less
# the same season of another year says.
CHANGES_IN, SEASON, ANOTHER_YEAR, LEAST = 25.0, 15.0, 0.2, 0.03


def refer(
    reflectance: np.ndarray, clear: np.ndarray, days: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Work out how each date would look without cloud, from the nearest clear dates.

    Parameters
    ----------
    reflectance
        (date, band, y, x), NaN where there is none.
    clear
        (date, y, x): pixels to believe.
    days
        (date,), ordinal.

    Returns
    -------
    tuple of numpy.ndarray
        Reference (date, band, y, x), NaN where no date serves, and of how many dates it
        is the median, (date, y, x). A date is never its own reference.
    """
    reference = np.full_like(reflectance, np.nan)
    counts = np.zeros(clear.shape, np.uint8)
    for index, day in enumerate(days):
        apart = np.abs(days - day)
        season = np.minimum(apart % 365.25, 365.25 - apart % 365.25)
        says = np.exp(-apart / CHANGES_IN)
        says += ANOTHER_YEAR * np.exp(-season / SEASON) * np.exp(-apart / 1000)
        says[index] = 0
        order = [other for other in np.argsort(-says)[:ASKED] if says[other] > LEAST]
        if not order:
            continue
        serves = clear[order]
        chosen = np.argsort(~serves, axis=0, kind="stable")[:NEAREST]  # the nearest clear dates
        there = np.take_along_axis(serves, chosen, 0)
        counts[index] = there.sum(0)
        for band in range(reflectance.shape[1]):
            values = np.take_along_axis(reflectance[order, band], chosen, 0)
            reference[index, band] = _median(np.where(there, values, np.nan))
    return reference, counts


def _median(values: np.ndarray) -> np.ndarray:
    """Median over the first axis of what is not NaN, which numpy's own takes minutes for."""
    count = np.isfinite(values).sum(0)
    ordered = np.sort(values, axis=0)  # NaN last
    low, high = (np.maximum(count - 1, 0) // 2)[None], (count // 2)[None]
    high = np.minimum(high, np.maximum(count - 1, 0)[None])
    middle = np.take_along_axis(ordered, low, 0) + np.take_along_axis(ordered, high, 0)
    median: np.ndarray = middle[0] / 2
    return median


def albedo_over(seen: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """Albedo of a cloud through which ground of a known reflectance is seen.

    Solves ``seen = A + (1 - A)^2 r / (1 - A r)`` for A, see `kappamask.train.simulate`.

    Examples
    --------
    >>> a, r = 0.3, 0.05
    >>> round(float(albedo_over(np.array(a + (1 - a) ** 2 * r / (1 - a * r)), np.array(r))), 6)
    0.3
    """
    albedo: np.ndarray = (seen - ground) / (1 - 2 * ground + seen * ground)
    return albedo
