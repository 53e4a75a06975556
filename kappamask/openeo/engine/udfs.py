"""UDFs: code of clients, run on padded windows of a cube that are read one by one.

As openEO's Spark back end does it: the text is exec'd once per process, and its
`apply_datacube` gets one float32 chunk at a time. Windows of one size are cut from the cube's
first pixel on, each is read with its overlap, and where the cube ends NaN stands. Every chunk
has the same shape. Only where a cube is smaller than a window, that is cut down to it: there
a back end would hand over a chunk of little but NaN.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from openeo.metadata import Band, BandDimension, CubeMetadata, SpatialDimension, TemporalDimension
from openeo.udf import UdfData, XarrayDataCube
from openeo.udf.run_code import load_module_from_string, run_udf_code

from kappamask.base.windows import LATTICE
from kappamask.openeo.engine.evaluate import Callback
from kappamask.openeo.engine.flat_graph import ArgumentError, GraphError, error_at

Log = Callable[[str, str], object]  # level, message
RUNTIME = "Python"
DIMS = ("t", "bands", "y", "x")
WIDEST_OVERLAP = 2048  # pixels; a list of the blocks of thousands of millions took for ever
STRIDE = LATTICE.stride  # windows of small cubes are multiples of it


@dataclass(frozen=True)
class Frame:
    """How a cube is cut, along y and x."""

    size: tuple[int, int] = (512, 512)  # pixels
    overlap: tuple[int, int] = (0, 0)  # pixels on each side
    per_date: bool = True  # each date by itself, else the whole time axis

    def __post_init__(self) -> None:
        """Check that windows move on, and that what surrounds them is no cube of its own."""
        if min(self.size) < 1 or min(self.overlap) < 0 or max(self.overlap) > WIDEST_OVERLAP:
            raise ArgumentError(
                f"needs sizes of at least 1 px and overlaps of 0 to {WIDEST_OVERLAP}, got "
                f"{self.size} and {self.overlap}"
            )


@dataclass(frozen=True)
class Call:
    """One `run_udf` of a graph."""

    udf: str  # source text
    context: Any
    path: str  # of its node, for messages
    log: Log | None

    @classmethod
    def of(cls, process: Any, context: Any, log: Log | None) -> Call | None:
        """Make it of a child graph that is one `run_udf`; None of any other."""
        if not isinstance(process, Callback):
            return None
        held = process.only_node("run_udf", context=context)
        if held is None:
            return None
        udf = check_udf(held.get("udf", ""), held.get("runtime", ""))
        return cls(udf, held.get("context"), process.path + next(iter(process.graph)), log)


def run_in_windows(data: xr.DataArray, call: Call, frame: Frame) -> xr.DataArray:
    """Run a UDF on every window of a cube, lazily; one window is in memory per thread.

    A task computes what its window reads by itself and forgets it, instead of sharing the
    blocks of the source with its neighbours: they would wait in memory, two rows of them
    for every date.

    Returns
    -------
    xarray.DataArray
        float32, dims in the order of `data`; bands as the UDF's `apply_metadata` says.
    """
    if set(data.dims) - set(DIMS) or not {"x", "y"} <= set(data.dims):
        raise GraphError(
            f"works on cubes of t, bands, y and x, got {data.dims}: rename or drop dimensions"
        )
    scene = data.transpose(*DIMS, missing_dims="ignore")
    values = scene.data if isinstance(scene.data, da.Array) else da.from_array(scene.to_numpy())
    coords: dict[Any, Any] = {dim: scene[dim].to_numpy() for dim in scene.dims}
    bands = [str(name) for name in coords.get("bands", ())]
    coords |= {"bands": bands} if "bands" in scene.dims else {}
    plain = xr.DataArray(values.astype(np.float32), coords, scene.dims)
    returned = name_bands(call.udf, call.context, bands)
    windows, pads, centres = [], {}, {}
    for dim, asked, overlap in zip(("y", "x"), frame.size, frame.overlap, strict=True):
        length = plain.sizes[dim]
        size = min(asked, -(-length // STRIDE) * STRIDE)
        pads[dim] = overlap, overlap + -length % size
        centres[dim] = _centres(coords[dim], pads[dim])
        # What each window reads of the padded axis, and where its core lies in that.
        windows.append(
            [
                (
                    slice(start, start + size + 2 * overlap),
                    slice(overlap, overlap + min(size, length - start)),
                )
                for start in range(0, length, size)
            ]
        )
    padded = plain.pad(pads, constant_values=np.nan).assign_coords(centres)
    count = plain.sizes.get("t", 1)
    by_date = frame.per_date and "t" in plain.dims
    dates: Sequence[int | None] = range(count) if by_date else [None]
    work = partial(_run_window, padded, call, returned)
    token = f"udf-{tokenize(padded, call, frame, returned)}"
    graph = {
        (token, t, 0, i, j): (work, date, rows, columns)
        for (t, date), (i, rows), (j, columns) in product(*map(enumerate, (dates, *windows)))
    }
    lengths = (tuple(core.stop - core.start for _, core in axis) for axis in windows)
    chunks = ((count // len(dates),) * len(dates), (max(1, len(returned)),), *lengths)
    layer = HighLevelGraph.from_collections(token, graph, dependencies=[])
    computed = da.Array(layer, token, chunks, dtype=np.float32)
    result = xr.DataArray(computed, dims=DIMS, name=data.name)
    result = result.assign_coords(bands=returned) if returned else result.isel(bands=0)
    result = result if "t" in plain.dims else result.isel(t=0)
    kept = {name: coord for name, coord in scene.coords.items() if "bands" not in coord.dims}
    return result.assign_coords(kept).transpose(*data.dims, ..., missing_dims="ignore")


def _centres(told: np.ndarray, pads: tuple[int, int]) -> np.ndarray:
    """Continue the coordinates of an axis over its padding; back ends have them in float32."""
    told = told.astype(float)
    step = (told[-1] - told[0]) / (told.size - 1) if told.size > 1 else 1.0
    centres: np.ndarray = told[0] + step * np.arange(-pads[0], told.size + pads[1])
    return centres.astype(np.float32)


def _run_window(
    scene: xr.DataArray,
    call: Call,
    returned: list[str],
    date: int | None,
    rows: tuple[slice, slice],
    columns: tuple[slice, slice],
) -> np.ndarray:
    """Read one window of one date, or of all (None), run the UDF, crop: (t, layer, y, x)."""
    part = scene.isel(y=rows[0], x=columns[0])
    if date is not None:
        part = part.isel(t=date, drop=True)
        part.attrs["t"] = pd.Timestamp(scene["t"].to_numpy()[date]).to_pydatetime()
    cube = part.compute(scheduler="synchronous")
    given = UdfData(datacube_list=[XarrayDataCube(cube)], user_context=call.context or {})
    try:
        with _ONE, logging_to(call.log):
            result = run_udf_code(code=call.udf, data=given)
        values = _check(result.get_datacube_list() or [], cube, returned)
    except (MemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:  # client code may raise anything, SystemExit included
        kind = error if isinstance(error, Exception) else RuntimeError(repr(error))
        raise error_at(call.path, "run_udf", kind) from error
    layers = values.reshape(cube.sizes.get("t", 1), -1, *values.shape[-2:])
    return layers[..., rows[1], columns[1]]


def _check(results: list[XarrayDataCube], cube: xr.DataArray, returned: list[str]) -> np.ndarray:
    """Check what a UDF returns of a chunk; gives float32 (t, bands, y, x) as far as it has them."""
    if len(results) != 1:
        raise GraphError(f"a UDF returns one data cube, got {len(results)}")
    result: xr.DataArray = results[0].get_array()
    if returned and "bands" not in result.dims:
        raise GraphError(f"a UDF returns a cube with the dimension bands, got {result.dims}")
    if not returned and "bands" in result.dims:
        result = result.squeeze("bands", drop=True)
    dims = [dim for dim in DIMS if dim in cube.dims or (dim == "bands" and returned)]
    sizes = {dim: len(returned) if dim == "bands" else cube.sizes[dim] for dim in dims}
    if dict(result.sizes) != sizes:
        raise GraphError(
            f"a UDF returns as many pixels, dates and bands as its apply_metadata says "
            f"({sizes}), got {dict(result.sizes)}"
        )
    values: np.ndarray = result.transpose(*dims).to_numpy().astype(np.float32)
    return values


# --- the Python runtime ----------------------------------------------------------------------

_ONE = threading.Lock()  # UDFs are written for a process of their own: one chunk at a time
_USER_LOG = logging.getLogger("openeo.udf.debug.user")


class _ToEngine(logging.Handler):
    """Hands what `openeo.udf.inspect` logs to an engine: the message, then the data."""

    def __init__(self, log: Log | None) -> None:
        super().__init__()
        self.log = log

    def emit(self, record: logging.LogRecord) -> None:
        held = getattr(record, "data", None)
        told = [record.getMessage(), "" if held is None else str(held)]
        if self.log is not None:
            self.log(record.levelname.lower(), " ".join(part for part in told if part))


@contextmanager
def logging_to(log: Log | None) -> Iterator[None]:
    """Send what the one UDF that runs logs to `log`, and nowhere else."""
    handler, before = _ToEngine(log), (_USER_LOG.level, _USER_LOG.propagate)
    _USER_LOG.addHandler(handler)
    _USER_LOG.setLevel(logging.DEBUG)
    _USER_LOG.propagate = False
    try:
        yield
    finally:
        _USER_LOG.removeHandler(handler)
        _USER_LOG.setLevel(before[0])
        _USER_LOG.propagate = before[1]


def check_udf(udf: str, runtime: str = RUNTIME) -> str:
    """Check that a UDF is Python source text; returns it.

    Raises
    ------
    GraphError
        If it is an address or a path, which are not read here, or of another runtime.
    """
    if runtime.lower() != RUNTIME.lower():
        raise GraphError(
            f"UDFs run in the runtime {RUNTIME!r} here, got {runtime!r}", code="InvalidRuntime"
        )
    if "\n" not in udf.strip():
        raise ArgumentError(
            f"a UDF is given as its source text here, got {udf[:80]!r}: "
            "inline it, as openeo.UDF.from_file(...) does"
        )
    return udf


def name_bands(udf: str, context: Any, bands: Sequence[str]) -> list[str]:
    """Tell the bands that a UDF returns: as its `apply_metadata` says, else those it gets.

    Raises
    ------
    GraphError
        If the text mentions `apply_metadata` but does not define it.
    """
    if "apply_metadata" not in udf:
        return list(bands)
    change = load_module_from_string(udf).get("apply_metadata")
    if not callable(change):
        raise GraphError(
            "the UDF mentions apply_metadata but does not define it: back ends refuse that, "
            "define it or take the word out"
        )
    axes = [SpatialDimension(name=name, extent=[]) for name in "xy"]
    held = BandDimension(name="bands", bands=[Band(name=name) for name in bands])
    metadata = CubeMetadata(dimensions=[*axes, TemporalDimension(name="t", extent=[]), held])
    return [str(name) for name in change(metadata, context or {}).band_names]
