"""UDFs on padded windows of a cube, read one by one. Row 6: imports `windows`, `udf_runtime`.

As openEO's Spark back end does it: windows of one size are cut from the cube's first
pixel on, each is read with its overlap, and where the cube ends NaN stands. Every
chunk has the same shape. Only where a cube is smaller than a window, that is cut
down to it: there a back end would hand over a chunk of little but NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from kappamask.base.windows import LATTICE, Span, Window
from kappamask.openeo.engine.evaluate import Callback
from kappamask.openeo.engine.flat_graph import GraphError, error_at
from kappamask.openeo.engine.udf_runtime import Log, check_udf, name_bands, run_chunk

STRIDE = LATTICE.stride  # windows of small cubes are multiples of it


@dataclass(frozen=True)
class Frame:
    """How a cube is cut, along y and x."""

    size: tuple[int, int]  # pixels
    overlap: tuple[int, int]  # pixels on each side
    per_date: bool  # each date by itself, else the whole time axis

    def __post_init__(self) -> None:
        """Check that windows move on."""
        if min(self.size) < 1 or min(self.overlap) < 0:
            raise GraphError(
                f"needs sizes of at least 1 px and overlaps of at least 0, got {self.size} and "
                f"{self.overlap}",
                code="ProcessParameterInvalid",
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
        held = (
            process.only_node("run_udf", context=context) if isinstance(process, Callback) else None
        )
        if held is None:
            return None
        udf = check_udf(held.get("udf", ""), held.get("runtime", ""))
        return cls(udf, held.get("context"), process.path + next(iter(process.graph)), log)


def run_in_windows(data: xr.DataArray, call: Call, frame: Frame) -> xr.DataArray:
    """Run a UDF on every window of a cube, lazily; one window is in memory per thread.

    Returns
    -------
    xarray.DataArray
        float32, dims in the order of `data`; bands as the UDF's `apply_metadata` says.
    """
    _check_dims(data)
    scene = data
    for dim in ("bands", "t"):  # absent ones stand for one label
        scene = scene if dim in scene.dims else scene.expand_dims(dim)
    scene = scene.transpose("t", "bands", "y", "x")
    bands = [str(name) for name in data["bands"].to_numpy()] if "bands" in data.dims else []
    renamed = name_bands(call.udf, call.context, bands)
    chunk = Chunk.of(data, call, frame, renamed)
    source = scene.data if isinstance(scene.data, da.Array) else da.from_array(scene.to_numpy())
    values = map_chunks(source, chunk)
    coords = {name: coord for name, coord in scene.coords.items() if "bands" not in coord.dims}
    result = xr.DataArray(values, dims=("t", "bands", "y", "x"), coords=coords, name=data.name)
    result = result.assign_coords(bands=renamed) if renamed else result.isel(bands=0, drop=True)
    if "t" not in data.dims:
        result = result.isel(t=0, drop=True)
    return result.transpose(*(dim for dim in data.dims), ..., missing_dims="ignore")


def _check_dims(data: xr.DataArray) -> None:
    if set(data.dims) - {"t", "bands", "y", "x"} or not {"x", "y"} <= set(data.dims):
        raise GraphError(
            f"works on cubes of t, bands, y and x, got {data.dims}: rename or drop dimensions"
        )


@dataclass(frozen=True)
class Chunk:
    """What turns a window of pixels into the cube that a UDF gets, and back."""

    call: Call
    frame: Frame
    bands: tuple[str, ...]  # that come in; none if the cube has no such dimension
    returned: tuple[str, ...]  # that come out
    dates: tuple[np.datetime64, ...]  # none if the cube has no such dimension
    first: tuple[float, float]  # centre of the cube's first pixel, along y and x
    step: tuple[float, float]

    @classmethod
    def of(cls, data: xr.DataArray, call: Call, frame: Frame, returned: Sequence[str]) -> Chunk:
        """Read labels and pixel grid of a cube."""
        centres = [data[dim].to_numpy().astype(float) for dim in ("y", "x")]
        steps = [(c[-1] - c[0]) / (c.size - 1) if c.size > 1 else 1.0 for c in centres]
        return cls(
            call,
            frame,
            tuple(map(str, data["bands"].to_numpy())) if "bands" in data.dims else (),
            tuple(returned),
            tuple(data["t"].to_numpy()) if "t" in data.dims else (),
            (centres[0][0], centres[1][0]),
            (steps[0], steps[1]),
        )

    def plan(self, height: int, width: int) -> tuple[list[Span], list[Span]]:
        """Cut both axes; no window is larger than what the cube fills of the network's grid."""
        rows, columns = (
            cut(length, size=min(size, -(-length // STRIDE) * STRIDE), overlap=overlap)
            for length, size, overlap in zip(
                (height, width), self.frame.size, self.frame.overlap, strict=True
            )
        )
        return rows, columns

    def run(self, index: int | None, pixels: np.ndarray, window: Window) -> np.ndarray:
        """Pad what a window reads (layer, y, x), run the UDF, crop to the core.

        `index` is that of the date; None: the layers are all dates, each with its bands.
        """
        rows, columns = window.rows, window.columns
        pads = [(span.pad_before, span.pad_after) for span in (rows, columns)]
        padded = np.pad(pixels, [(0, 0), *pads], constant_values=np.nan)
        try:
            cube = self.wrap(index, padded, window)
            result = run_chunk(cube, self.call.udf, self.call.context, log=self.call.log)
            values = self.unwrap(result, cube)
        except (MemoryError, KeyboardInterrupt):
            raise
        except BaseException as error:  # client code may raise anything, SystemExit included
            kind = error if isinstance(error, Exception) else RuntimeError(repr(error))
            raise error_at(self.call.path, "run_udf", kind) from error
        core = [
            slice(s.crop.start + s.pad_before, s.crop.stop + s.pad_before) for s in (rows, columns)
        ]
        return values[:, core[0], core[1]]

    def wrap(self, index: int | None, padded: np.ndarray, window: Window) -> xr.DataArray:
        """Dress padded pixels as back ends do: coordinates are float32, dates UTC."""
        coords: dict[str, Any] = {}
        for axis, (dim, span) in enumerate({"y": window.rows, "x": window.columns}.items()):
            numbers = np.arange(span.read_start - span.pad_before, span.read_stop + span.pad_after)
            coords[dim] = (self.first[axis] + self.step[axis] * numbers).astype(np.float32)
        dims, shape = ["y", "x"], padded.shape[1:]
        if self.bands:
            coords["bands"] = list(self.bands)
            dims, shape = ["bands", *dims], (len(self.bands), *shape)
        attrs = {}
        if index is None and self.dates:
            coords["t"] = list(self.dates)
            dims, shape = ["t", *dims], (len(self.dates), *shape)
        elif index is not None and self.dates:
            attrs["t"] = pd.Timestamp(self.dates[index]).to_pydatetime()
        return xr.DataArray(padded.reshape(shape), dims=dims, coords=coords, attrs=attrs)

    def unwrap(self, result: xr.DataArray, cube: xr.DataArray) -> np.ndarray:
        """Check what a UDF returns; gives (layer, y, x) float32."""
        if self.returned and "bands" not in result.dims:
            raise GraphError(f"a UDF returns a cube with the dimension bands, got {result.dims}")
        if not self.returned and "bands" in result.dims:
            result = result.squeeze("bands", drop=True)
        dims = list(cube.dims) if not self.returned or self.bands else ["bands", *cube.dims]
        sizes = {str(dim): cube.sizes.get(dim) for dim in dims}
        if self.returned:
            sizes["bands"] = len(self.returned)
        if dict(result.sizes) != sizes:
            raise GraphError(
                f"a UDF returns as many pixels, dates and bands as its apply_metadata says "
                f"({sizes}), got {dict(result.sizes)}"
            )
        values = result.transpose(*dims).to_numpy().astype(np.float32)
        return values.reshape(-1, *values.shape[-2:])


def cut(length: int, *, size: int, overlap: int) -> list[Span]:
    """Cut an axis into windows of `size`, each padded to ``size + 2 * overlap``.

    Examples
    --------
    >>> [(span.read, span.pad_before, span.pad_after) for span in cut(10, size=8, overlap=2)]
    [(slice(0, 10, None), 2, 0), (slice(6, 10, None), 0, 8)]
    """
    spans = []
    for start in range(0, length, size):
        read_start, read_stop = max(0, start - overlap), min(length, start + size + overlap)
        spans.append(
            Span(
                start=start,
                stop=min(start + size, length),
                read_start=read_start,
                read_stop=read_stop,
                pad_before=read_start - (start - overlap),
                pad_after=start + size + overlap - read_stop,
            )
        )
    return spans


def map_chunks(source: da.Array, chunk: Chunk) -> da.Array:
    """Run a UDF on every window: (t, bands, y, x) -> (t, returned bands, y, x), one task each.

    A task computes what its window reads by itself and forgets it, instead of sharing the
    blocks of the source with its neighbours: they would wait in memory, two rows of them
    for every date.
    """
    rows, columns = chunk.plan(*source.shape[2:])
    dates: list[int | None] = list(range(source.shape[0])) if chunk.frame.per_date else [None]
    layers = max(1, len(chunk.returned))
    token = f"udf-{tokenize(source.name, chunk)}"
    graph = {
        (token, t, 0, i, j): (_read_and_run, chunk, source, date, Window(row, column))
        for (t, date), (i, row), (j, column) in product(
            enumerate(dates), enumerate(rows), enumerate(columns)
        )
    }
    spans = tuple(tuple(span.stop - span.start for span in spans) for spans in (rows, columns))
    together = (1,) * source.shape[0] if chunk.frame.per_date else (source.shape[0],)
    layer = HighLevelGraph.from_collections(token, graph, dependencies=[])
    return da.Array(layer, token, (together, (layers,), *spans), dtype=np.float32)


def _read_and_run(chunk: Chunk, source: da.Array, date: int | None, window: Window) -> np.ndarray:
    """Read one window of one date, or of all (None), and run the UDF: (t, layer, y, x)."""
    dates = slice(None) if date is None else slice(date, date + 1)
    part = source[dates, :, window.rows.read, window.columns.read]
    pixels = part.astype(np.float32).compute(scheduler="synchronous")
    values = chunk.run(date, pixels.reshape(-1, *pixels.shape[-2:]), window)
    return values.reshape(pixels.shape[0], -1, *values.shape[-2:])
