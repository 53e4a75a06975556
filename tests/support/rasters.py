"""Rasters as files, of any driver."""

from __future__ import annotations

import rasterio


def write_raster(path, layers, descriptions=(), **options):
    """Write (band, y, x) as GeoTIFF, or as the options of rasterio say."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = layers.shape
    shape = {"height": height, "width": width, "count": count, "dtype": layers.dtype}
    with rasterio.open(path, "w", **({"driver": "GTiff"} | shape | options)) as target:
        target.write(layers)
        for index, name in enumerate(descriptions, start=1):
            target.set_band_description(index, name)
