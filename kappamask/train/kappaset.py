"""KappaSet: 9251 labelled sub-tiles of 1038 L1C products, all over the world.

Source: Shtym et al. 2022, KappaSet: Sentinel-2 KappaZeta Cloud and Cloud Shadow Masks, Zenodo
7100327 (check its licence there). The files were written by kappazeta/cm-vsm
(`vsm/lib/raster/netcdf_interface.cpp`, Apache-2.0), whose code says: NetCDF-4; per band of more
than 8 bits a variable ``B01`` .. ``B12``, ``B8A`` of float32, DN / 65535; masks of 8 bits as
they are, so ``Label`` holds the codes of `kappamask.base.legend.Label` (kappazeta/cloudmask-fit
`data_generator.py` reads it so); rows first, although the dimensions are declared as (x, y);
every band resampled to 10 m with a windowed sinc; a global attribute ``product_name``.

Not verified, because the data set itself could not be reached: how Zenodo's archive lays out
its files and names its splits, and whether it holds products of baseline 04.00 and later. So
splits are made here, by place, unless folders are named after them, and the offset is taken
from the product's name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kappamask.base.bands import LEVELS, NAMES
from kappamask.base.errors import InputError, ReadError
from kappamask.base.legend import Label
from kappamask.train.chips import Chip, spread, stack

HIGHEST_DN = 65535
SPLIT_FOLDERS = {name: name for name in ("train", "val", "test")}
SPLIT_FOLDERS |= {"training": "train", "validation": "val"}
TENTHS = ("test", "val")  # the first and the second tenth of all places; the rest trains
_PLACE = re.compile(r"T\d{2}[A-Z]{3}")
_BASELINE = re.compile(r"_N(\d{2})(\d{2})_")


@dataclass(frozen=True)
class KappaSet:
    """The sub-tiles below a folder: ``*.nc`` at any depth.

    Files below folders called train, val (validation) or test belong to that split. Otherwise
    one tenth of the MGRS tiles is `test` and one is `val`: a place is never in two of them.
    """

    folder: Path
    dn_offset: int | None = None  # added to DN where the product's name tells no baseline

    def chips(self, split: str, *, limit: int | None = None) -> Iterator[Chip]:
        """Yield the labelled sub-tiles of one split; files without a `Label` are left out."""
        found = [path for path in sorted(self.folder.rglob("*.nc")) if self._split(path) == split]
        for path in spread(found, limit):
            chip = read_sub_tile(path, dn_offset=self.dn_offset)
            if chip is not None:
                yield chip

    def _split(self, path: Path) -> str:
        for part in reversed(path.relative_to(self.folder).parts[:-1]):
            if part.lower() in SPLIT_FOLDERS:
                return SPLIT_FOLDERS[part.lower()]
        return split_of(path)


def split_of(path: Path) -> str:
    """Give a file a split by its MGRS tile, always the same; without one, by its own name.

    Examples
    --------
    >>> names = ["T35VLF_20200529_tile_2_3.nc", "T35VLF_20190801_tile_0_1.nc"]
    >>> len({split_of(Path(name)) for name in names})
    1
    """
    found = _PLACE.search(path.stem) or _PLACE.search(path.parent.name)
    place = found[0] if found else path.stem.split("_tile_")[0]
    tenth = int(hashlib.sha256(place.encode()).hexdigest(), 16) % 10
    return TENTHS[tenth] if tenth < len(TENTHS) else "train"


def read_sub_tile(path: Path, *, dn_offset: int | None = None) -> Chip | None:
    """Read one file, or None where it has no `Label`.

    Raises
    ------
    InputError
        If netCDF4 is absent, the file has no band, or its offset cannot be known.
    ReadError
        If the file is damaged.
    """
    try:
        import netCDF4
    except ImportError as error:
        raise InputError(
            f"KappaSet needs netCDF4 ({error}): pip install 'kappamask[train]'"
        ) from error
    try:
        with netCDF4.Dataset(path) as file:
            if "Label" not in file.variables:
                return None
            label = np.ma.getdata(file["Label"][:]).astype(np.uint8)
            layers = {
                name: np.ma.getdata(file[name][:]) for name in NAMES if name in file.variables
            }
            product = str(getattr(file, "product_name", ""))
    except OSError as error:
        raise ReadError(f"a sub-tile is NetCDF, got {error} for {path}: fetch it again") from error
    if not layers:
        raise InputError(f"a sub-tile has variables B01 .. B12, got none in {path}: remove it")
    offset = _offset_of(product, path, dn_offset)
    stored = {name: _to_dn(layer, f"{name} of {path}") for name, layer in layers.items()}
    dn = stack(stored, offset=offset)
    label[label > Label.MISSING] = Label.UNDEFINED
    level = next((level for level in LEVELS if level in product), "L1C")
    return Chip(f"{path.parent.name}-{path.stem}", dn, label, level, 10.0, "human")


def _to_dn(layer: Any, where: str) -> np.ndarray:
    """Turn shares of 65535, or DN, into DN."""
    if np.issubdtype(layer.dtype, np.floating):
        if not 0 <= np.nanmin(layer) <= np.nanmax(layer) <= 1:
            raise InputError(
                f"KappaSet stores DN / 65535, got {np.nanmin(layer)} to {np.nanmax(layer)} in "
                f"{where}: convert the file"
            )
        layer = np.rint(np.nan_to_num(layer) * np.float64(HIGHEST_DN))
    stored: np.ndarray = layer.astype(np.int32)
    return stored


def _offset_of(product: str, path: Path, dn_offset: int | None) -> int:
    """Say what is added to DN: -1000 from processing baseline 04.00 on."""
    found = _BASELINE.search(product) or _BASELINE.search(str(path))
    if found:
        return -1000 if int(found[1]) >= 4 else 0
    if dn_offset is not None:
        return dn_offset
    raise InputError(
        "DN are raised by 1000 from processing baseline 04.00 on, got no baseline in the product "
        f"name {product!r} of {path}: set dn_offset = 0 or -1000 in [[data]]"
    )
