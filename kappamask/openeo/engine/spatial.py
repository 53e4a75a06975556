"""Processes of the pixel grid and of geometries; all lazy.

Replacements of those of openeo-processes-dask 2026.9, with the reasons at each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import geopandas
import numpy as np
import odc.geo.xr
import shapely
import xarray as xr
from odc.geo.geobox import GeoBox
from pyproj import CRS
from rasterio.features import geometry_mask

from kappamask.base.errors import UnknownNameError
from kappamask.openeo.engine import library
from kappamask.openeo.engine.dimensions import STARTS
from kappamask.openeo.engine.flat_graph import ArgumentError, GraphError

FEATURES, STATISTICS = "geometry", "statistics"  # dimensions of what geometries are aggregated to
WKT = "wkt"  # coordinate along the features: each as text, in degrees
METHODS = {"near": "nearest", "cubicspline": "cubic_spline", "geocode": "nearest"}
RESAMPLINGS = (
    *("near", "bilinear", "cubic", "cubicspline", "lanczos", "average", "mode", "max", "min"),
    *("med", "q1", "q3", "geocode"),
)


# --- geometries ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Geometries:
    """What a graph says of places, by feature."""

    degrees: list[shapely.Geometry]
    projected: list[shapely.Geometry]  # in the CRS of the cube
    properties: list[dict[str, Any]]


def read_geometries(geojson: Any, cube: xr.DataArray) -> Geometries:
    """Read GeoJSON of any kind; the library takes polygons and collections of such only.

    Raises
    ------
    ArgumentError
        If it is an address, or no GeoJSON.
    """
    if not isinstance(geojson, Mapping):
        raise ArgumentError(
            f"takes GeoJSON in the graph itself, got {str(geojson)[:80]!r}: inline the geometries"
        )
    kind, name = geojson.get("type"), None
    features: Any = geojson.get("features") if kind == "FeatureCollection" else [geojson]
    if isinstance(geojson.get("crs"), Mapping):
        name = (geojson["crs"].get("properties") or {}).get("name")
    shapes, properties = [], []
    try:
        for feature in features:
            is_feature = feature.get("type") == "Feature"
            shape = feature.get("geometry") if is_feature else feature
            if shape is not None:
                shapes.append(shapely.geometry.shape(shape))
                properties.append(dict(feature.get("properties") or {}) if is_feature else {})
        held = geopandas.GeoSeries(shapes, crs=name or 4326)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"takes GeoJSON, got {str(geojson)[:80]}: {error}") from None
    if not shapes or any(shape.is_empty for shape in shapes):
        raise ArgumentError(f"takes geometries with coordinates, got {str(geojson)[:80]}")
    there = held.to_crs(find_crs(cube))
    return Geometries([*held.to_crs(4326)], [*there], properties)


def find_crs(cube: xr.DataArray) -> CRS:
    """Find the CRS of a cube.

    Raises
    ------
    GraphError
        If it has none.
    """
    found = cube.rio.crs or cube.attrs.get("crs")
    if found is None or not {"x", "y"} <= set(cube.dims):
        raise GraphError(f"needs a raster cube of x and y with a CRS, got {cube.dims}")
    return CRS.from_user_input(found)


def pixels_within(geometry: shapely.Geometry, cube: xr.DataArray) -> np.ndarray:
    """Tell which pixels belong to a geometry: bool (y, x).

    Of an area those whose centre lies in it, of lines those that they cross, of points those that
    hold them.
    """
    box = _geobox(cube)
    rasterized: np.ndarray = geometry_mask(
        [geometry],
        out_shape=box.shape,
        transform=box.affine,
        all_touched="Polygon" not in geometry.geom_type and "Collection" not in geometry.geom_type,
        invert=True,
    )
    return rasterized


def mask_polygon(
    data: xr.DataArray, mask: Any, replacement: Any = None, inside: bool = False
) -> xr.DataArray:
    """Replace pixels outside of polygons, or inside; the library has it the other way round.

    And it takes no holes, no multipolygons and no single features.
    """
    geometries = read_geometries(mask, data)
    within = pixels_within(shapely.union_all(geometries.projected), data)
    return _replace_outside(data, within != inside, replacement)


def _replace_outside(data: xr.DataArray, pixels: np.ndarray, value: Any = None) -> xr.DataArray:
    kept = xr.DataArray(pixels, dims=("y", "x"))
    if isinstance(data.data, da.Array):
        kept = kept.chunk({dim: data.chunksizes[dim] for dim in ("y", "x")})
    return data.where(kept, np.nan if value is None else value)


def filter_spatial(data: xr.DataArray, geometries: Any) -> xr.DataArray:
    """Cut out the pixels of geometries; the library takes no features and no multipolygons."""
    place = shapely.union_all(read_geometries(geometries, data).projected)
    west, south, east, north = place.bounds
    within = pixels_within(place, data)
    height, width = np.abs(_geobox(data).resolution.yx)

    def reach(dim: str, low: float, high: float, held: Any, size: float) -> np.ndarray:
        centres = data[dim].to_numpy()
        met = held | ((centres >= low) & (centres <= high))
        # Between two centres: the pixels themselves, not their centres.
        return met if met.any() else np.abs(centres - (low + high) / 2) <= (high - low + size) / 2

    columns = reach("x", west, east, within.any(axis=0), width)
    rows = reach("y", south, north, within.any(axis=1), height)
    if not columns.any() or not rows.any():
        raise GraphError(
            "none of the pixels lies in the bounds of the geometries: compare their coordinates "
            "(longitude first) with the spatial_extent",
            code="NoDataAvailable",
        )
    kept = _replace_outside(data, within)  # before the cut, after which one pixel has no size
    return kept.isel(x=np.flatnonzero(columns), y=np.flatnonzero(rows))


def aggregate_spatial(
    data: xr.DataArray,
    geometries: Any,
    reducer: Callable[..., Any],
    target_dimension: str | None = None,
    context: Any = None,
) -> xr.DataArray:
    """Reduce the pixels of every geometry, lazily.

    The library hands the cube to xvec, which finds the geometry no index, knows neither points
    nor lines, and opens whatever address a text names
    (https://github.com/Open-EO/openeo-processes-dask/issues/119).

    Returns
    -------
    xarray.DataArray
        The dimensions of the cube without y and x, after them ``geometry``; where the reducer
        gives several values, ``statistics`` at the end. NaN where a geometry holds no pixel.
    """
    if target_dimension is not None:
        raise ArgumentError("counts no pixels beside the values: leave target_dimension out")
    held = read_geometries(geometries, data)
    ordered = data.transpose(..., "y", "x")
    found = []
    for geometry in held.projected:
        rows, columns = np.nonzero(pixels_within(geometry, data))
        values = _pick_pixels(ordered.data, rows, columns)
        result = reducer(
            values,
            positional_parameters={"data": 0},
            named_parameters={"context": context},
            axis=values.ndim - 1,
        )
        if isinstance(result, list):  # array_create of several reductions
            result = np.stack(result, axis=-1)
        found.append(result)
    joined = np.stack(found, axis=ordered.ndim - 2)
    dims = [*ordered.dims[:-2], FEATURES, *([STATISTICS] if joined.ndim == ordered.ndim else [])]
    kept = [name for name in ordered.coords if not {"x", "y"} & set(ordered[name].dims)]
    coords: dict[Any, Any] = {name: ordered.coords[name] for name in kept if name != "spatial_ref"}
    coords[FEATURES] = np.arange(len(found))
    coords[WKT] = (FEATURES, [shapely.to_wkt(shape) for shape in held.degrees])
    if STATISTICS in dims:
        coords[STATISTICS] = _name_statistics(reducer, joined.shape[-1])
    return xr.DataArray(joined, coords, dims, attrs={"properties": held.properties})


def _pick_pixels(values: Any, rows: np.ndarray, columns: np.ndarray) -> Any:
    """Gather pixels of (..., y, x) as (..., pixel); one of NaN where there is none."""
    if not rows.size:
        return np.full((*values.shape[:-2], 1), np.nan, np.float32)
    if not isinstance(values, da.Array):
        return values[..., rows, columns]
    top, left = rows.min(), columns.min()
    part = values[..., top : rows.max() + 1, left : columns.max() + 1]
    index = (*(slice(None),) * (part.ndim - 2), rows - top, columns - left)
    return da.moveaxis(part.vindex[index], 0, -1)


def _name_statistics(reducer: Any, count: int) -> list[str]:
    """Name several values of a reducer by the processes that give them, else by numbers."""
    graph = getattr(reducer, "graph", {})
    listed = [
        node["arguments"].get("data")
        for node in graph.values()
        if node["process_id"] == "array_create" and node.get("result")
    ]
    if listed and all(isinstance(one, dict) and "from_node" in one for one in listed[0]):
        names = [str(graph[one["from_node"]]["process_id"]) for one in listed[0]]
        if len(set(names)) == len(names) == count:
            return names
    return [str(n) for n in range(count)]


# --- the pixel grid --------------------------------------------------------------------------


def _geobox(cube: xr.DataArray) -> GeoBox:
    """Read the grid of a cube off its coordinates; a side of one pixel takes its size of the other.

    Raises
    ------
    GraphError
        If the cube has no CRS, or one pixel.
    """
    steps = {}
    for dim in ("x", "y"):
        told = cube[dim].to_numpy().astype(float)
        steps[dim] = (told[-1] - told[0]) / (told.size - 1) if told.size > 1 else 0.0
    if not any(steps.values()):
        raise GraphError("needs a cube of more than one pixel to know their size")
    steps["x"] = steps["x"] or abs(steps["y"])
    steps["y"] = steps["y"] or -abs(steps["x"])
    left, top = (float(cube[dim][0]) - steps[dim] / 2 for dim in ("x", "y"))
    affine = odc.geo.geobox.Affine(steps["x"], 0, left, 0, steps["y"], top)
    return GeoBox((cube.sizes["y"], cube.sizes["x"]), affine, find_crs(cube))


def warp(data: xr.DataArray, box: GeoBox, method: str) -> xr.DataArray:
    """Resample to a grid, lazily; where nothing was seen, NaN."""
    if method not in RESAMPLINGS:
        raise UnknownNameError.of("method", str(method), [*RESAMPLINGS])
    values = data if data.dtype.kind == "f" else data.astype(np.float32)
    grid = _geobox(data)
    scene = values.transpose(..., "y", "x").drop_vars(["x", "y", "spatial_ref"], errors="ignore")
    scene = scene.assign_coords(odc.geo.xr.xr_coords(grid, dims=("y", "x")))
    warped = scene.odc.reproject(
        box, resampling=METHODS.get(method, method), dst_nodata=float("nan")
    )
    names = dict(zip(warped.odc.spatial_dims, ("y", "x"), strict=True))
    warped = warped.rename({old: new for old, new in names.items() if old != new})
    warped.attrs = {key: value for key, value in data.attrs.items() if key != "crs"}
    return warped.rio.write_crs(str(box.crs)).transpose(*data.dims)  # type: ignore[no-any-return]


def resample_spatial(
    data: xr.DataArray,
    resolution: float | Sequence[float] = 0,
    projection: Any = None,
    method: str = "near",
    align: str = "upper-left",
) -> xr.DataArray:
    """Resample to another pixel size or CRS; the library ignores the corner to align to."""
    if align not in library.CORNERS:
        raise UnknownNameError.of("corner", str(align), [*library.CORNERS])
    grid = _geobox(data)
    crs = find_crs(data) if projection is None else CRS.from_user_input(projection)
    steps = np.broadcast_to(np.abs(np.asarray(resolution, float)), 2)
    here = crs == find_crs(data)
    if here:
        west, south, east, north = grid.extent.boundingbox
    else:
        west, south, east, north = grid.extent.to_crs(crs, resolution="auto").boundingbox
    if not steps.all():
        fitting = grid.resolution if here else odc.geo.gridspec_resolution(grid, crs)
        steps = np.where(steps, steps, np.abs(fitting.xy))
    width, height = (
        max(1, int(np.ceil(length / step - 1e-6)))
        for length, step in zip((east - west, north - south), steps, strict=True)
    )
    left = west if align.endswith("left") else east - width * steps[0]
    top = north if align.startswith("upper") else south + height * steps[1]
    affine = odc.geo.geobox.Affine(steps[0], 0, left, 0, -steps[1], top)
    return warp(data, GeoBox((height, width), affine, crs), method)


def resample_cube_spatial(
    data: xr.DataArray, target: xr.DataArray, method: str = "near"
) -> xr.DataArray:
    """Resample to the grid of another cube, whose coordinates it gets exactly."""
    warped = warp(data, _geobox(target), method)
    return warped.assign_coords(x=target["x"].to_numpy(), y=target["y"].to_numpy())


def align_grids(data: xr.DataArray, target: xr.DataArray) -> xr.DataArray:
    """Give a cube the grid of another one, resampled only where it differs by a millimetre."""
    dims = [dim for dim in ("x", "y") if dim in data.dims and dim in target.dims]
    ours, theirs = ([cube[dim].to_numpy() for dim in dims] for cube in (data, target))
    for one, other in zip(ours, theirs, strict=True):
        if one.shape != other.shape or not np.allclose(one, other, rtol=0, atol=1e-3):
            return resample_cube_spatial(data, target)
    return data.assign_coords({dim: target[dim].to_numpy() for dim in dims})


# --- merging ---------------------------------------------------------------------------------


def merge_cubes(
    cube1: xr.DataArray,
    cube2: xr.DataArray,
    overlap_resolver: Callable[..., Any] | None = None,
    context: Any = None,
) -> xr.DataArray:
    """Merge two cubes, lazily and block by block.

    The library fails on any coordinate besides those of the dimensions
    (https://github.com/Open-EO/openeo-processes-dask/pull/148), on dates of which each cube has
    some, and on other grids, and joins the blocks of all dates.

    Raises
    ------
    GraphError
        OverlapResolverMissing, if both have values for a label.
    """
    first = _plain(cube1)
    second = align_grids(_plain(cube2), first)

    def resolve(one: xr.DataArray, other: xr.DataArray) -> xr.DataArray:
        if overlap_resolver is None:
            raise GraphError(
                f"both cubes have values for the same labels, {cube1.dims} and {cube2.dims}: give "
                "an overlap_resolver, or rename_labels",
                code="OverlapResolverMissing",
            )
        named = {"x": one.data, "y": other.data, "context": context}
        return one.copy(data=overlap_resolver(positional_parameters={}, named_parameters=named))

    own = set(first.dims) ^ set(second.dims)
    if own:
        more, less = (first, second) if first.ndim >= second.ndim else (second, first)
        if set(less.dims) - set(more.dims):
            raise ArgumentError(f"needs dimensions in common, got {cube1.dims} and {cube2.dims}")
        less = less.sel({dim: more[dim] for dim in less.dims}).broadcast_like(more)
        less = less.transpose(*more.dims)
        return resolve(*((more, less) if more is first else (less, more)))
    second = second.transpose(*first.dims)
    labels = {dim: _union(first, second, str(dim)) for dim in first.dims}
    differing = [
        dim for dim in first.dims if set(first[dim].to_numpy()) != set(second[dim].to_numpy())
    ]
    if not differing:
        second = second.sel({dim: first[dim].to_numpy() for dim in first.dims})
        if overlap_resolver is not None:
            return resolve(first, second)
        both = xr.concat([first, second], dim="cubes")
        return both.assign_coords(cubes=["cube1", "cube2"])
    if len(differing) > 1:  # with no data where a cube lacks a label
        others = {dim: labels[dim] for dim in differing[1:]}
        first, second = (cube.reindex(others, fill_value=np.nan) for cube in (first, second))
    dim = differing[0]
    shared = np.intersect1d(first[dim].to_numpy(), second[dim].to_numpy())
    parts = [cube.drop_sel({dim: shared}) for cube in (first, second)]
    if shared.size:
        parts.append(resolve(first.sel({dim: shared}), second.sel({dim: shared})))
    merged = xr.concat(parts, dim=dim, coords="minimal", compat="override", join="override")
    return merged.sel({dim: labels[dim]})


def _plain(cube: xr.DataArray) -> xr.DataArray:
    """Leave of the coordinates the labels and the CRS."""
    kept = {*map(str, cube.dims), "spatial_ref", STARTS}
    return cube.drop_vars([name for name in cube.coords if name not in kept])


def _union(first: xr.DataArray, second: xr.DataArray, dim: str) -> np.ndarray:
    """List the labels of both: times and places in order, others one after the other."""
    joined = list(dict.fromkeys([*first[dim].to_numpy(), *second[dim].to_numpy()]))
    if first[dim].dtype.kind == "M" or dim in ("x", "y"):
        told = first[dim].to_numpy()
        joined.sort(reverse=told.size > 1 and bool(told[0] > told[1]))
    return np.array(joined, first[dim].dtype if first[dim].dtype.kind == "M" else None)


SPATIAL_PROCESSES = (
    *(aggregate_spatial, filter_spatial, mask_polygon, merge_cubes),
    *(resample_cube_spatial, resample_spatial),
)
