"""Real pixels of any size: the L1C scene of the embedded sample, mirrored until it is full."""

from __future__ import annotations

from functools import cache

import numpy as np
import xarray as xr

from kappamask import load_cube, search
from kappamask.base.bands import NAMES
from kappamask.sample import SCENES, catalog_path

CORE = 1536  # pixels of the window lattice; the first pixel lies on it


@cache
def make_scene(size: int) -> np.ndarray:
    """Reflectance (13, size, size) float32, thin cloud over lakes and fields."""
    (scene,) = (scene for scene in SCENES if scene.level == "L1C")
    items = search(scene.bbox, scene.dates, catalog=catalog_path(), level="L1C")
    cube = load_cube(items, scene.bbox, bands=NAMES).isel(time=0).values  # (13, y, x)
    pair = np.concatenate([cube, cube[:, :, ::-1]], axis=2)
    block = np.concatenate([pair, pair[:, ::-1]], axis=1)
    times = [-(-size // length) for length in block.shape[1:]]
    return np.ascontiguousarray(np.tile(block, (1, *times))[:, :size, :size])


def make_cube(size: int, *, dates: int = 1) -> xr.DataArray:
    """(dates, 13, size, size) on a UTM grid; several dates: lazy, one scene again and again."""
    import dask.array as da
    import rioxarray  # noqa: F401  registers .rio

    scene = make_scene(size)
    values = scene[None] if dates == 1 else da.stack([da.from_array(scene, chunks=-1)] * dates)
    cube = xr.DataArray(
        values,
        dims=("time", "band", "y", "x"),
        coords={
            "time": np.datetime64("2022-06-02", "ns")
            + 5 * np.arange(dates) * np.timedelta64(1, "D"),
            "band": list(NAMES),
            "y": 300 * CORE * 10 - 5 - 10.0 * np.arange(size),
            "x": 30 * CORE * 10 + 5 + 10.0 * np.arange(size),
        },
        attrs={"level": "L1C"},
    )
    return cube.rio.write_crs(32632)
