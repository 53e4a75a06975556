"""What every mask looks like to the scores, and masks read from files. Imports rows 0-6; rasterio.

`programs` has the masks that are computed.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from kappamask.base.errors import InputError, ReadError
from kappamask.base.legend import PREDICTED, Label
from kappamask.evaluate.codes import (
    FMASK,
    MAJA_MUSCATE,
    MAJA_NATIVE,
    PYTHON_FMASK,
    SCL,
    map_codes,
    map_maja,
)
from kappamask.train.chips import Chip

EVERY_CLASS = frozenset(PREDICTED)
NO_THIN = frozenset({Label.CLEAR, Label.CLOUD_SHADOW, Label.CLOUD})
NO_SCL = 255  # in label files of chips: no scene classification came with this chip


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

    def refusal(self, chip: Chip) -> str | None:
        """Why it cannot label this chip; None if it can."""

    def label(self, chip: Chip) -> Answer:
        """Label one chip."""


def lacking(chip: Chip, *, levels: Sequence[str], bands: Sequence[str]) -> str | None:
    """Why a mask that needs these levels and bands cannot label a chip; None if it can.

    Examples
    --------
    >>> chip = Chip("a", np.ones((13, 2, 2), np.uint16), np.ones((2, 2)), "L2A", 10.0, "human")
    >>> lacking(chip, levels=("L1C",), bands=())
    'needs L1C, the chip is L2A'
    >>> lacking(chip, levels=("L2A",), bands=("B02",)) is None
    True
    """
    if chip.level not in levels:
        return f"needs {' or '.join(levels)}, the chip is {chip.level}"
    absent = [name for name in bands if name not in chip.bands]
    return f"needs {', '.join(absent)}, which the chip lacks" if absent else None


@dataclass(frozen=True)
class SclPeer:
    """Sen2Cor's scene classification, as it came with the chips.

    Read from the band `scl` of `NAME_label.tif` beside a chip, and from `SCL.tif` in the
    folder of a date of Bolzano.
    """

    folder: Path  # that holds chips.csv
    name: str = "scl"
    title: str = "Sen2Cor scene classification (SCL), from the product"
    says: frozenset[Label] = EVERY_CLASS

    def refusal(self, chip: Chip) -> str | None:
        """Look whether a classification came with the chip."""
        raster = self._read(chip)
        if raster is None or (raster == NO_SCL).all():
            return "no scene classification came with the chip"
        return None

    def label(self, chip: Chip) -> Answer:
        """Map the stored classes."""
        raster = self._read(chip)
        if raster is None:
            raise ReadError(f"no scene classification of {chip.name} lies in {self.folder}")
        return Answer(map_codes(fit(raster, chip, self.name), SCL))

    def _read(self, chip: Chip) -> np.ndarray | None:
        date = self.folder / "bolzano" / chip.name / "SCL.tif"
        if date.is_file():
            return read_raster(date)
        for path in _label_files(self.folder).get(chip.name, ()):
            return read_raster(path, band="scl")
        return None


def _label_files(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Label files by name of chip, where there are any."""
    table = folder / "chips.csv"
    if not table.is_file():
        return {}
    with table.open() as lines:
        paths = [folder / row["file"] for row in csv.DictReader(lines)]
    labels = {path.stem: path.with_name(f"{path.stem}_label.tif") for path in paths}
    return {name: (path,) for name, path in labels.items() if path.is_file()}


@dataclass(frozen=True)
class Form:
    """One way in which a program writes its mask: endings of the file, and its code."""

    endings: tuple[str, ...]
    decode: Callable[[np.ndarray], np.ndarray] = field(compare=False)


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
    forms: tuple[Form, ...]

    def refusal(self, chip: Chip) -> str | None:
        """Look for the chip's file."""
        if self.folder is None:
            return "no folder with its rasters was given (--masks)"
        if self._find(chip) is None:
            endings = ", ".join(ending for form in self.forms for ending in form.endings)
            return f"no file NAME of the chip with {endings} in the folder of its rasters"
        return None

    def label(self, chip: Chip) -> Answer:
        """Read and decode the chip's file."""
        found = self._find(chip)
        if found is None:
            raise ReadError(f"no raster of {self.name} for {chip.name} lies in {self.folder}")
        path, form = found
        return Answer(form.decode(fit(read_raster(path), chip, self.name)))

    def _find(self, chip: Chip) -> tuple[Path, Form] | None:
        if self.folder is None:
            return None
        for form in self.forms:
            for ending in form.endings:
                path = self.folder / f"{chip.name}{ending}"
                if path.is_file():
                    return path, form
        return None


def fmask_peer(masks: Path | None) -> RasterPeer:
    """Fmask 4 of GERSL: GeoTIFF or ENVI raster `NAME_Fmask4.tif`, 20 m.

    Examples
    --------
    >>> fmask_peer(None).name
    'fmask'
    """
    form = Form(("_Fmask4.tif", "_Fmask4.img"), _decode_fmask)
    return RasterPeer(_inside(masks, "fmask"), "fmask", "Fmask 4 (GERSL)", NO_THIN, (form,))


def python_fmask_peer(masks: Path | None) -> RasterPeer:
    """Fmask as Flood and Gillingham's Python package writes it: `NAME.img` (HFA) or GeoTIFF.

    Examples
    --------
    >>> python_fmask_peer(None).refusal(None)
    'no folder with its rasters was given (--masks)'
    """
    form = Form((".img", ".tif"), _decode_python_fmask)
    folder = _inside(masks, "python-fmask")
    return RasterPeer(folder, "python-fmask", "Fmask (python-fmask)", NO_THIN, (form,))


def maja_peer(masks: Path | None) -> RasterPeer:
    """MAJA: `NAME_CLM_R1.tif` of Theia products, or `NAME_CLD_R1.DBL.TIF` of native ones.

    Examples
    --------
    >>> maja_peer(None).says == EVERY_CLASS
    True
    """
    muscate = Form(("_CLM_R1.tif", "_CLM_R2.tif"), _decode_muscate)
    native = Form(("_CLD_R1.DBL.TIF", "_CLD_R2.DBL.TIF"), _decode_native)
    title = "MAJA cloud mask (CLM)"
    return RasterPeer(_inside(masks, "maja"), "maja", title, EVERY_CLASS, (muscate, native))


def _inside(masks: Path | None, name: str) -> Path | None:
    return None if masks is None else masks / name


def _decode_fmask(raster: np.ndarray) -> np.ndarray:
    return map_codes(raster, FMASK)


def _decode_python_fmask(raster: np.ndarray) -> np.ndarray:
    return map_codes(raster, PYTHON_FMASK)


def _decode_muscate(raster: np.ndarray) -> np.ndarray:
    return map_maja(raster, MAJA_MUSCATE)


def _decode_native(raster: np.ndarray) -> np.ndarray:
    return map_maja(raster, MAJA_NATIVE)


def read_raster(path: Path, *, band: str | None = None) -> np.ndarray:
    """Read one band, (y, x): the first, or the one that is described as `band`.

    Raises
    ------
    ReadError
        If the file cannot be read or has no such band.
    """
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(path) as source:
            names = [name or "" for name in source.descriptions]
            if band is not None and band not in names:
                raise ReadError(
                    f"a label file holds a band {band!r}, got {', '.join(names)} in {path}: "
                    "write it again"
                )
            raster: np.ndarray = source.read(1 if band is None else names.index(band) + 1)
    except RasterioError as error:
        raise ReadError(
            f"cannot read the raster {path} ({error}): is it whole, and a raster?"
        ) from error
    return raster


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
