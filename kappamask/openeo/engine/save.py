"""`save_result`: lazy cubes to files, block by block.

Everything that a cube needs is computed in one go, so that what dates or files share
is computed once; a block is written as soon as it is there. Files appear whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from kappamask.base.errors import KappaMaskError
from kappamask.base.files import staging
from kappamask.base.legend import LEGEND, SNOW_LEGEND, Label, Snow
from kappamask.openeo.engine.flat_graph import OF_ARGUMENTS, ArgumentError, GraphError
from kappamask.outputs.cog import BlockError, Layer, Placement, write_layers
from kappamask.predict.chunk import OUTPUT_BANDS


@dataclass(frozen=True)
class Kind:
    """How values are stored."""

    dtype: str
    nodata: float | None
    resampling: str  # of the overviews

    @classmethod
    def of(cls, cube: xr.DataArray) -> Kind:
        """Labels, masks and snow are uint8, whole-number types stay, everything else is float32."""
        bands = tuple(map(str, cube["bands"].to_numpy())) if "bands" in cube.dims else ()
        if bands == OUTPUT_BANDS["labels"]:
            return cls("uint8", int(Label.MISSING), "MODE")
        if bands == OUTPUT_BANDS["snow"]:
            return cls("uint8", int(Snow.MISSING), "MODE")
        if bands == OUTPUT_BANDS["mask"] or cube.dtype == bool:
            return cls("uint8", None, "MODE")
        if cube.dtype.kind in "ui" and cube.dtype.itemsize <= 4:
            return cls(cube.dtype.name, None, "NEAREST")
        return cls("float32", math.nan, "AVERAGE")

    def encode(self, cube: xr.DataArray) -> xr.DataArray:
        """Turn values into stored ones, lazily."""
        pixels = cube.data if isinstance(cube.data, da.Array) else da.from_array(cube.to_numpy())
        if self.dtype == str(cube.dtype):
            return cube.copy(data=pixels)
        return cube.copy(data=da.map_blocks(self._encode, pixels, dtype=self.dtype))

    def _encode(self, values: np.ndarray) -> np.ndarray:
        if self.dtype == "uint8" and values.dtype.kind == "f":
            values = np.where(np.isnan(values), self.nodata or 0, values)
        return values.astype(self.dtype)


def save_result(
    data: xr.DataArray,
    format: str,  # noqa: A002  as the process names it
    options: Mapping[str, Any] | None = None,
    *,
    folder: Path | None,
) -> list[Path]:
    """Compute a cube and write it; returns the files.

    Parameters
    ----------
    data
        Cube with y and x; t and bands may be absent.
    format
        ``"GTiff"``: a cloud-optimised GeoTIFF per date, labels as uint8 with their
        colours; or ``"netCDF"``: one file, a variable per band.
    options
        ``filename_prefix``, as on other back ends.
    folder
        Where to.

    Raises
    ------
    GraphError
        FormatUnsuitable, or if there is no folder.
    WriteError
        If the folder cannot be written to; nothing half-written is left.
    """
    if folder is None:
        raise GraphError("writes files, but the engine has no folder: LocalEngine(folder=...)")
    if not isinstance(data, xr.DataArray) or not {"x", "y"} <= set(data.dims):
        raise GraphError(
            f"writes raster cubes with x and y, got {getattr(data, 'dims', type(data).__name__)}",
            code="FormatUnsuitable",
        )
    write = WRITERS.get(format.lower())
    if write is None:
        raise GraphError(
            f"unknown format {format!r}: expected one of {', '.join(FORMATS)}",
            code="FormatUnsuitable",
        )
    prefix = str((options or {}).get("filename_prefix") or "openEO")
    if not prefix.replace("-", "").replace("_", "").isalnum():
        raise ArgumentError(f"a filename_prefix is letters, digits, - and _, got {prefix!r}")
    with staging(folder, f"{prefix} ({format})") as aside:
        try:
            written = write(data, Kind.of(data), aside / prefix)
        except KappaMaskError:
            raise
        except (*OF_ARGUMENTS, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "illegal characters" not in str(error):
                raise  # HDF5's words for a full disk
            raise GraphError(
                f"writes cubes whose labels are texts, got {error}: rename_labels",
                code="FormatUnsuitable",
            ) from error
        return [path.replace(folder / path.name) for path in written]


# --- GeoTIFF -------------------------------------------------------------------------------


def write_geotiffs(cube: xr.DataArray, kind: Kind, path: Path) -> list[Path]:
    """Write one cloud-optimised GeoTIFF per date, beside `path`."""
    extra = [str(dim) for dim in cube.dims if dim not in ("t", "bands", "y", "x")]
    if extra:
        raise GraphError(
            f"writes t, bands, y and x, got also {', '.join(extra)}: reduce or rename dimensions",
            code="FormatUnsuitable",
        )
    scene = cube if "bands" in cube.dims else cube.expand_dims("bands")
    scene = kind.encode(scene.transpose("t", "bands", "y", "x", missing_dims="ignore"))
    bands = ("",) * scene.sizes["bands"]
    if "bands" in scene.coords:
        bands = tuple(map(str, np.atleast_1d(scene["bands"].to_numpy())))
    legends = {OUTPUT_BANDS["labels"]: LEGEND, OUTPUT_BANDS["snow"]: SNOW_LEGEND}
    colors: dict[int, tuple[int, ...]] = {int(e.label): e.rgb for e in legends.get(bands, ())}
    names, dates = [path.name], [scene.data]
    if "t" in scene.dims:
        names, dates = date_names(cube["t"].to_numpy(), path.name), list(scene.data)
    layers = [
        Layer(f"{name}.tif", pixels, bands, kind.nodata, kind.resampling, colors=colors)
        for name, pixels in zip(names, dates, strict=True)
    ]
    shape = scene.sizes["y"], scene.sizes["x"]
    placement = Placement(scene.rio.crs, scene.rio.transform(), shape)
    try:
        return write_layers(layers, path.parent, placement)
    except BlockError as error:  # what a UDF raised, say
        raise (error.__cause__ or error) from None


def date_names(times: np.ndarray, prefix: str) -> list[str]:
    """Name a file per date, as Copernicus does; with the time of day where a date has several.

    Examples
    --------
    >>> date_names(np.array(["2022-06-02", "2022-06-05"], "M8[ns]"), "openEO")
    ['openEO_2022-06-02Z', 'openEO_2022-06-05Z']
    """
    if times.dtype.kind != "M":
        return [f"{prefix}_{''.join(c if c.isalnum() else '-' for c in str(t))}" for t in times]
    days = [str(day) for day in times.astype("M8[D]")]
    if len(set(days)) == len(days):
        return [f"{prefix}_{day}Z" for day in days]
    return [f"{prefix}_{str(time).replace(':', '')}Z" for time in times.astype("M8[s]")]


# --- netCDF --------------------------------------------------------------------------------


def write_netcdf(cube: xr.DataArray, kind: Kind, path: Path) -> list[Path]:
    """Write one netCDF 4 file with CF coordinates, a variable per band."""
    kept = {*cube.dims, "spatial_ref"}
    plain = kind.encode(cube.drop_vars([name for name in cube.coords if name not in kept]))
    plain.attrs = {}
    stored: dict[str, Any] = {"zlib": True, "complevel": 1, "_FillValue": kind.nodata}
    dataset = (
        plain.to_dataset("bands") if "bands" in plain.dims else plain.to_dataset(name="result")
    )
    if cube.rio.crs is not None:
        dataset = dataset.rio.write_crs(cube.rio.crs)
        stored["grid_mapping"] = "spatial_ref"
    encoding = {str(name): dict(stored) for name in dataset}
    target = path.with_name(f"{path.name}.nc")
    dataset.to_netcdf(target, engine="netcdf4", encoding=encoding)
    return [target]


FORMATS = ("GTiff", "netCDF")
WRITERS = {"gtiff": write_geotiffs, "geotiff": write_geotiffs, "netcdf": write_netcdf}
