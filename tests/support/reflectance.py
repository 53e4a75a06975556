"""Made-up reflectance, as an array and as a cube: something for a network to find."""

from __future__ import annotations

import numpy as np
import rioxarray  # noqa: F401  registers .rio
import xarray as xr

FOUR = ["B02", "B03", "B04", "B08"]
LEFT, TOP = 600000.0, 5000000.0


def make_scene(bands, height, width, seed=0):
    """Smooth ground with bright blobs, (band, y, x)."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((len(bands), height // 16 + 2, width // 16 + 2)).astype(np.float32)
    scene = coarse.repeat(16, 1).repeat(16, 2)[:, :height, :width] * 0.2
    scene += 0.6 * (scene[:1] > 0.14)
    return scene + rng.normal(0, 0.01, scene.shape).astype(np.float32)


def make_cube(scene, bands, *, level="L2A", left=LEFT, top=TOP, crs=32632):
    """Dress (time, band, y, x) or (band, y, x) as a cube whose corner is `left`, `top`."""
    scene = scene if scene.ndim == 4 else scene[None]
    cube = xr.DataArray(
        scene,
        dims=("time", "band", "y", "x"),
        coords={
            "time": np.arange(len(scene)).astype("M8[D]").astype("M8[ns]"),
            "band": list(bands),
            "y": top - 5 - 10 * np.arange(scene.shape[2]),
            "x": left + 5 + 10 * np.arange(scene.shape[3]),
        },
        attrs={"level": level},
    )
    return cube.rio.write_crs(crs)
