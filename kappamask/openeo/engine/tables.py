"""Values, tables and time series of places as files: JSON, CSV, GeoParquet. Computes them whole."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import shapely
import xarray as xr

from kappamask.openeo.engine.arrays import text_of
from kappamask.openeo.engine.dimensions import date_cube
from kappamask.openeo.engine.flat_graph import GraphError
from kappamask.openeo.engine.spatial import FEATURES, WKT


def to_table(cube: xr.DataArray) -> pd.DataFrame:
    """Lay values out in rows: date, number of the feature, then a column per band."""
    plain = date_cube(cube).compute()
    kept = {*plain.dims, WKT}
    plain = plain.drop_vars([name for name in plain.coords if name not in kept])
    held = plain if "bands" in plain.dims else plain.expand_dims(bands=["value"])
    frame = held.assign_coords(bands=[str(name) for name in held["bands"].to_numpy()])
    rows = [dim for dim in ("t", FEATURES, *held.dims) if dim in held.dims and dim != "bands"]
    table = (
        frame.to_dataset("bands").to_dataframe(dim_order=list(dict.fromkeys(rows))).reset_index()
    )
    if "t" in table and table["t"].dtype.kind == "M":
        table["t"] = table["t"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    return table.rename(columns={"t": "date", FEATURES: "feature_index"})


def write_csv(cube: xr.DataArray, target: Path) -> None:
    """Write a table."""
    to_table(cube).drop(columns=WKT, errors="ignore").to_csv(target, index=False)


def write_parquet(cube: xr.DataArray, target: Path) -> None:
    """Write a table as GeoParquet, with the geometries and the properties of their features."""
    import geopandas

    table, properties = to_table(cube), cube.attrs.get("properties", [])
    if WKT not in table:
        raise GraphError("needs geometries", code="FormatUnsuitable")
    for key in dict.fromkeys(key for one in properties for key in one):
        told = [one.get(key) for one in properties]
        if key not in table and all(isinstance(v, str | int | float | bool | None) for v in told):
            table[key] = [told[index] for index in table["feature_index"]]
    shapes = shapely.from_wkt(table.pop(WKT).to_numpy())
    geopandas.GeoDataFrame(table, geometry=shapes, crs=4326).to_parquet(target)


def to_json(data: Any) -> Any:
    """Turn a value into what JSON holds; no data is null.

    Of `aggregate_spatial`: for each date, a list per feature of a list of values per band, as
    `openeo.rest.conversions.timeseries_json_to_pandas` reads it.

    Examples
    --------
    >>> to_json([1.5, float("nan"), np.datetime64("2022-06-02")])
    [1.5, None, '2022-06-02T00:00:00Z']
    """
    if isinstance(data, xr.DataArray):
        return to_json(_by_date(data))
    if isinstance(data, da.Array):
        data = data.compute()
    if isinstance(data, Mapping):
        return {str(key): to_json(value) for key, value in data.items()}
    if isinstance(data, list | tuple) or (isinstance(data, np.ndarray) and data.ndim):
        return [to_json(one) for one in data]
    plain = text_of(data)
    plain = plain.item() if isinstance(plain, np.generic | np.ndarray) else plain
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def _by_date(cube: xr.DataArray) -> Any:
    """Order a cube as (t, feature, bands, ...); a mapping by date if it has dates."""
    front = [dim for dim in ("t", FEATURES, "bands") if dim in cube.dims]
    held = cube.transpose(*front, ...).compute()
    if FEATURES in held.dims and "bands" not in held.dims:
        held = held.expand_dims("bands", axis=held.get_axis_num(FEATURES) + 1)
    if "t" not in held.dims:
        return held.to_numpy()
    labels = [str(text_of(label)) for label in held["t"].to_numpy()]
    return dict(zip(labels, held.to_numpy(), strict=True))


def write_json(data: Any, target: Path) -> None:
    """Write a value."""
    target.write_text(json.dumps(to_json(data)), encoding="utf-8")
