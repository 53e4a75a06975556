"""Reflectance that is none: fill values as numbers, bands in another order, a wrong scale.

Imports `base`. What cannot be is an error where it is found (`array`); what hardly can be is a
warning here, and what cannot be told from data by its values is missing.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from kappamask.base.bands import get_band
from kappamask.base.errors import KappaMaskWarning

FILLS = (0.0, -0.1)  # of rasters of floating point; of DN 0 after an offset of -1000
_CLOSE = 1e-6  # half a DN is 5e-5
_EVERY = 8  # rows and columns that are looked at: a warning needs no more
_ENOUGH = 256  # pixels of these; a few may be of anything
MOST = 0.95  # share of the pixels for which something must hold


def without_fill(layers: Sequence[np.ndarray], bands: Sequence[str]) -> list[np.ndarray]:
    """Put NaN where all bands of reflectance are 0, or all -0.1: such ground there is none.

    Examples
    --------
    >>> without_fill([np.array([0.0, 0.0, 0.1]), np.array([0.0, 0.2, 0.1])], ["B02", "B03"])[0]
    array([nan, 0. , 0.1])
    """
    layers = list(layers)
    places = [place for place, name in enumerate(bands) if get_band(name).is_reflectance]
    for fill in FILLS:
        empty = np.abs(layers[places[0]] - fill) < _CLOSE
        for place in places[1:]:
            if not empty.any():
                break
            empty &= np.abs(layers[place] - fill) < _CLOSE
        if empty.any():
            layers = [np.where(empty, np.float32(np.nan), layer) for layer in layers]
    return layers


def warn_of_doubts(required: Sequence[np.ndarray]) -> None:
    """Warn of pixels of one window that look like something else than reflectance of these bands.

    Parameters
    ----------
    required
        (y, x) of blue, green, red and near infrared, NaN = no data.

    Warns
    -----
    KappaMaskWarning
        Of a scale that is too large or too small by 10, of an offset that was forgotten, and of
        bands in another order.

    Examples
    --------
    >>> field = [np.full((256, 256), value) for value in (0.04, 0.07, 0.05, 0.3)]
    >>> warn_of_doubts(field)
    """
    seen = np.stack([layer[::_EVERY, ::_EVERY] for layer in required])
    seen = seen[:, np.isfinite(seen).all(0)]
    if seen.shape[1] < _ENOUGH:
        return
    blue, green, red, nir = seen
    brightest, plants = seen.max(0), (nir > 0.25) & (nir > 2 * red)
    # Water is dark, and bright sand and snow are bright in all bands: of what is bright in blue
    # or red alone no picture is full.
    lone = (np.maximum(blue, red) > 0.15) & (np.maximum(blue, red) > 1.5 * green)
    doubts = {
        "reflectance hardly passes 1.5 (1.0 = 100 %), here half of the pixels do: look at the "
        "scale (10000 for most products), with 1000 all is ten times too bright": (
            np.median(brightest) > 1.5
        ),
        # open water is as dark, but darkest in the near infrared
        "land reflects a tenth of the light or more in some band, here hardly a pixel does: look "
        "at the scale (10000 for most products), with 100000 all is ten times too dark": (
            np.mean(brightest < 0.06) > MOST and np.median(nir) > np.median(blue)
        ),
        "plants and shadows are darker than 0.1 in red, here nothing is darker than that in any "
        "band: look at the offset (-1000 from processing baseline 04.00 on)": (
            plants.sum() >= _ENOUGH and seen.min() > 0.09 and np.mean(red[plants] > 0.105) > MOST
        ),
        "plants are brightest in the near infrared, here that is darker than red in all the "
        "picture, and another band is bright: look at the order of the band names": (
            np.mean(nir < red) > MOST and np.mean(lone) > 0.5
        ),
    }
    if text := next((text for text, holds in doubts.items() if holds), None):
        warnings.warn(text, KappaMaskWarning, stacklevel=2)
