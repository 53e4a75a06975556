"""One dask task per date and window, each reading its own margin. Imports `base` only.

`dask.array.map_overlap` would make ten times the tasks, and would tie windows to
chunks; here the windows are given, and every task takes the parts it reads out of
whatever blocks hold them.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.base.windows import Span, Window

if TYPE_CHECKING:
    import dask.array as da

Work = Callable[[np.ndarray, Window], np.ndarray]


def map_windows(
    work: Work,
    source: da.Array,
    plan: tuple[Sequence[Span], Sequence[Span]],
    *,
    token: str,
    leading: tuple[int, ...] = (),
    dtype: Any,
) -> da.Array:
    """Apply `work` to every date and window of a lazy array.

    Parameters
    ----------
    work
        Takes (band, y, x) of what a window reads, and the window; returns its core,
        (*leading, y, x).
    source
        (time, band, y, x), chunked in any way; its first pixel is the first that is read.
    plan
        Spans along y and along x.
    token
        Names the result: the same work on the same source must have the same token.
    leading, dtype
        Of the result.

    Returns
    -------
    dask.array.Array
        (time, *leading, y, x), one chunk per date and window.

    Examples
    --------
    >>> import dask.array as da
    >>> from kappamask.base.windows import plan_axis
    >>> cube = da.ones((2, 3, 40, 50), chunks=(1, 1, 7, 50))
    >>> plan = plan_axis(40), plan_axis(50)
    >>> total = map_windows(lambda scene, _: scene.sum(0), cube, plan, token="t", dtype=float)
    >>> total.sum().compute()
    np.float64(12000.0)
    """
    import dask.array as da
    from dask.highlevelgraph import HighLevelGraph

    rows, columns = plan
    begins = rows[0].read_start, columns[0].read_start
    packed = Packed(work)
    dates = [
        (block, offset)
        for block, span in locate(source.chunks[0], slice(0, source.shape[0]))
        for offset in range(span.stop)
    ]
    bands = range(len(source.chunks[1]))
    graph: dict[Any, Any] = {}
    for (t, (date, offset)), (i, row), (j, column) in product(
        enumerate(dates), enumerate(rows), enumerate(columns)
    ):
        ys, xs = (
            locate(sizes, slice(span.read_start - first, span.read_stop - first))
            for sizes, span, first in zip(source.chunks[2:], (row, column), begins, strict=True)
        )
        blocks = [
            [[(source.name, date, band, y, x) for x, _ in xs] for y, _ in ys] for band in bands
        ]
        parts = [[(offset, slice(None), y, x) for _, x in xs] for _, y in ys]
        key = (token, t, *(0 for _ in leading), i, j)
        graph[key] = (_work_on_parts, packed, blocks, parts, Window(row, column))
    chunks = (
        (1,) * len(dates),
        *((size,) for size in leading),
        *(tuple(span.stop - span.start for span in spans) for spans in plan),
    )
    layers = HighLevelGraph.from_collections(token, graph, dependencies=[source])
    return da.Array(layers, token, chunks, dtype=dtype)


def take_cells(pixels: da.Array, stride: tuple[int, int]) -> da.Array:
    """Take one pixel of each cell of `stride` pixels, near its middle: (..., y, x), of numpy too.

    Not a mean: that would have to know where chunks begin.
    """
    rows, columns = (
        slice(min(step // 2, size - 1), None, step)
        for step, size in zip(stride, pixels.shape[-2:], strict=True)
    )
    return pixels[..., rows, columns]


def average_cells(pixels: da.Array, stride: tuple[int, int]) -> da.Array:
    """Average each whole cell of `stride` pixels: (..., y, x), NaN where a pixel is.

    Chunks are moved to borders of cells. Sums are made in one order, whatever the chunks: values
    do not depend on them.

    Examples
    --------
    >>> import dask.array as da
    >>> pixels = da.from_array(np.array([[1.0, 2, 3, 6, 9]]), chunks=(1, 3))
    >>> average_cells(pixels, (1, 2)).compute()
    array([[1.5, 4.5]])
    """
    import dask.array as da

    down, across = stride
    rows, columns = _on_cells(pixels.chunks[-2], down), _on_cells(pixels.chunks[-1], across)

    def average(block: np.ndarray) -> np.ndarray:
        height, width = block.shape[-2] // down, block.shape[-1] // across
        total = np.zeros((*block.shape[:-2], height, width), block.dtype)
        for row, column in product(range(down), range(across)):
            total += block[..., row : height * down : down, column : width * across : across]
        mean: np.ndarray = total / block.dtype.type(down * across)
        return mean

    cells = tuple(size // down for size in rows), tuple(size // across for size in columns)
    return da.map_blocks(
        average,
        pixels.rechunk((*pixels.chunks[:-2], rows, columns)),
        chunks=(*pixels.chunks[:-2], *cells),
        dtype=pixels.dtype,
        meta=np.empty((0,) * pixels.ndim, pixels.dtype),
    )


def _on_cells(sizes: Sequence[int], step: int) -> tuple[int, ...]:
    """Move the borders of chunks down to those of cells; the last chunk has a whole cell."""
    length = sum(sizes)
    borders = {int(border) // step * step for border in np.cumsum(sizes)[:-1]}
    inner = sorted(border for border in borders if 0 < border <= length - step)
    return tuple(int(size) for size in np.diff([0, *inner, length]))


def repeat_cells(
    cells: da.Array, stride: tuple[int, int], chunks: Sequence[Sequence[int]]
) -> da.Array:
    """Give every pixel the value of its cell: what `take_cells` undoes.

    Parameters
    ----------
    cells
        (..., y, x), chunked in any way.
    stride
        Pixels per cell along y and x.
    chunks
        Of the result along y and x. Pixels behind the last whole cell are of that.

    Examples
    --------
    >>> import dask.array as da
    >>> repeat_cells(da.from_array(np.array([[1, 2]])), (1, 2), ((1,), (3, 2))).compute()
    array([[1, 1, 2, 2, 2]])
    """
    import dask.array as da

    for axis, step, sizes in zip((-2, -1), stride, chunks, strict=True):
        length, start, parts = cells.shape[axis], 0, []
        for size in sizes:
            at = np.minimum(np.arange(start, start + size) // step, length - 1)
            part = da.take(cells, np.arange(at[0], at[-1] + 1), axis=axis)
            repeated = da.take(part.rechunk({part.ndim + axis: -1}), at - at[0], axis=axis)
            parts.append(repeated)
            start += size
        cells = da.concatenate(parts, axis=axis).rechunk({cells.ndim + axis: tuple(sizes)})
    return cells


@dataclass(frozen=True, eq=False)
class Packed:
    """Work that travels as bytes, so that only who does it loads what it needs.

    A scheduler of `dask.distributed` unpickles and pickles every task that it passes on:
    for that it shall not load a network.

    Examples
    --------
    >>> arrived = pickle.loads(pickle.dumps(Packed(np.add)))
    >>> arrived(1, 2), arrived.work
    (np.int64(3), None)
    """

    work: Any  # None where it arrived as bytes
    content: bytes = b""

    def __call__(self, *arguments: Any) -> Any:
        """Do the work, unpacked once per process."""
        work = self.work if self.work is not None else _unpack(self.content)
        return work(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as bytes; work of a script or notebook goes with its code."""
        import cloudpickle

        return Packed, (None, self.content or cloudpickle.dumps(self.work))


@cache
def _unpack(content: bytes) -> Any:
    return pickle.loads(content)  # noqa: S301  what this room pickled: dask would do the same


def locate(sizes: Sequence[int], span: slice) -> list[tuple[int, slice]]:
    """Which blocks of an axis a span overlaps, and which part of each.

    Examples
    --------
    >>> locate((10, 10, 10), slice(8, 21))
    [(0, slice(8, 10, None)), (1, slice(0, 10, None)), (2, slice(0, 1, None))]
    """
    parts, start = [], 0
    for block, size in enumerate(sizes):
        low, high = max(span.start - start, 0), min(span.stop - start, size)
        if low < high:
            parts.append((block, slice(low, high)))
        start += size
    return parts


def _work_on_parts(
    work: Work,
    blocks: list[list[list[np.ndarray]]],
    parts: list[list[tuple[Any, ...]]],
    window: Window,
) -> np.ndarray:
    """Join the parts of the blocks that one window reads, and work on them.

    Blocks stand in a grid (band, y, x); of each column of bands the same part is read.
    """
    scenes = [
        [
            [block[part] for block, part in zip(*row, strict=True)]
            for row in zip(grid, parts, strict=True)
        ]
        for grid in blocks
    ]
    alone = len(scenes) == len(scenes[0]) == len(scenes[0][0]) == 1
    scene = scenes[0][0][0] if alone else np.block(scenes)  # alone a view: nothing is copied
    return work(scene, window)[None]
