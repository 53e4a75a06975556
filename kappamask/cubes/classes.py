"""The scene classification (SCL) that L2A items hold, as labels. Imports `cube` and `scenes`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.base.errors import InputError, ItemError
from kappamask.base.legend import LEGEND, Label
from kappamask.cubes.cube import load_cube
from kappamask.scenes.items import view_of
from kappamask.scenes.scene import BandFile

if TYPE_CHECKING:
    import xarray as xr

KEYS = ("SCL", "scl", "SCL_20m")  # Planetary Computer; Earth Search; Copernicus
GSD = 20.0  # metres; classes have no mean
# Sen2Cor's classes. Dark areas (2) and what it leaves unclassified (7) are ground far more often
# than not: without them, roofs and cliffs are never seen.
CODES = np.full(256, int(Label.UNDEFINED), np.uint8)
CODES[[0, 1, 255]] = Label.MISSING
CODES[[2, 4, 5, 6, 7, 11]] = Label.CLEAR
CODES[3] = Label.CLOUD_SHADOW
CODES[[8, 9]] = Label.CLOUD
CODES[10] = Label.SEMI_TRANSPARENT


def resolve_classes(item: Any, bands: Any = None) -> dict[str, BandFile]:
    """Find the scene classification of an item, as if it were AOT, which takes no offset.

    Raises
    ------
    ItemError
        If the item holds none.
    """
    del bands
    view = view_of(item)
    key = next((key for key in KEYS if key in view.assets), None)
    if key is None:
        raise ItemError(
            f"item {view.id} holds no SCL, only {', '.join(view.assets)}: leave it out, or take "
            "the mask of a network"
        )
    href = view.assets[key][0]
    return {"AOT": BandFile(band="AOT", key=key, href=href, dn_offset=0, scale=1.0, gsd=GSD)}


def load_classes(
    items: Iterable[Any], like: xr.DataArray, *, resolution: float = 10, engine: str = "stackstac"
) -> xr.DataArray:
    """Load the SCL of items as labels on the pixels of a cube, lazily.

    Parameters
    ----------
    items
        Of L2A, as `load_cube` takes them.
    like
        The cube, of the same items.
    resolution, engine
        With which it was loaded; at most 20 m.

    Returns
    -------
    xarray.DataArray
        uint8 class codes (time, y, x) of `kappamask.Label`.

    Raises
    ------
    InputError
        If the cube is coarser.
    ItemError
        If an item holds no SCL.
    """
    from rasterio.warp import transform_bounds

    if resolution > GSD:
        raise InputError(
            f"classes have no mean: the SCL is read at {GSD:g} m or finer, got {resolution:g}"
        )
    bounds = transform_bounds(like.rio.crs, 4326, *like.rio.bounds(), densify_pts=21)
    raw = load_cube(
        items,
        bounds,
        resolution=resolution,
        bands=["AOT"],
        engine=engine,
        crs=like.rio.crs,
        margin=0,
        resolve=resolve_classes,
        max_pixels=None,
    )
    raw = raw.isel(band=0, drop=True).sel(y=like["y"], x=like["x"], method="nearest")
    codes = raw.fillna(0).astype(np.uint8)
    labels = codes.copy(data=codes.data.map_blocks(CODES.__getitem__, dtype=np.uint8))
    labels = labels.assign_coords(y=like["y"], x=like["x"])
    labels.attrs = {
        "level": "L2A",
        "flag_values": np.array([int(entry.label) for entry in LEGEND], np.uint8),
        "flag_meanings": " ".join(entry.name for entry in LEGEND),
    }
    return labels.rename("labels")
