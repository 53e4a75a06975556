"""Cubes, labels and composites as NetCDF and Zarr, in the words of CF. Imports no pictures.

Climate and Forecast conventions 1.11, https://cfconventions.org. What is written here comes
back from `xarray.open_dataset(path, decode_coords="all")` as it was: classes as uint8 codes
with their names, reflectance with NaN, dates, CRS.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import rioxarray  # noqa: F401  (registers the .rio accessor)
import xarray as xr
from rasterio.errors import RasterioError

from kappamask import __version__
from kappamask.base.errors import InputError, KappaMaskError, ReadError, WriteError
from kappamask.base.files import staging
from kappamask.predict.cube import flags_of

CONVENTIONS = "CF-1.11"
BLOCK = 512  # pixels along y and x of what is compressed together
# Sensing times are told to the microsecond; whole numbers lose nothing.
TIMES = {"units": "microseconds since 1970-01-01", "calendar": "standard", "dtype": "int64"}
NO_TIME = np.iinfo(np.int64).min
STANDARD_NAMES = {
    "L1C": "toa_bidirectional_reflectance",
    "L2A": "surface_bidirectional_reflectance",
}
ABOUT = {  # coordinates that need words; CF wants a long_name where there is no standard_name
    "band": "Sentinel-2 band",
    "label": "class",
    "common_name": "common name of the band in STAC",
    "source_items": "STAC items of the date",
    "date_count": "dates in the period",
    "clear_fraction": "share of clear pixels",
}


def write_netcdf(data: xr.DataArray | xr.Dataset, path: str | Path) -> Path:
    """Write a cube, labels, probabilities or a composite as a NetCDF 4 file.

    Parameters
    ----------
    data
        What `load_cube`, `predict_cube` or `composite` gave, with a CRS; lazy or loaded.
        Lazy, it is computed block by block.
    path
        Of the file; its folder is made if absent.

    Returns
    -------
    Path
        The file. Labels are ``labels`` (uint8 with ``flag_values`` and ``flag_meanings``,
        no fill value: missing is a class), a cube is ``reflectance`` (float32).

    Raises
    ------
    InputError
        If there is no CRS, or the library netCDF4 is not installed.
    ReadError
        If the data cannot be computed.
    WriteError
        If the file cannot be written; one that was there before stays.

    Examples
    --------
    >>> import tempfile
    >>> labels = xr.DataArray(
    ...     np.array([[[1, 4], [5, 1]]], "uint8"),
    ...     dims=("time", "y", "x"),
    ...     coords={"time": np.array(["2022-06-02T10:15:59"], "M8[ns]"),
    ...             "y": [5154955.0, 5154945.0], "x": [674995.0, 675005.0]},
    ...     attrs={"level": "L2A"},
    ... ).rio.write_crs(32632)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_netcdf(labels, Path(folder) / "june.nc")
    ...     with xr.open_dataset(path, decode_coords="all") as found:
    ...         found.labels.dtype, found.labels.values.tolist(), found.rio.crs.to_epsg()
    (dtype('uint8'), [[[1, 4], [5, 1]]], 32632)
    """
    _need("netCDF4", "netcdf4")
    dataset = to_cf(data)
    for name, variable in dataset.variables.items():
        if variable.dtype.kind in "iuf" and {"y", "x"} <= set(variable.dims):
            sizes = [
                min(size, BLOCK) if dim in ("y", "x") else 1
                for dim, size in zip(variable.dims, variable.shape, strict=True)
            ]
            dataset[name].encoding |= {
                "zlib": True, "complevel": 4, "shuffle": True, "chunksizes": sizes
            }  # fmt: skip
    path = Path(path).absolute()
    return _write(path, lambda aside: dataset.to_netcdf(aside, engine="netcdf4"))


def write_zarr(data: xr.DataArray | xr.Dataset, path: str | Path) -> Path:
    """Write a cube, labels, probabilities or a composite as a Zarr store.

    Parameters
    ----------
    data
        As for `write_netcdf`.
    path
        Of the store, a folder: one that is there is replaced when the new one is complete.

    Returns
    -------
    Path
        The store: Zarr format 2, which all of today's readers know, with consolidated
        metadata. Its chunks are those of the data along y and x.

    Raises
    ------
    InputError
        If there is no CRS, the library zarr is not installed, or a folder that is no Zarr
        store lies at `path`.
    ReadError
        If the data cannot be computed.
    WriteError
        If the store cannot be written; one that was there before stays.

    Examples
    --------
    >>> import tempfile
    >>> labels = xr.DataArray(
    ...     np.array([[[1, 4], [5, 1]]], "uint8"),
    ...     dims=("time", "y", "x"),
    ...     coords={"time": np.array(["2022-06-02T10:15:59"], "M8[ns]"),
    ...             "y": [5154955.0, 5154945.0], "x": [674995.0, 675005.0]},
    ...     attrs={"level": "L2A"},
    ... ).rio.write_crs(32632)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_zarr(labels, Path(folder) / "june.zarr")
    ...     with xr.open_zarr(path) as found:
    ...         found.labels.dtype, found.labels.values.tolist()
    (dtype('uint8'), [[[1, 4], [5, 1]]])
    """
    _need("zarr", "zarr")
    dataset = to_cf(data)
    path = Path(path).absolute()
    if path.exists() and not (path / ".zgroup").exists() and not (path / "zarr.json").exists():
        raise InputError(f"a Zarr store replaces only another one, got {path}: choose another path")
    # Zarr's chunks are of one size; those of labels need not be.
    even = {
        dim: max(sizes) if dim in ("y", "x") else 1 if dim == "time" else -1
        for dim, sizes in dataset.chunksizes.items()
    }
    dataset = dataset.chunk(even)
    return _write(
        path, lambda aside: dataset.to_zarr(aside, zarr_format=2, consolidated=True, mode="w")
    )


def _need(module: str, package: str) -> None:
    from importlib.util import find_spec

    if find_spec(module) is None:
        raise InputError(
            f"this format needs the library {package}, which is not installed: "
            "pip install kappamask[formats]"
        )


def _write(path: Path, write: Callable[[Path], object]) -> Path:
    """Write aside and move; tell what cannot be read from what cannot be written."""
    unreadable: Exception | None = None
    with staging(path.parent, path.name) as folder:
        aside = folder / path.name
        try:
            write(aside)
        except (KappaMaskError, RasterioError) as error:
            unreadable = error
        except RuntimeError as error:  # the NetCDF library's word for a full disk
            raise OSError(str(error)) from error
        else:
            if path.is_dir():
                path.rename(folder / "old")
            aside.replace(path)
    if unreadable is not None:
        if isinstance(unreadable, KappaMaskError) and not isinstance(unreadable, WriteError):
            raise unreadable
        raise ReadError(
            f"all pixels must be readable to be written, got {unreadable}: {path.name} is not "
            "written; leave that date out, or try again"
        ) from unreadable
    return path


# --- the words of CF ----------------------------------------------------------------------------


def to_cf(data: xr.DataArray | xr.Dataset) -> xr.Dataset:
    """Dress data as CF wants it; values and laziness stay.

    Raises
    ------
    InputError
        If it is neither DataArray nor Dataset, or has no CRS.
    """
    if not isinstance(data, xr.DataArray | xr.Dataset):
        raise InputError(
            f"data must be a DataArray or a Dataset, got {type(data).__name__}: pass what "
            "load_cube, predict_cube or composite returned"
        )
    crs = data.rio.crs
    if crs is None:
        raise InputError("data must have a CRS, got none: add it with data.rio.write_crs(...)")
    dataset: xr.Dataset = data.copy() if isinstance(data, xr.Dataset) else _to_dataset(data)
    for variable in dataset.variables.values():
        variable.encoding = {}
        variable.attrs = {
            name: value
            for name, value in variable.attrs.items()
            if value is not None and name not in ("grid_mapping", "transform", "_FillValue")
        }
    dataset = dataset.rio.write_crs(crs).rio.write_coordinate_system()
    if min(dataset.sizes["x"], dataset.sizes["y"]) > 1:  # else its coordinates do not tell
        dataset = dataset.rio.write_transform()  # an older one may be that of a larger array
    for name in dataset.data_vars:
        if dataset[name].dtype.kind == "M":
            dataset[name] = _encode_dates(dataset[name])
        _describe(dataset[name])
        if {"y", "x"} <= set(dataset[name].dims):
            # Without decode_coords="all" the grid mapping stays behind where one variable is taken.
            dataset[name].attrs["crs"] = crs.to_string()
    for name in dataset.coords:
        _describe_coordinate(dataset[name])
    if "time_bounds" in dataset.coords:
        dataset["time_bounds"].encoding = dict(TIMES)
    level = data.attrs.get("level") or "?"
    dataset.attrs = {
        "Conventions": CONVENTIONS,
        "title": f"Sentinel-2 {level}: {', '.join(map(str, dataset.data_vars))}",
        "source": f"Copernicus Sentinel-2 MSI {level}",
        "history": f"kappamask {__version__}",
        "references": "https://doi.org/10.3390/rs13204100",
        "comment": "Contains modified Copernicus Sentinel data",
        **{name: value for name, value in dataset.attrs.items() if value is not None},
    }
    return dataset


def _to_dataset(data: xr.DataArray) -> xr.Dataset:
    """Name a DataArray by what it is; its attributes stay with it."""
    name = "reflectance"
    if data.dtype == np.uint8:
        name = "snow" if data.name == "snow" else "labels"
    elif "label" in data.dims:
        name = "probabilities"
    return data.to_dataset(name=name)


def _encode_dates(variable: xr.DataArray) -> xr.DataArray:
    """Turn dates of pixels into numbers; xarray warns where a block of them holds none."""

    def encode(dates: np.ndarray) -> np.ndarray:
        return np.where(np.isnat(dates), NO_TIME, dates.astype("M8[us]").astype(np.int64))

    encoded: xr.DataArray = xr.apply_ufunc(
        encode, variable, dask="parallelized", output_dtypes=[np.int64]
    )
    words = {name: TIMES[name] for name in ("units", "calendar")}
    encoded = encoded.assign_attrs(variable.attrs | words)
    encoded.encoding = {"_FillValue": NO_TIME}
    return encoded


def _describe(variable: xr.DataArray) -> None:
    """Say in CF's words what a variable is, and how it is stored."""
    name, attrs = str(variable.name), variable.attrs
    if name in ("labels", "snow"):
        for key, words in flags_of(name).items():
            attrs.setdefault(key, words)
        # of the type of the variable; a Zarr store gives them back as a list
        attrs["flag_values"] = np.asarray(attrs["flag_values"], np.uint8)
    if name == "reflectance":
        attrs.setdefault("units", "1")
        if attrs.get("level") in STANDARD_NAMES:
            attrs["standard_name"] = STANDARD_NAMES[attrs["level"]]
    if name == "observations":
        attrs["standard_name"] = "number_of_observations"
    # Missing is a class and 0 a count: only floating point and dates have a fill value.
    fill = np.array(np.nan, variable.dtype)[()] if variable.dtype.kind == "f" else None
    variable.encoding = {"_FillValue": fill} | variable.encoding
    if {"y", "x"} <= set(variable.dims):
        variable.encoding["grid_mapping"] = "spatial_ref"


def _describe_coordinate(coordinate: xr.DataArray) -> None:
    name = str(coordinate.name)
    if name == "time":
        coordinate.attrs |= {"standard_name": "time", "long_name": "sensing time", "axis": "T"}
        coordinate.encoding = dict(TIMES)
    if name in ABOUT:
        coordinate.attrs.setdefault("long_name", ABOUT[name])
    if name in ("date_count", "clear_fraction"):
        coordinate.attrs.setdefault("units", "1")
    if coordinate.dtype.kind == "f":
        coordinate.encoding["_FillValue"] = None  # coordinates have no gaps
