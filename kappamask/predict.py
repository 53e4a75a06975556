"""Arrays and cubes to labels. Row 3: imports rows 0-2; xarray and dask only here.

One window is one call of the network. `predict_array` runs its windows one after
another; `predict_cube` makes each of them a dask task that reads its own margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kappamask.bands import AUXILIARY, NEAR_INFRARED, REQUIRED, check_level, check_network_bands
from kappamask.blocks import map_windows
from kappamask.errors import InputError
from kappamask.legend import LEGEND, PREDICTED, Label
from kappamask.model import Model, load_model
from kappamask.windows import LATTICE, Lattice, Span, Window, plan_axis, plan_windows

if TYPE_CHECKING:
    import xarray as xr

Output = Literal["labels", "probabilities"]
OUTPUTS = ("labels", "probabilities")
HIGHEST_REFLECTANCE = 10.0  # a uint16 DN / 10000 stays below 6.6
_NETWORK = Lock()  # the network uses every core: one window at a time per process


@dataclass(frozen=True)
class Task:
    """What to do with every window of a scene."""

    model: Model
    bands: tuple[str, ...]  # along the band axis of what is read
    output: Output

    @property
    def required(self) -> list[int]:
        """Where the bands stand without which a pixel has no data."""
        nir = next(name for name in NEAR_INFRARED if name in self.bands)
        return [self.bands.index(name) for name in (*REQUIRED, nir)]

    @property
    def leading(self) -> tuple[int, ...]:
        """Shape of the result before (y, x)."""
        return () if self.output == "labels" else (len(PREDICTED),)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the result."""
        return np.dtype(np.uint8 if self.output == "labels" else np.float32)


def predict_array(
    reflectance: np.ndarray,
    bands: Sequence[str],
    *,
    level: str,
    model: str | Model = "default",
    output: Output = "labels",
    origin: tuple[int, int] = (0, 0),
) -> np.ndarray:
    """Label one scene held in memory.

    Parameters
    ----------
    reflectance
        (band, y, x) floating point, 1.0 = 100 %, offsets applied, NaN = no data,
        one resolution, best at 10 m.
    bands
        Names along the first axis, in any order; B02, B03, B04 and B08 (or B8A)
        at least, more is better.
    level
        ``"L1C"`` or ``"L2A"``.
    model
        Name of a model of the manifest, or one that `load_model` gave.
    output
        ``"labels"``, or ``"probabilities"`` of the four classes clear, cloud
        shadow, semi-transparent, cloud.
    origin
        Row and column of the first pixel on the projected pixel grid
        (`lattice_origin` of a cube). Windows are anchored to that grid, so that
        a shifted area gets the same labels.

    Returns
    -------
    numpy.ndarray
        Labels (y, x) uint8, codes of `Label`; or probabilities (4, y, x) float32
        that sum to 1, NaN where data is missing. A pixel is missing where B02,
        B03, B04 or the near infrared (B08, else B8A) has no data.

    Raises
    ------
    InputError
        If the shape, type, bands or level is wrong, or values above 10 show that
        DN were passed as reflectance.
    UnknownNameError
        If a band or model is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> scene = np.full((4, 64, 64), 0.05, dtype="float32")
    >>> scene[:, :, 32:] = np.nan
    >>> labels = predict_array(scene, ["B02", "B03", "B04", "B08"], level="L2A")
    >>> labels.shape, labels.dtype, set(labels[:, 32:].ravel().tolist())
    ((64, 64), dtype('uint8'), {5})
    """
    reflectance = np.asarray(reflectance)
    if reflectance.ndim != 3 or reflectance.shape[0] != len(bands):
        raise InputError(
            "reflectance must be (band, y, x) with one name per band, got shape "
            f"{reflectance.shape} and {len(bands)} names: transpose it or name every band"
        )
    check_reflectance_dtype(reflectance.dtype)
    task = make_task(bands, level=level, model=model, output=output)
    height, width = reflectance.shape[1:]
    windows = list(plan_windows(height, width, origin=origin))
    kept = [list(bands).index(name) for name in task.bands]
    result = np.empty((*task.leading, height, width), task.dtype)
    for window in windows:
        rows, columns = window.rows, window.columns
        layers = [reflectance[index, rows.read, columns.read] for index in kept]
        result[..., rows.core, columns.core] = predict_window(task, layers, window)
    return result


def make_task(bands: Sequence[str], *, level: str, model: str | Model, output: Output) -> Task:
    """Check what is asked for once, before any pixel is read."""
    if output not in OUTPUTS:
        raise InputError(f"output must be one of {', '.join(OUTPUTS)}, got {output!r}")
    level = check_level(level)
    auxiliary = {band.name for band in AUXILIARY}  # the own network does not read them
    optical = tuple(name for name in bands if name not in auxiliary)
    optical = check_network_bands(optical, level)
    loaded = load_model(model, level) if isinstance(model, str) else model
    if loaded.level != level:
        raise InputError(f"the model was loaded for {loaded.level}, the input is {level}")
    return Task(loaded, optical, output)


def check_reflectance_dtype(dtype: np.dtype[Any]) -> None:
    """Refuse integers: they are DN, whose scale and offset only the caller knows."""
    if dtype.kind != "f":
        raise InputError(
            f"reflectance is floating point with 1.0 = 100 %, got {dtype}, which looks like DN: "
            "pass (DN + offset) / 10000 with NaN for no data (offset -1000 from baseline 04.00)"
        )


def predict_window(task: Task, layers: Sequence[np.ndarray], window: Window) -> np.ndarray:
    """Label the core of one window.

    Parameters
    ----------
    task
        Model, band names and output.
    layers
        One (y, x) array per band of the pixels that `window` reads.
    window
        Core, margin and padding.

    Returns
    -------
    numpy.ndarray
        (y, x) uint8 or (4, y, x) float32 of the core.
    """
    layers = [np.ascontiguousarray(layer, dtype=np.float32) for layer in layers]
    valid = find_valid(task, layers)
    core = valid[window.rows.crop, window.columns.crop]
    nothing = int(Label.MISSING) if task.output == "labels" else np.nan
    result = np.full((*task.leading, *core.shape), nothing, task.dtype)
    if not core.any():
        return result
    box = find_box(valid)
    inner = Window(trim_span(window.rows, box[0]), trim_span(window.columns, box[1]))
    layers = [np.ascontiguousarray(layer[box]) for layer in layers]
    runner = task.model.runner
    with _NETWORK:
        logits = task.model.logits(layers, task.bands, inner)
        if task.output == "probabilities":
            predicted = runner.softmax(logits)
        else:
            predicted = np.array(PREDICTED, np.uint8)[runner.argmax(logits)]
    rows = slice(inner.rows.start - window.rows.start, inner.rows.stop - window.rows.start)
    columns = slice(
        inner.columns.start - window.columns.start, inner.columns.stop - window.columns.start
    )
    result[..., rows, columns] = predicted
    result[..., ~core] = nothing
    return result


def find_box(valid: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the smallest rectangle that holds every valid pixel.

    Examples
    --------
    >>> find_box(np.eye(4, dtype=bool)[1:3])
    (slice(0, 2, None), slice(1, 3, None))
    """
    rows, columns = (np.flatnonzero(valid.any(axis)) for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def trim_span(span: Span, inner: slice, *, lattice: Lattice = LATTICE) -> Span:
    """Leave out what was read beside `inner`, and mirror there as at the edge of an array.

    A network that meets no data draws a line of thin cloud along it. The grid of the
    network stays where it was.

    Parameters
    ----------
    span
        One axis of a window.
    inner
        Part of the pixels read, counted from `span.read_start`.
    lattice
        Sizes of stride and mirror.

    Examples
    --------
    >>> span = plan_axis(64)[0]
    >>> trim_span(span, slice(0, 64)) == span
    True
    >>> trimmed = trim_span(span, slice(3, 64))
    >>> trimmed.start, trimmed.pad_before, trimmed.size % 32
    (3, 35, 0)
    """
    before, after = inner.start, span.read_stop - span.read_start - inner.stop
    read_start, read_stop = span.read_start + before, span.read_stop - after
    pad_before, pad_after = span.pad_before, span.pad_after
    if before:
        pad_before = (pad_before + before) % lattice.stride + lattice.mirror
    if after:
        pad_after = (pad_after + after) % lattice.stride + lattice.mirror
    start, stop = max(span.start, read_start), min(span.stop, read_stop)
    return Span(start, stop, read_start, read_stop, pad_before, pad_after)


def find_valid(task: Task, layers: Sequence[np.ndarray]) -> np.ndarray:
    """Find pixels with data, (y, x) bool, and refuse DN."""
    valid = np.ones(layers[0].shape, bool)
    for index in task.required:
        layer = layers[index]
        valid &= np.isfinite(layer)
        highest = layer.max(where=np.isfinite(layer), initial=0)
        if highest > HIGHEST_REFLECTANCE:
            raise InputError(
                f"reflectance lies between 0 and about 2 (1.0 = 100 %), got {highest:g} in "
                f"{task.bands[index]}, which looks like DN: pass (DN + offset) / 10000 "
                "(offset -1000 from baseline 04.00, else 0)"
            )
    return valid


def predict_cube(
    cube: xr.DataArray,
    *,
    model: str | Model = "default",
    output: Output = "labels",
    level: str | None = None,
) -> xr.DataArray:
    """Label a cube, lazily: nothing is read or computed before the result is.

    Parameters
    ----------
    cube
        (time, band, y, x) or (band, y, x), in any order, float reflectance, NaN =
        no data, with band names, `x` and `y` at pixel centres and a CRS
        (``cube.rio.crs``). What `load_cube` gives.
    model, output
        As in `predict_array`.
    level
        Only needed where ``cube.attrs["level"]`` is absent.

    Returns
    -------
    xarray.DataArray
        Labels (time, y, x) uint8 with CF flag attributes, or probabilities
        (time, label, y, x) float32; without `time` if the cube has none. Chunks
        are the cores of the window lattice, one dask task each, whatever the
        chunks of the cube; values do not depend on those.

    Raises
    ------
    InputError
        If dims, band names, CRS or level are missing, or the cube is empty.

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
    level = level or cube.attrs.get("level")
    cube = check_cube(cube)
    task = make_task(
        [str(name) for name in cube.band.values], level=level or "", model=model, output=output
    )
    scene = cube if "time" in cube.dims else cube.expand_dims("time")
    scene = scene.sel(band=list(task.bands)).transpose("time", "band", "y", "x")
    result = wrap_result(predict_blocks(scene, task), scene, task)
    return result if "time" in cube.dims else result.isel(time=0, drop="time" not in cube.coords)


def check_cube(cube: xr.DataArray) -> xr.DataArray:
    """Check that a cube is the canonical one, or say what is missing."""
    extra = set(cube.dims) - {"time", "band", "y", "x"}
    lacking = {"band", "y", "x"} - set(cube.dims)
    if extra or lacking:
        raise InputError(
            f"a cube has dims (time, band, y, x), got {cube.dims}: rename or select dimensions"
        )
    if 0 in cube.shape:
        raise InputError(
            f"a cube needs at least one pixel, band and date, got {dict(cube.sizes)}: "
            "check area and dates"
        )
    if "band" not in cube.coords:
        raise InputError("a cube names its bands in cube.coords['band'], got none: assign them")
    if not has_crs(cube):
        raise InputError(
            "a cube needs a coordinate reference system, got none: "
            "set it with cube.rio.write_crs('EPSG:...')"
        )
    check_reflectance_dtype(cube.dtype)
    return cube


def has_crs(cube: xr.DataArray) -> bool:
    """Tell whether a cube names its CRS as CF or GDAL do; rioxarray reads and writes both.

    CF conventions 1.11, section 5.6 (grid mappings).
    """
    keys = ("crs_wkt", "spatial_ref", "grid_mapping_name")
    return "crs" in cube.attrs or any(
        key in coordinate.attrs for coordinate in cube.coords.values() for key in keys
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


def predict_blocks(scene: xr.DataArray, task: Task) -> Any:
    """Label (time, band, y, x) lazily, one dask task per date and window."""
    import dask.array as da
    from dask.base import tokenize

    source = scene.data
    if not isinstance(source, da.Array):
        source = da.from_array(source, chunks=(1, -1, -1, -1))  # in memory: windows are views of it
    row, column = lattice_origin(scene)
    plan = (
        plan_axis(scene.sizes["y"], origin=row),
        plan_axis(scene.sizes["x"], origin=column),
    )
    model = task.model
    computed_by = (model.entry.sha256, model.level, model.precision, model.engine)
    token = tokenize(source.name, computed_by, task.bands, plan)
    return map_windows(
        partial(predict_window, task),
        source,
        plan,
        token=f"kappamask-{task.output}-{token}",
        leading=task.leading,
        dtype=task.dtype,
    )


def wrap_result(data: Any, scene: xr.DataArray, task: Task) -> xr.DataArray:
    """Dress the blocks as a DataArray that other tools read as classes."""
    import xarray as xr

    entries = [LEGEND[code] for code in (*PREDICTED, Label.MISSING)]
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
        attrs |= {
            "long_name": "cloud and cloud shadow classes",
            "flag_values": np.array([entry.label for entry in entries], np.uint8),
            "flag_meanings": " ".join(entry.name for entry in entries),
        }
    return xr.DataArray(data, dims=dims, coords=coords, name=task.output, attrs=attrs)
