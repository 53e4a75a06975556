"""What every mask looks like to the scores, and masks read from files.

`programs` has the masks that are computed. The mappings of codes are those that KappaMask was
compared by (Domnich et al. 2021; kappazeta/cm-vsm, `vsm/lib/raster`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np

from kappamask.base.errors import InputError, ReadError
from kappamask.base.legend import PREDICTED, Label
from kappamask.scenes.formats import OWN
from kappamask.train.chips import SCL_NONE, Chip, read_layers

EVERY_CLASS = frozenset(PREDICTED)
NO_THIN = frozenset({Label.CLEAR, Label.CLOUD_SHADOW, Label.CLOUD})

# --- how other masks spell the classes -------------------------------------------------------

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
    bytes_ = np.asarray(raster).astype(np.uint8)
    said = (
        bytes_ == 0,
        bytes_ & bits.clouds > 0,
        bytes_ & bits.shadows > 0,
        bytes_ & bits.thin > 0,
    )
    labels = (Label.CLEAR, Label.CLOUD, Label.CLOUD_SHADOW, Label.SEMI_TRANSPARENT)
    codes: np.ndarray = np.select(said, [np.uint8(label) for label in labels], np.uint8(0))
    return codes.astype(np.uint8)


# --- a mask that can be scored ---------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Answer:
    """What a mask says of one chip."""

    codes: np.ndarray  # (y, x) uint8, codes of `Label`
    probabilities: np.ndarray | None = None  # (4, y, x) in the order of `PREDICTED`


class Peer(Protocol):
    """A mask that can be scored."""

    @property
    def name(self) -> str:
        """As the command line and every table spell it."""

    @property
    def title(self) -> str:
        """What it is, with its version, for people."""

    @property
    def says(self) -> frozenset[Label]:
        """The classes that it can say."""

    def label(self, chip: Chip) -> Answer:
        """Label one chip.

        Raises
        ------
        KappaMaskError
            If it cannot; the message is the reason that the report gives.
        """


def check_needs(chip: Chip, *, levels: Sequence[str], bands: Sequence[str]) -> None:
    """Refuse a chip for a mask that needs these levels and bands.

    Raises
    ------
    InputError
        If the chip is of another level or lacks a band.

    Examples
    --------
    >>> chip = Chip("a", np.ones((13, 2, 2), np.uint16), np.ones((2, 2)), "L2A", 10.0, "human")
    >>> check_needs(chip, levels=("L2A",), bands=("B02",))
    >>> check_needs(chip, levels=("L1C",), bands=())
    Traceback (most recent call last):
    kappamask.base.errors.InputError: needs L1C, the chip is L2A
    """
    if chip.level not in levels:
        raise InputError(f"needs {' or '.join(levels)}, the chip is {chip.level}")
    if absent := [name for name in bands if name not in chip.bands]:
        raise InputError(f"needs {', '.join(absent)}, which the chip lacks")


@dataclass(frozen=True)
class SclPeer:
    """Sen2Cor's scene classification, as it came with the chips."""

    name: str = "scl"
    title: str = "Sen2Cor scene classification (SCL), from the product"
    says: frozenset[Label] = EVERY_CLASS

    def label(self, chip: Chip) -> Answer:
        """Map the stored classes."""
        if chip.scl is None or (chip.scl == SCL_NONE).all():
            raise ReadError("no scene classification came with the chip")
        return Answer(map_codes(fit(chip.scl, chip, self.name), SCL))


# Endings of a program's files, and what their codes mean.
Forms = Mapping[tuple[str, ...], Callable[[np.ndarray], np.ndarray]]


@dataclass(frozen=True)
class RasterPeer:
    """A mask that another program wrote, one file a chip, in that program's own format.

    The file of chip `NAME` is `folder/NAME` with one of the endings of `forms`: the name of
    a chip may begin that of another, so nothing stands between. A coarser raster of the
    same area is enlarged.
    """

    folder: Path | None
    name: str
    title: str
    says: frozenset[Label]
    forms: Forms = field(compare=False)

    def label(self, chip: Chip) -> Answer:
        """Read and decode the chip's file."""
        if self.folder is None:
            raise InputError("no folder with its rasters was given (--masks)")
        for endings, decode in self.forms.items():
            for ending in endings:
                path = self.folder / f"{chip.name}{ending}"
                if path.is_file():
                    raster, _ = read_layers(
                        path,
                        f"the raster {path}",
                        formats=OWN,
                        remedy="is it whole, and a raster?",
                        indexes=1,
                    )
                    return Answer(decode(fit(raster, chip, self.name)))
        known = ", ".join(ending for endings in self.forms for ending in endings)
        raise ReadError(f"no file NAME of the chip with {known} in the folder of its rasters")


def raster_peers(masks: Path | None) -> dict[str, RasterPeer]:
    """Masks of other programs by name, each in a folder of its name inside `masks`.

    Fmask 4 of GERSL writes GeoTIFF or ENVI rasters of 20 m; Flood and Gillingham's python-fmask
    writes Imagine; MAJA `CLM` in Theia products and `CLD` in native ones.

    Examples
    --------
    >>> raster_peers(None)["maja"].says == EVERY_CLASS
    True
    >>> raster_peers(None)["fmask"].label(None)
    Traceback (most recent call last):
    kappamask.base.errors.InputError: no folder with its rasters was given (--masks)
    """
    fmask: Forms = {("_Fmask4.tif", "_Fmask4.img"): partial(map_codes, table=FMASK)}
    python_fmask: Forms = {(".img", ".tif"): partial(map_codes, table=PYTHON_FMASK)}
    maja: Forms = {
        ("_CLM_R1.tif", "_CLM_R2.tif"): partial(map_maja, bits=MAJA_MUSCATE),
        ("_CLD_R1.DBL.TIF", "_CLD_R2.DBL.TIF"): partial(map_maja, bits=MAJA_NATIVE),
    }
    return {
        name: RasterPeer(masks / name if masks else None, name, title, says, forms)
        for name, title, says, forms in (
            ("fmask", "Fmask 4 (GERSL)", NO_THIN, fmask),
            ("python-fmask", "Fmask (python-fmask)", NO_THIN, python_fmask),
            ("maja", "MAJA cloud mask (CLM)", EVERY_CLASS, maja),
        )
    }


def fit(raster: np.ndarray, chip: Chip, name: str) -> np.ndarray:
    """Enlarge a coarser raster of the same area to the pixels of a chip.

    Raises
    ------
    InputError
        If it does not show as many pixels, or a whole part of them.

    Examples
    --------
    >>> chip = Chip("a", np.ones((13, 4, 4), np.uint16), np.ones((4, 4)), "L2A", 10.0, "human")
    >>> fit(np.array([[1, 2], [3, 4]]), chip, "fmask")[0].tolist()
    [1, 1, 2, 2]
    """
    height, width = chip.label.shape
    factor = -(-height // raster.shape[0])
    enough = -(-height // factor), -(-width // factor)
    if raster.shape != enough:
        raise InputError(
            f"a raster of {name} must have the chip's {height} x {width} pixels or a whole part "
            f"of them, got {raster.shape[0]} x {raster.shape[1]} for {chip.name}: "
            "cut it to the chip"
        )
    enlarged: np.ndarray = raster.repeat(factor, 0).repeat(factor, 1)[:height, :width]
    return enlarged
