"""Snow on the ground that labels call clear. Imports `base` only."""

from __future__ import annotations

import numpy as np

from kappamask.base.bands import NEAR_INFRARED
from kappamask.base.legend import Label, Snow

GREEN, SWIR = "B03", "B11"
INFRARED = NEAR_INFRARED[::-1]  # B8A rather than B08, which is as wide as the water lines beside it
# Dozier 1989, Remote Sens. Environ. 28, 9; the infrared keeps water out: Hall et al. 1995, Remote
# Sens. Environ. 54, 127 (decision 0014).
LEAST_NDSI = 0.4
LEAST_INFRARED = 0.11
# What is told of a label before snow is looked for, by its code.
UNLIKE_CLEAR = np.full(len(Label), Snow.HIDDEN, np.uint8)
UNLIKE_CLEAR[[Label.CLEAR, Label.MISSING]] = Snow.NO_SNOW, Snow.MISSING


def snow_bands(bands: tuple[str, ...]) -> tuple[str, str, str] | None:
    """Choose the bands that tell snow: green, SWIR and infrared; None where B11 is absent.

    Examples
    --------
    >>> snow_bands(("B02", "B03", "B04", "B08", "B11")), snow_bands(("B03", "B08"))
    (('B03', 'B11', 'B08'), None)
    """
    infrared = next((name for name in INFRARED if name in bands), None)
    if infrared is None or not {GREEN, SWIR} <= set(bands):
        return None
    return GREEN, SWIR, infrared


def find_snow(
    labels: np.ndarray, green: np.ndarray, swir: np.ndarray, infrared: np.ndarray
) -> np.ndarray:
    """Tell snow from other ground where it is seen.

    Snow is bright in the visible and dark in the short-wave infrared: its difference index
    (B03 - B11) / (B03 + B11) is above 0.4, reflectance below 0 counting as 0; B8A (or B08)
    above 0.11 leaves out water. Shallow water over bright ground passes both. Cold decks of ice
    cloud would: labels come first.

    Parameters
    ----------
    labels
        uint8 (y, x), codes of `Label`.
    green, swir, infrared
        Reflectance of the same pixels, NaN where there is none.

    Returns
    -------
    numpy.ndarray
        uint8 (y, x), codes of `Snow`; missing where the labels are, and where the ground is
        clear but one of the bands has no data.

    Examples
    --------
    >>> labels = np.array([[1, 1, 4, 5]], "uint8")
    >>> green, swir = np.float32([[0.8, 0.1, 0.8, 0.8]]), np.float32([[0.1, 0.2, 0.1, 0.1]])
    >>> find_snow(labels, green, swir, green).tolist()
    [[100, 0, 205, 255]]
    """
    # The index solved for B11, in few passes: every window of every mask comes this way.
    with np.errstate(invalid="ignore"):
        snow = green * np.float32((1 - LEAST_NDSI) / (1 + LEAST_NDSI)) > swir
        snow &= green > 0
        snow &= infrared > LEAST_INFRARED
    clear = labels == Label.CLEAR
    codes: np.ndarray = np.take(UNLIKE_CLEAR, labels)
    np.copyto(codes, np.uint8(Snow.SNOW), where=clear & snow)
    for layer in (green, swir, infrared):
        np.copyto(codes, np.uint8(Snow.MISSING), where=clear & ~np.isfinite(layer))
    return codes
