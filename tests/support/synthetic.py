"""A tiny made-up catalogue: three dates of four bands and SCL, as COG-less GeoTIFFs.

Numbers are made so that every pixel and date differs; 0 is no data. Stored as baseline
04.00, raised by 1000.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rasterio.transform import from_origin

from kappamask.scenes.area import transformer
from support import bolzano
from support.rasters import write_raster

BANDS = ("B02", "B03", "B04", "B08")
DATES = ("20220602", "20220620", "20220705")
EPSG, LEFT, TOP = 32632, 680000, 5150000
HEIGHT, WIDTH = 150, 130  # pixels of 10 m
GRID = from_origin(LEFT, TOP, 10, 10)


@dataclass(frozen=True)
class Synthetic:
    """Where it lies, and what it holds."""

    catalog: Path
    dn: np.ndarray  # (date, band, y, x) float32, offset applied, NaN = no data
    scl: np.ndarray  # (date, y, x)

    @property
    def extent(self) -> dict:
        """The whole area, in its own projection, as openEO words it."""
        return {
            "west": LEFT,
            "south": TOP - 10 * HEIGHT,
            "east": LEFT + 10 * WIDTH,
            "north": TOP,
            "crs": EPSG,
        }

    @property
    def bbox(self) -> tuple[float, float, float, float]:
        """A box in degrees, some pixels inside the area."""
        there = transformer(EPSG, 4326)
        west, south = there.transform(LEFT + 200, TOP - 10 * HEIGHT + 200)
        east, north = there.transform(LEFT + 10 * WIDTH - 200, TOP - 200)
        return west, south, east, north


def write(folder: Path) -> Synthetic:
    """Write pixels and catalogue."""
    generator = np.random.default_rng(7)
    shape = (len(DATES), len(BANDS), HEIGHT, WIDTH)
    stored = generator.integers(1100, 9000, shape).astype(np.uint16)
    stored[:, 0] = np.minimum(stored[:, 0], 5000)
    stored[0, :, :20, :30] = 0  # a corner without data
    stored[1, 0, 40:60, 50:90] = 9500  # bright blue
    classes = generator.integers(3, 12, (len(DATES), HEIGHT, WIDTH)).astype(np.uint8)
    scenes = folder / "scenes"
    for index, date in enumerate(DATES):
        place = scenes / f"S2_L2A_{date}"
        for band, values in zip(BANDS, stored[index], strict=True):
            write_raster(place / f"{band}.tif", values[None], nodata=0, crs=EPSG, transform=GRID)
        scl = classes[index][None]
        write_raster(place / "SCL.tif", scl, nodata=0, crs=EPSG, transform=GRID)
    catalog = bolzano.write_catalog(folder / "catalog", scenes)
    dn = np.where(stored == 0, np.nan, stored.astype(np.float32) - 1000)
    return Synthetic(catalog, dn.astype(np.float32), classes)
