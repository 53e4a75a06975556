"""`save_result`: lazy cubes to files, block by block.

A graph is evaluated first, and what its nodes save is written then. All GeoTIFFs of one grid are
computed in one go, so that what dates, files or nodes share is computed once; a block is written
as soon as it is there. Files appear whole.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import shapely
import xarray as xr

from kappamask.base.errors import KappaMaskError
from kappamask.base.files import staging
from kappamask.base.legend import LEGEND, SNOW_LEGEND, Label, Snow
from kappamask.openeo.engine.dimensions import date_cube
from kappamask.openeo.engine.flat_graph import OF_ARGUMENTS, ArgumentError, GraphError, error_at
from kappamask.openeo.engine.spatial import FEATURES, WKT
from kappamask.openeo.engine.tables import write_csv, write_json, write_parquet
from kappamask.openeo.engine.udfs import Log
from kappamask.outputs.cog import BlockError, Layer, Placement, write_layers
from kappamask.predict.chunk import OUTPUT_BANDS

LEGENDS = {OUTPUT_BANDS["labels"]: LEGEND, OUTPUT_BANDS["snow"]: SNOW_LEGEND}
PICTURE = 25_000_000  # pixels of the largest picture: it is held in memory


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


@dataclass(frozen=True)
class Saving:
    """What a node saves: checked, and not computed yet."""

    data: Any  # of one of the kinds that the format holds
    format: Format
    options: Mapping[str, Any]
    prefix: str  # of the files' names
    folder: Path

    @property
    def grid(self) -> Placement | None:
        """Where its pixels lie, of GeoTIFFs: those of one grid are written together."""
        if self.format.write is not None:
            return None
        cube = date_cube(self.data)
        return Placement(cube.rio.crs, cube.rio.transform(), (cube.sizes["y"], cube.sizes["x"]))

    def names(self) -> list[str]:
        """Name its files."""
        stems = [self.prefix]
        if self.format.per_date:
            stems = split_dates(self.data, self.prefix)[2]
        return [f"{stem}{self.format.suffix}" for stem in stems]


def plan_saving(
    data: Any,
    format: str,  # noqa: A002  as the process names it
    options: Mapping[str, Any] | None = None,
    *,
    folder: Path | None,
    log: Log | None = None,
) -> Saving:
    """Check what `save_result` is asked for; `write_all` writes it.

    Parameters
    ----------
    data
        Cube with y and x, t and bands may be absent; or what `aggregate_spatial` gave; or,
        as JSON, any value.
    format
        One of `FORMATS`, in any case.
    options
        ``filename_prefix``, as on other back ends, and those that the format lists; others
        have no effect.
    folder
        Where to.
    log
        Hears of options that have no effect.

    Raises
    ------
    GraphError
        FormatUnsuitable, or if there is no folder.
    """
    if folder is None:
        raise GraphError("writes files, but the engine has no folder: LocalEngine(folder=...)")
    names = {name.lower(): one for name, one in FORMATS.items()} | {"geotiff": FORMATS["GTiff"]}
    if (chosen := names.get(format.lower())) is None:
        raise GraphError(
            f"unknown format {format!r}: expected one of {', '.join(FORMATS)}",
            code="FormatUnsuitable",
        )
    kind = kind_of(data)
    if kind not in chosen.kinds:
        fitting = [name for name, one in FORMATS.items() if kind in one.kinds]
        told = getattr(data, "dims", type(data).__name__)
        raise GraphError(
            f"{format} holds no {kind} ({told}): use {' or '.join(fitting)}",
            code="FormatUnsuitable",
        )
    given = {key: value for key, value in (options or {}).items() if value is not None}
    unknown = [key for key in given if key not in chosen.parameters]
    if unknown and log is not None:
        log("warning", f"save_result: options without effect for {format}: {', '.join(unknown)}")
    prefix = str(given.get("filename_prefix") or "openEO")
    if not prefix.replace("-", "").replace("_", "").isalnum():
        raise ArgumentError(f"a filename_prefix is letters, digits, - and _, got {prefix!r}")
    saving = Saving(data, chosen, given, prefix, folder)
    saving.names()  # refuses dimensions that files do not have
    return saving


def save_result(
    data: Any,
    format: str,  # noqa: A002
    options: Mapping[str, Any] | None = None,
    *,
    folder: Path,
) -> list[Path]:
    """Write at once what `plan_saving` takes; returns the files, raises what both raise."""
    return write_all({"": plan_saving(data, format, options, folder=folder)})[""]


def write_all(savings: Mapping[str, Saving]) -> dict[str, list[Path]]:
    """Compute what nodes save, and write it; returns the files of each.

    Raises
    ------
    GraphError
        Names the node; if files of two nodes had one name, before anything is computed.
    WriteError
        If the folder cannot be written to; nothing half-written is left.
    """
    savers: dict[str, str] = {}
    for node, saving in savings.items():
        for name in saving.names():
            if (other := savers.setdefault(name, node)) != node:
                raise error_at(
                    node,
                    "save_result",
                    ArgumentError(
                        f"files of two nodes have names of their own, got {name} of {other!r} "
                        "too: give each a filename_prefix"
                    ),
                )
    together: dict[Any, list[str]] = {}
    for node, saving in savings.items():
        together.setdefault(saving.grid or node, []).append(node)
    written: dict[str, list[Path]] = {}
    for nodes in together.values():
        try:
            written |= zip(nodes, _write([savings[node] for node in nodes]), strict=True)
        except (MemoryError, RecursionError):
            raise
        except Exception as error:  # UDFs raise anything
            raise error_at(", ".join(nodes), "save_result", error) from error
    return written


def _write(savings: Sequence[Saving]) -> list[list[Path]]:
    """Write one, or several GeoTIFFs of one grid."""
    first = savings[0]
    with staging(first.folder, first.names()[0]) as aside:
        try:
            if first.format.write is None:
                files = write_geotiffs(savings, aside)
            else:
                path = aside / f"{first.prefix}{first.format.suffix}"
                files = [first.format.write(first.data, path, first.options)]
        except KappaMaskError:
            raise
        except (*OF_ARGUMENTS, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "illegal characters" not in str(error):
                raise  # HDF5's words for a full disk
            raise GraphError(
                f"writes cubes whose labels are texts, got {error}: rename_labels",
                code="FormatUnsuitable",
            ) from error
        return [[path.replace(first.folder / path.name) for path in own] for own in files]


def kind_of(data: Any) -> str:
    """Tell what is to be written: raster, vector, table (a cube without places) or other.

    Examples
    --------
    >>> kind_of(8.5), kind_of(xr.DataArray(np.zeros((2, 2)), dims=("y", "x")))
    ('other', 'raster')
    """
    if not isinstance(data, xr.DataArray):
        return "other"
    if {"x", "y"} <= set(data.dims):
        return "raster"
    return "vector" if FEATURES in data.dims else "table"


# --- GeoTIFF -------------------------------------------------------------------------------


def write_geotiffs(savings: Sequence[Saving], folder: Path) -> list[list[Path]]:
    """Write one cloud-optimised GeoTIFF per date of cubes of one grid."""
    own = [layers_of(saving.data, saving.prefix) for saving in savings]
    grid: Any = savings[0].grid
    try:
        made = iter(write_layers(list(chain(*own)), folder, grid))
    except BlockError as error:  # what a UDF raised, say
        raise (error.__cause__ or error) from None
    return [list(islice(made, len(layers))) for layers in own]


def layers_of(cube: xr.DataArray, prefix: str) -> list[Layer]:
    """Say how each date is stored."""
    kind = Kind.of(cube)
    scene, bands, names = split_dates(cube, prefix)
    scene = kind.encode(scene)
    colors: dict[int, tuple[int, ...]] = {int(e.label): e.rgb for e in LEGENDS.get(bands, ())}
    dates = list(scene.data) if "t" in scene.dims else [scene.data]
    return [
        Layer(f"{name}.tif", pixels, bands, kind.nodata, kind.resampling, colors=colors)
        for name, pixels in zip(names, dates, strict=True)
    ]


def split_dates(cube: xr.DataArray, prefix: str) -> tuple[xr.DataArray, tuple[str, ...], list[str]]:
    """Bring a cube into the form of files: ((t,) bands, y, x), names of bands, names of files.

    Raises
    ------
    GraphError
        FormatUnsuitable, if it has further dimensions.
    """
    extra = [str(dim) for dim in cube.dims if dim not in ("t", "bands", "y", "x")]
    if extra:
        raise GraphError(
            f"writes t, bands, y and x, got also {', '.join(extra)}: reduce or rename dimensions",
            code="FormatUnsuitable",
        )
    scene = date_cube(cube if "bands" in cube.dims else cube.expand_dims("bands"))
    scene = scene.transpose("t", "bands", "y", "x", missing_dims="ignore")
    bands = ("",) * scene.sizes["bands"]
    if "bands" in scene.coords:
        bands = tuple(map(str, np.atleast_1d(scene["bands"].to_numpy())))
    names = date_names(scene["t"].to_numpy(), prefix) if "t" in scene.dims else [prefix]
    return scene, bands, names


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


# --- PNG -----------------------------------------------------------------------------------


def write_pngs(cube: xr.DataArray, path: Path, options: Mapping[str, Any]) -> list[Path]:
    """Write one picture per date: labels in their colours, else grey or red, green, blue."""
    from PIL import Image

    scene, bands, names = split_dates(cube, path.stem)
    if len(bands) not in (1, 3) or scene.sizes["y"] * scene.sizes["x"] > PICTURE:
        raise GraphError(
            f"a picture has 1 or 3 bands and at most {PICTURE} pixels, got {len(bands)} of "
            f"{scene.sizes['y']} x {scene.sizes['x']}: filter_bands, resample_spatial, or save COG",
            code="FormatUnsuitable",
        )
    written = []
    for index, name in enumerate(names):
        date = scene.isel(t=index) if "t" in scene.dims else scene
        values = date.to_numpy().astype(np.float32)
        target = path.with_name(f"{name}.png")
        Image.fromarray(paint(values, bands, options)).save(target)
        written.append(target)
    return written


def paint(values: np.ndarray, bands: tuple[str, ...], options: Mapping[str, Any]) -> np.ndarray:
    """Turn one date (bands, y, x) into colours with opacity, uint8 (y, x, 4)."""
    seen = ~np.isnan(values).any(axis=0)
    if bands in LEGENDS:
        palette = np.zeros((256, 3), np.uint8)
        for entry in LEGENDS[bands]:
            palette[int(entry.label)] = entry.rgb
        colors = palette[np.where(seen, values[0], 0).astype(np.uint8)]
    else:
        held = values[:, seen] if seen.any() else np.zeros((1, 1))
        low = float(options.get("min", np.percentile(held, 2)))
        high = float(options.get("max", np.percentile(held, 98)))
        share = np.nan_to_num((values - low) / ((high - low) or 1.0))
        colors = np.moveaxis(np.clip(share * 255, 0, 255).astype(np.uint8), 0, -1)
        colors = np.broadcast_to(colors, (*seen.shape, 3))
    return np.dstack([colors, np.where(seen, 255, 0).astype(np.uint8)])


# --- netCDF and Zarr -----------------------------------------------------------------------


def to_dataset(cube: xr.DataArray) -> xr.Dataset:
    """Give a dataset with CF coordinates, a variable per band, stored as `Kind` says."""
    kind = Kind.of(cube)
    dated = date_cube(cube)
    kept = {*dated.dims, "spatial_ref", WKT}
    plain = kind.encode(dated.drop_vars([name for name in dated.coords if name not in kept]))
    plain.attrs = {}
    stored: dict[str, Any] = {"_FillValue": kind.nodata}
    if "bands" in plain.dims:
        named = plain.assign_coords(bands=[str(name) for name in plain["bands"].to_numpy()])
        dataset = named.to_dataset("bands")
    else:
        dataset = plain.to_dataset(name="var")  # as Copernicus calls it
    if cube.rio.crs is not None and kind_of(cube) == "raster":
        dataset = dataset.rio.write_crs(cube.rio.crs)
        stored["grid_mapping"] = "spatial_ref"
    if WKT in dataset.coords:
        points = shapely.centroid(shapely.from_wkt(dataset[WKT].to_numpy()))
        places = {
            "lon": (FEATURES, shapely.get_x(points)),
            "lat": (FEATURES, shapely.get_y(points)),
        }
        dataset = dataset.assign_coords(places)
    for name in dataset:
        dataset[name].encoding = dict(stored)
    return dataset


def write_netcdf(cube: xr.DataArray, target: Path) -> None:
    """Write one netCDF 4 file."""
    dataset = to_dataset(cube)
    for name in dataset:
        dataset[name].encoding |= {"zlib": True, "complevel": 1}
    dataset.to_netcdf(target, engine="netcdf4")


def write_zarr(cube: xr.DataArray, target: Path) -> None:
    """Write one Zarr store, zipped: it opens as it is."""
    dataset = to_dataset(cube)
    even = {dim: max(sizes) for dim, sizes in dataset.chunksizes.items()}
    store = target.with_suffix("")
    dataset.chunk(even).to_zarr(store, zarr_format=2, consolidated=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(store.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(store))


# --- all formats ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Format:
    """A file format: what it holds, and how it is written."""

    title: str
    kinds: tuple[str, ...]  # see `kind_of`
    suffix: str
    write: Callable[[Any, Path, Mapping[str, Any]], list[Path]] | None  # None: by `write_geotiffs`
    parameters: Mapping[str, Any] = field(default_factory=lambda: PARAMETERS)
    per_date: bool = False  # a file of each date, not one of all

    def document(self) -> dict[str, Any]:
        """Describe it as the openEO API does."""
        types = [kind for kind in self.kinds if kind != "other"]
        return {
            "title": self.title,
            "gis_data_types": types or ["other"],
            "parameters": self.parameters,
        }


def whole(
    write: Callable[[Any, Path], None],
) -> Callable[[Any, Path, Mapping[str, Any]], list[Path]]:
    """Make a writer of all dates of one that writes one file."""

    def write_whole(data: Any, path: Path, options: Mapping[str, Any]) -> list[Path]:
        del options
        write(data, path)
        return [path]

    return write_whole


def _number(description: str) -> dict[str, Any]:
    return {"type": "number", "description": description}


PARAMETERS: Mapping[str, Any] = {  # as /file_formats lists them
    "filename_prefix": {
        "type": "string",
        "default": "openEO",
        "description": "What the names of the files begin with.",
    }
}
STRETCH: Mapping[str, Any] = {
    **PARAMETERS,
    "min": _number("Value drawn black; without it, 2 % of the pixels are below."),
    "max": _number("Value drawn white; without it, 2 % of the pixels are above."),
}
IMAGE = ("raster",)
DATED: Mapping[str, Any] = {"write": None, "per_date": True}
FORMATS: Mapping[str, Format] = {
    "GTiff": Format("GeoTIFF, cloud-optimised, a file per date", IMAGE, ".tif", **DATED),
    "COG": Format("Cloud-optimised GeoTIFF, a file per date", IMAGE, ".tif", **DATED),
    "netCDF": Format("netCDF 4", ("raster", "vector"), ".nc", whole(write_netcdf)),
    "Zarr": Format("Zarr 2, zipped", ("raster", "vector"), ".zarr.zip", whole(write_zarr)),
    "PNG": Format("PNG, a picture per date", IMAGE, ".png", write_pngs, STRETCH, per_date=True),
    "JSON": Format("JSON", ("vector", "table", "other"), ".json", whole(write_json)),
    "CSV": Format("Comma-separated values", ("vector", "table"), ".csv", whole(write_csv)),
    "Parquet": Format("GeoParquet", ("vector",), ".parquet", whole(write_parquet)),
}
