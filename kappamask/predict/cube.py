"""Cubes to labels, lazily: one dask task per date and window. Imports `networks` and `base`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from kappamask.base.errors import InputError
from kappamask.base.legend import LEGEND, PREDICTED, SNOW_LEGEND, Label
from kappamask.base.windows import INSIDE, NO_MARGINS, SURROUNDINGS, Margins, plan_axis
from kappamask.networks.model import Model
from kappamask.predict.array import (
    Output,
    Task,
    check_reflectance_dtype,
    make_task,
    predict_window,
)
from kappamask.predict.blocks import map_windows
from kappamask.predict.canonical import CRS_KEYS, to_canonical

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr

REFINED = "refined"  # attribute of labels that other dates and the sun have corrected
BY = "witnesses"  # coordinate of theirs: the dates that each date was corrected by


def predict_cube(
    cube: xr.DataArray,
    *,
    model: str | Model = "default",
    output: Output = "labels",
    level: str | None = None,
    scale: float | None = None,
    offset: float | None = None,
) -> xr.DataArray:
    """Label a cube, lazily: nothing is read or computed before the result is.

    Parameters
    ----------
    cube
        (time, band, y, x) or (band, y, x), in any order, float reflectance, NaN =
        no data, with band names, `x` and `y` at pixel centres and a CRS
        (``cube.rio.crs``). What `load_cube` gives. Also a Dataset with a variable per band,
        dims ``t``, ``bands``, ``latitude``, ``longitude``, and names such as ``blue``; the
        fill value that its attributes name (``_FillValue``, ``nodata``) is no data.
    model, output
        As in `predict_array`.
    level
        Only needed where ``cube.attrs["level"]`` is absent.
    scale, offset
        Of digital numbers: reflectance is ``(DN + offset) / scale``.

    Returns
    -------
    xarray.DataArray
        Labels or snow (time, y, x) uint8 with CF flag attributes, or probabilities
        (time, label, y, x) float32; without `time` if the cube has none. Chunks
        are the cores of the window lattice, one dask task each, whatever the
        chunks of the cube; values do not depend on those.

    Raises
    ------
    InputError
        If dims, band names, CRS or level are missing, or the cube is empty.
    WeightsError
        As `predict_array`.

    Examples
    --------
    >>> import numpy as np, xarray as xr, rioxarray
    >>> cube = xr.DataArray(
    ...     np.full((1, 4, 40, 40), 0.05, "float32"),
    ...     dims=("time", "band", "y", "x"),
    ...     coords={"band": ["B02", "B03", "B04", "B08"],
    ...             "y": 5000395.0 - 10 * np.arange(40), "x": 600005.0 + 10 * np.arange(40)},
    ...     attrs={"level": "L2A"},
    ... ).rio.write_crs(32632)
    >>> labels = predict_cube(cube)
    >>> labels.dims, labels.dtype, labels.attrs["flag_meanings"].split()[0]
    (('time', 'y', 'x'), dtype('uint8'), 'clear')
    """
    cube = check_cube(cube, scale=scale, offset=offset)
    level = level or cube.attrs.get("level")
    task = make_task(
        [str(name) for name in cube.band.values], level=level or "", model=model, output=output
    )
    scene = cube if "time" in cube.dims else cube.expand_dims("time")
    blocks, inside = predict_blocks(scene, task), _inside_of(scene)
    if inside is not None:
        blocks = blocks.map_blocks(
            _keep_inside, inside.rechunk(blocks.chunks[-2:]), task, dtype=task.dtype
        )
    result = _wrap_result(blocks, scene, task)
    return result if "time" in cube.dims else result.isel(time=0, drop="time" not in cube.coords)


def predict_blocks(scene: xr.DataArray, task: Task) -> da.Array:
    """Label a checked cube lazily, one dask task per date and window: (time, *leading, y, x)."""
    from dask.base import tokenize

    if scene.band.values.tolist() != list(task.bands):  # selecting copies what is in memory
        scene = scene.sel(band=list(task.bands))
    scene = scene.transpose("time", "band", "y", "x")
    model, entry = task.model, task.model.entry
    source, margins = _with_margins(scene, most=entry.lattice.margin)
    rows, columns = (
        plan_axis(scene.sizes[dim], origin=origin, lattice=entry.lattice, beside=beside)
        for dim, origin, beside in zip("yx", lattice_origin(scene), margins.sides, strict=True)
    )
    plan = rows, columns
    # Two models may feed one file of weights differently.
    computed_by = (entry.name, entry.sha256, model.level, model.precision, model.engine)
    token = tokenize(source.name, computed_by, task.bands, plan)
    return map_windows(
        partial(predict_window, task),
        source,
        plan,
        token=f"kappamask-{task.output}-{token}",
        leading=task.leading,
        dtype=task.dtype,
    )


def _inside_of(scene: xr.DataArray) -> da.Array | None:
    """Tell what of a cube (..., y, x) is inside the polygon that it was cut out by: (y, x)."""
    import dask.array as da

    inside = scene.encoding.get(INSIDE)
    if inside is None:
        return None
    try:
        rows, columns = (slice(*_find_span(inside[d].values, scene[d].values)) for d in "yx")
    except KeyError:  # of another cube
        return None
    return da.from_array(inside.values[rows, columns], chunks=-1)


def _keep_inside(block: np.ndarray, inside: np.ndarray, task: Task) -> np.ndarray:
    """Make what lies outside of a polygon missing: (time, *leading, y, x)."""
    kept: np.ndarray = np.where(inside, block, task.nothing(*inside.shape))
    return kept


def _with_margins(scene: xr.DataArray, *, most: int) -> tuple[da.Array, Margins]:
    """Find the pixels (time, band, y, x) of a cube, and those beside it that can be read.

    What lies beside is told by the encoding, which goes the way of the pixels: xarray keeps it
    where dates, bands or pixels are chosen or loaded, and drops it where they are computed with.
    """
    import dask.array as da

    source = _as_blocks(scene.data)
    whole, inside = scene.encoding.get(SURROUNDINGS), _inside_of(scene)
    if whole is None or not (most or inside is not None):
        return source, NO_MARGINS
    try:
        around = whole.sel(time=scene.time.values, band=scene.band.values)
        spans = [_find_span(around[dim].values, scene[dim].values) for dim in "yx"]
    except KeyError:  # of another cube
        return source, NO_MARGINS
    rows, columns = (
        (max(0, start - most), min(size, stop + most))
        for (start, stop), size in zip(spans, around.shape[2:], strict=True)
    )
    margins = Margins(
        spans[0][0] - rows[0], rows[1] - spans[0][1],
        spans[1][0] - columns[0], columns[1] - spans[1][1],
    )  # fmt: skip
    outer = around.data[:, :, slice(*rows), slice(*columns)]
    if _is_cut_of(source, whole.data.name):
        return outer, margins
    # Loaded, or other values: those stay, and only what lies beside them is read.
    inside_y, inside_x = margins.crop(outer.shape[2:])
    if inside is not None:
        within = inside.rechunk(source.chunks[2:])
        source = da.where(within, source, outer[:, :, inside_y, inside_x].rechunk(source.chunks))
    west, east = outer[:, :, inside_y, : inside_x.start], outer[:, :, inside_y, inside_x.stop :]
    middle = da.concatenate([west, source, east], axis=3)
    north, south = outer[:, :, : inside_y.start], outer[:, :, inside_y.stop :]
    return da.concatenate([north, middle, south], axis=2), margins


def _find_span(axis: np.ndarray, part: np.ndarray) -> tuple[int, int]:
    """Find where pixel centres stand among others of the same step; a KeyError if they do not."""
    start = int(np.abs(axis - part[0]).argmin())
    stop = start + part.size
    if stop > axis.size or not np.allclose(axis[start:stop], part, rtol=0, atol=0.01):
        raise KeyError(part[0])
    return start, stop


def _is_cut_of(data: da.Array, name: str) -> bool:
    """Tell whether pixels were only chosen out of those of an array, not computed with."""
    layer = data.name
    while layer != name:
        below = list(data.dask.dependencies.get(layer, ()))
        if len(below) != 1 or not layer.startswith(("getitem", "rechunk", "transpose")):
            return False
        layer = below[0]
    return True


def _as_blocks(data: Any) -> da.Array:
    """Cut what is in memory, (time, band, y, x), into dates; windows are views of it.

    `dask.array.from_array` would copy it, and read all of it for a name. The name made here is
    of this call alone: an array in memory may be another one at the next.
    """
    import dask.array as da

    if isinstance(data, da.Array):
        return data
    name = f"cube-{uuid4().hex}"
    dates = {(name, t, 0, 0, 0): data[t : t + 1] for t in range(len(data))}
    chunks = ((1,) * len(data), *((size,) for size in data.shape[1:]))
    return da.Array(dates, name, chunks, dtype=data.dtype)


def check_cube(
    cube: xr.DataArray | xr.Dataset, *, scale: float | None = None, offset: float | None = None
) -> xr.DataArray:
    """Bring a cube to the canonical one (see `predict_cube`), or say what is missing."""
    found: Any = to_canonical(cube, scale=scale, offset=offset)
    if not all(hasattr(found, name) for name in ("dims", "coords", "shape", "dtype")):
        raise InputError(
            f"a cube is an xarray.DataArray or Dataset, got {type(found).__name__}: use "
            "predict_array for arrays"
        )
    extra = set(found.dims) - {"time", "band", "y", "x"}
    lacking = {"band", "y", "x"} - set(found.dims)
    if extra or lacking:
        raise InputError(
            f"a cube has dims (time, band, y, x), got {found.dims}: rename or select dimensions"
        )
    if 0 in found.shape:
        raise InputError(
            f"a cube needs at least one pixel, band and date, got {dict(found.sizes)}: "
            "check area and dates"
        )
    if "band" not in found.coords:
        raise InputError("a cube names its bands in cube.coords['band'], got none: assign them")
    if not _has_crs(found):
        raise InputError(
            "a cube needs a coordinate reference system, got none: "
            "set it with cube.rio.write_crs('EPSG:...')"
        )
    check_reflectance_dtype(found.dtype)
    checked: xr.DataArray = found
    return checked


def check_same(cube: xr.DataArray, labels: xr.DataArray, rule: str, *, dims: Sequence[str]) -> None:
    """Refuse labels of other dates or pixels: xarray would silently keep what they share.

    Raises
    ------
    InputError
        If sizes or coordinates differ along one of `dims`; `rule` says what the two must do.
    """
    for dim in dims:
        ours, theirs = cube.sizes[dim], labels.sizes[dim]
        same = ours == theirs
        if same and dim in cube.coords and dim in labels.coords:
            one, other = cube[dim].values, labels[dim].values
            same = (one == other).all() if dim == "time" else np.allclose(one, other, rtol=1e-9)
        if not same:
            raise InputError(
                f"cube and labels must {rule}, got {ours} and {theirs} along {dim}, or other "
                "coordinates: pass the cube that was labelled"
            )


def refuse_snow(labels: xr.DataArray) -> None:
    """Refuse snow where labels are meant: no code of its own would be clear."""
    if (
        labels.name == "snow"
        or labels.attrs.get("flag_meanings") == flags_of("snow")["flag_meanings"]
    ):
        raise InputError(
            "labels must be codes of kappamask.Label, got codes of snow: pass what predict_cube "
            'gives with output="labels", and select with snow == 100 yourself'
        )


def _has_crs(cube: xr.DataArray) -> bool:
    """Tell whether a cube names its CRS as CF or GDAL do; rioxarray reads and writes both.

    CF conventions 1.11, section 5.6 (grid mappings).
    """
    return (
        not cube.attrs.get("georeferenced", True)
        or "crs" in cube.attrs
        or any(key in coordinate.attrs for coordinate in cube.coords.values() for key in CRS_KEYS)
    )


def lattice_origin(cube: xr.DataArray) -> tuple[int, int]:
    """Row and column of a cube's first pixel on the projected pixel grid.

    Rows count from the projected origin in the direction in which `y` runs.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> cube = xr.DataArray(np.zeros((2, 2)), dims=("y", "x"),
    ...                     coords={"y": [995.0, 985.0], "x": [205.0, 215.0]})
    >>> lattice_origin(cube)
    (-100, 20)
    """
    return _axis_origin(cube, "y"), _axis_origin(cube, "x")


def _axis_origin(cube: xr.DataArray, dim: str) -> int:
    if dim not in cube.coords:
        raise InputError(f"a cube needs the coordinate {dim} at pixel centres: assign it")
    if cube[dim].dtype.kind not in "iuf" or not np.isfinite(cube[dim].values).all():
        raise InputError(
            f"the coordinate {dim} holds pixel centres, finite numbers, got "
            f"{str(cube[dim].values)[:80]}: assign it"
        )
    centres = cube[dim].values.astype(float)
    if centres.size == 1:
        return 0  # one pixel has no step, and no neighbour that could disagree
    steps = np.diff(centres)
    step = (centres[-1] - centres[0]) / steps.size
    if step == 0 or not np.allclose(steps, step, rtol=0, atol=abs(step) * 1e-3):
        raise InputError(
            f"the coordinate {dim} must run in even steps, got steps from {steps.min():g} to "
            f"{steps.max():g}: sort or resample the cube"
        )
    return round(float((centres[0] - step / 2) / step))


def _wrap_result(data: Any, scene: xr.DataArray, task: Task) -> xr.DataArray:
    """Dress the blocks as a DataArray that other tools read as classes."""
    import xarray as xr

    coords = {key: value for key, value in scene.coords.items() if "band" not in value.dims}
    coords.pop("band", None)
    attrs: dict[str, Any] = {
        "level": task.model.level,
        "kappamask_model": task.model.entry.name,
        "kappamask_model_sha256": task.model.entry.sha256,
    }
    if task.output == "probabilities":
        names = [LEGEND[code].name for code in PREDICTED]
        dims: tuple[str, ...] = ("time", "label", "y", "x")
        coords["label"] = xr.DataArray(names, dims="label")
        attrs |= {"long_name": "probability of each class", "units": "1"}
    else:
        dims = ("time", "y", "x")
        attrs |= flags_of(task.output)
        # Who clips or warps labels puts this outside. No _FillValue: xarray would make NaN of it,
        # and floats of the others.
        attrs["nodata"] = int(attrs["flag_values"][-1])
    return xr.DataArray(data, dims=dims, coords=coords, name=task.output, attrs=attrs)


def flags_of(name: str) -> dict[str, Any]:
    """Say in CF's words what the codes of ``"labels"`` or ``"snow"`` mean; missing stands last.

    Examples
    --------
    >>> flags_of("snow")["flag_values"].tolist(), flags_of("snow")["flag_meanings"]
    ([0, 100, 205, 255], 'no_snow snow hidden missing')
    """
    said = [LEGEND[code] for code in (*PREDICTED, Label.MISSING)]
    long_name, entries = {
        "labels": ("cloud and cloud shadow classes", said),
        "snow": ("snow on clear ground", SNOW_LEGEND),
    }[name]
    return {
        "long_name": long_name,
        "flag_values": np.array([entry.label for entry in entries], np.uint8),
        "flag_meanings": " ".join(entry.name for entry in entries),
    }
