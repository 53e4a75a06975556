"""What a user writes, with types: `make check` has mypy look at it, nobody runs it.

Each `type: ignore` is a mistake that mypy must find: one that it no longer finds is an error.
"""

from datetime import date
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import pystac
import xarray as xr

import kappamask as km
from kappamask.jobs import (
    FieldTable,
    MaskOptions,
    Report,
    compose_items,
    field_shares,
    mask_items,
    mask_product,
)
from kappamask.networks.model import Model

BBOX = (11.29, 46.46, 11.40, 46.53)


def find() -> list[pystac.Item]:
    """Areas and dates in the forms that people write."""
    items = km.search(BBOX, "2022-06-01/2022-06-30", max_cloud_cover=80)
    assert_type(items, list[pystac.Item])
    items += km.search([11.29, 46.46, 11.40, 46.53], ("2022-06-01", "2022-06-30"), level="L2A")
    items += km.search(Path("fields.geojson"), date(2022, 6, 1), catalog=Path("catalog.json"))
    items += km.search({"type": "Point", "coordinates": [11, 46]}, [None, np.datetime64("2022-06")])
    items += km.search(None, "2022-06", tile="32TPS", max_items=5)
    km.search(BBOX, 2022)  # type: ignore[arg-type]
    km.search(BBOX)  # type: ignore[call-arg]
    km.search(BBOX, "2022-06", level=2)  # type: ignore[arg-type]
    return items


def mask(items: list[pystac.Item]) -> tuple[xr.DataArray, xr.DataArray]:
    """Cubes and labels."""
    cube = km.load_cube(items, BBOX, resolution=20, bands=["B02", "B03", "B04", "B08"])
    assert_type(cube, xr.DataArray)
    assert_type(km.open_safe("product.SAFE", area=BBOX), xr.DataArray)
    own = km.open_raster(["a.tif", Path("b.tif")], bands=["B02", "B03"], level="L2A", scale=10000)
    assert_type(own, xr.DataArray)
    labels = km.predict_cube(cube, model="default")
    assert_type(labels, xr.DataArray)
    km.predict_cube(cube, output="probabilities")
    km.predict_cube(cube, output="probability")  # type: ignore[arg-type]
    km.load_cube(items, BBOX, resolution="10 m")  # type: ignore[arg-type]
    return cube, km.refine(labels, cube)


def arrays(reflectance: np.ndarray) -> np.ndarray:
    """Arrays and models."""
    model = km.load_model(precision="fp32")
    assert_type(model, Model)
    labels = km.predict_array(reflectance, ["B02", "B03", "B04", "B08"], level="L2A", model=model)
    km.predict_batch(reflectance[None], ["B02", "B03", "B04", "B08"], level="L2A")
    km.predict_array(reflectance, ["B02", "B03", "B04", "B08"])  # type: ignore[call-arg]
    km.predict_array(reflectance, [2, 3, 4, 8], level="L2A")  # type: ignore[list-item]
    return np.asarray(labels == km.Label.CLEAR)


def write(cube: xr.DataArray, labels: xr.DataArray, items: list[pystac.Item]) -> list[Path]:
    """Files and pictures."""
    image = km.composite(cube, labels, period="month", buffer_m={"cloud": 60, "shadow": 40})
    assert_type(image, xr.Dataset)
    written = km.write_mask(labels, "masks", source_items=items)
    assert_type(written, list[Path])
    written += km.write_composite(image, Path("june"), source_items=items)
    written += [km.write_netcdf(labels, "labels.nc"), km.write_zarr(image, Path("june.zarr"))]
    written += [km.quicklook(cube[0], labels[0], "picture.png", title="Bolzano")]
    km.write_mask(labels, None)  # type: ignore[arg-type]
    return written


def jobs(items: list[pystac.Item], options: MaskOptions) -> Any:
    """The loop over dates."""
    report = mask_items(items, BBOX, "masks", options=options, tell=print)
    assert_type(report, Report)
    assert_type(compose_items(items, BBOX, "june"), Report)
    assert_type(mask_product("product.SAFE", "masks"), list[Path])
    shares = field_shares(items, "fields.geojson")
    assert_type(shares, FieldTable)
    mask_items(items, BBOX, "masks", options={"snow": True})  # type: ignore[arg-type]
    return shares.table


def fail() -> None:
    """Errors are one family."""
    try:
        find()
    except km.KappaMaskError as error:
        assert_type(str(error), str)
