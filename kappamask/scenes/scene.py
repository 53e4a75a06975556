"""A scene in files of single bands: where its pixels lie and what their DN mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kappamask.base.dn import to_reflectance


@dataclass(frozen=True)
class BandFile:
    """The file of one band: where its pixels lie and what its DN mean."""

    band: str  # canonical name
    path: str  # as GDAL opens it
    gsd: float  # metres per pixel
    left: float  # projected coordinates of the upper left corner
    top: float
    height: int  # pixels
    width: int
    dn_offset: int  # added to the DN: 0 or -1000
    scale: float  # physical value per DN

    def to_reflectance(self, dn: np.ndarray) -> np.ndarray:
        """Apply offset and scale; NaN where DN is 0."""
        return to_reflectance(dn, np.float32(self.dn_offset), np.float32(self.scale))


@dataclass(frozen=True)
class NativeScene:
    """One scene in files of single bands, each at its own pixel size."""

    id: str
    time: np.datetime64  # sensing start, UTC
    level: str  # "L1C" or "L2A"
    tile: str | None  # MGRS, "32TPS"
    platform: str | None  # "sentinel-2a"
    epsg: int
    files: Mapping[str, BandFile]

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top of the area that every file covers."""
        edges = [
            (f.left, f.top - f.height * f.gsd, f.left + f.width * f.gsd, f.top)
            for f in self.files.values()
        ]
        left, bottom, right, top = zip(*edges, strict=True)
        return max(left), max(bottom), min(right), min(top)
