"""How other masks spell the classes: the tables, and arrays turned by them. Row 0 below it.

The mappings are those that KappaMask was compared by (Domnich et al. 2021; kappazeta/cm-vsm,
`vsm/lib/raster`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from kappamask.base.errors import InputError
from kappamask.base.legend import Label

# Sen2Cor scene classification, 20 m. 7 "unclassified" decides nothing.
SCL: Mapping[int, Label] = MappingProxyType(
    {0: Label.MISSING, 1: Label.MISSING}
    | dict.fromkeys((2, 4, 5, 6, 11), Label.CLEAR)
    | {3: Label.CLOUD_SHADOW, 7: Label.UNDEFINED, 8: Label.CLOUD, 9: Label.CLOUD}
    | {10: Label.SEMI_TRANSPARENT, 255: Label.MISSING}
)
# Fmask 4 (GERSL): 0 land, 1 water, 2 shadow, 3 snow, 4 cloud, 255 no data.
FMASK: Mapping[int, Label] = MappingProxyType(
    {0: Label.CLEAR, 1: Label.CLEAR, 2: Label.CLOUD_SHADOW, 3: Label.CLEAR, 4: Label.CLOUD}
    | {255: Label.MISSING}
)
# python-fmask (Flood and Gillingham): 0 null, 1 clear, 2 cloud, 3 shadow, 4 snow, 5 water.
PYTHON_FMASK: Mapping[int, Label] = MappingProxyType(
    {0: Label.MISSING, 1: Label.CLEAR, 2: Label.CLOUD, 3: Label.CLOUD_SHADOW}
    | {4: Label.CLEAR, 5: Label.CLEAR}
)


@dataclass(frozen=True)
class MajaBits:
    """Which bits of a MAJA cloud mask mean what; other bits say how a cloud was found."""

    clouds: int  # all but the thinnest
    shadows: int  # of clouds inside and outside the image
    thin: int


# Theia / MUSCATE products, `*_CLM_R1.tif` (10 m) and `*_CLM_R2.tif` (20 m).
MAJA_MUSCATE = MajaBits(clouds=1 << 1, shadows=1 << 5 | 1 << 6, thin=1 << 4)
# MAJA's native products, `*_CLD_R1.DBL.TIF`: the same words at other bits.
MAJA_NATIVE = MajaBits(clouds=1 << 1, shadows=1 << 2 | 1 << 3, thin=1 << 6)


def map_codes(raster: np.ndarray, table: Mapping[int, Label]) -> np.ndarray:
    """Turn another mask's codes into ours.

    Parameters
    ----------
    raster
        Integers of any shape, 0-255.
    table
        Code to label.

    Returns
    -------
    numpy.ndarray
        uint8 codes of `Label`, same shape.

    Raises
    ------
    InputError
        If the raster holds a code that the table does not.

    Examples
    --------
    >>> map_codes(np.array([4, 3, 7, 9, 10]), SCL).tolist()
    [1, 2, 0, 4, 3]
    """
    unknown = sorted(set(np.unique(raster).tolist()) - set(table))
    if unknown:
        raise InputError(
            f"this mask knows the codes {', '.join(map(str, table))}, got {unknown}: "
            "is it a mask of another program?"
        )
    lookup = np.full(256, Label.UNDEFINED, np.uint8)
    lookup[list(table)] = list(table.values())
    codes: np.ndarray = lookup[raster.astype(np.uint8)]
    return codes


def map_maja(raster: np.ndarray, bits: MajaBits) -> np.ndarray:
    """Turn a MAJA bit field into codes: 0 is clear, then cloud, shadow, thin, else undefined.

    Parameters
    ----------
    raster
        Integers, 0-255.
    bits
        `MAJA_MUSCATE` or `MAJA_NATIVE`.

    Returns
    -------
    numpy.ndarray
        uint8 codes of `Label`, same shape.

    Examples
    --------
    >>> map_maja(np.array([0, 0b11, 0b100001, 0b10000, 0b10000010, 0b10000000]), MAJA_MUSCATE)
    array([1, 4, 2, 3, 4, 0], dtype=uint8)
    """
    field = np.asarray(raster).astype(np.uint8)
    said = (field == 0, field & bits.clouds > 0, field & bits.shadows > 0, field & bits.thin > 0)
    labels = (Label.CLEAR, Label.CLOUD, Label.CLOUD_SHADOW, Label.SEMI_TRANSPARENT)
    codes: np.ndarray = np.select(said, [np.uint8(label) for label in labels], np.uint8(0))
    return codes.astype(np.uint8)
