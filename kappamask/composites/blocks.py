"""Lazy stacks of dates to one lazy layer stack.

Every task takes one block of all dates of a period. What it gives is one float32 array whose
last two layers are how many dates were usable, and which date it is: one pass over the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kappamask.composites.methods import BLENDS, PICKS, middle_date
from kappamask.composites.periods import Period

if TYPE_CHECKING:
    import dask.array as da

BLOCK_BYTES = 64 * 2**20  # of reflectance in one task; it makes a few copies of that
LEAST_PX = 64  # of the side of a block: tasks must be worth their cost
NO_DATE = -1
Tiles = tuple[tuple[int, ...], tuple[int, ...]]


def compose_array(
    values: np.ndarray,
    clear: np.ndarray,
    marks: np.ndarray | None = None,
    *,
    method: str,
    bands: Sequence[str] = (),
) -> np.ndarray:
    """Make one layer stack of the dates of a period.

    Parameters
    ----------
    values
        Reflectance float32 (time, band, y, x), in order of time; NaN = no data.
    clear
        bool (time, y, x).
    marks
        float32 (time, y, x), for ``best-pixel``.
    method, bands
        One of `kappamask.composites.METHODS`, and the names of the bands.

    Returns
    -------
    numpy.ndarray
        float32 (band + 2, y, x): the bands, NaN where no date is usable; how many dates
        were; the index of the chosen one, or of the middle one of a blend, else -1.
        A date is usable where it is clear and every band has data.

    Examples
    --------
    >>> values = np.array([0.1, 0.3, 0.2], "float32").reshape(3, 1, 1, 1)
    >>> compose_array(values, np.array([[[True]], [[True]], [[False]]]),
    ...               method="median").ravel().tolist()
    [0.20000000298023224, 2.0, 0.0]
    """
    usable = clear & np.isfinite(values).all(axis=1)
    if method in BLENDS:
        pixels, index = BLENDS[method](values, usable), middle_date(usable)
    else:
        if (make_marks := PICKS[method]) is not None:
            marks = make_marks(values, usable, bands)
        index = np.where(usable, marks, -np.inf).argmax(axis=0)  # type: ignore[arg-type]
        pixels = np.take_along_axis(values, index[None, None], axis=0)[0]
    count = usable.sum(axis=0)
    return np.concatenate(
        [
            np.where(count > 0, pixels, np.nan),
            count[None],
            np.where(count > 0, index, NO_DATE)[None],
        ],
        dtype=np.float32,
        casting="same_kind",
    )


def compose_periods(
    stacks: Sequence[da.Array], periods: Sequence[Period], *, method: str, bands: Sequence[str]
) -> da.Array:
    """Apply `compose_array` to each period: lazy float32 (period, band + 2, y, x).

    Parameters
    ----------
    stacks
        Values (time, band, y, x), clear and perhaps marks, both (time, y, x).
    periods, method, bands
        As `split_dates` and `compose_array` have them.

    Returns
    -------
    dask.array.Array
        Its last layer counts dates from the first one of the cube.
    """
    import dask.array as da

    most = max(period.count for period in periods)
    tiles = split_chunks(stacks[0].chunks[2:], layers=most * len(bands))
    stacks = [stacks[0], *(stack[:, None] for stack in stacks[1:])]
    layers = []
    for period in periods:
        dates = [stack[period.dates] for stack in stacks]
        if not period.count:  # one date that is nowhere clear stands for none
            dates = [da.zeros((1, *stack.shape[1:]), dtype=stack.dtype) for stack in stacks]
        layers.append(
            da.map_blocks(
                _compose_block,
                *(date.rechunk({0: -1, 1: -1, 2: tiles[0], 3: tiles[1]}) for date in dates),
                first=period.dates.start,
                method=method,
                bands=list(bands),
                chunks=((1,), (len(bands) + 2,), *tiles),
                dtype=np.float32,
                meta=np.empty((0, 0, 0, 0), np.float32),
                token=f"composite-{method}",
            )
        )
    return da.concatenate(layers)


def _compose_block(
    values: np.ndarray, *others: np.ndarray, first: int, method: str, bands: Sequence[str]
) -> np.ndarray:
    result = compose_array(values, *(one[:, 0] for one in others), method=method, bands=bands)
    result[-1] += np.where(result[-1] == NO_DATE, 0, first)
    return result[None]


def split_chunks(chunks: Tiles, *, layers: int) -> Tiles:
    """Cut chunks along y and x into blocks that hold at most `BLOCK_BYTES` of all layers.

    Examples
    --------
    >>> split_chunks(((1536,), (1000, 536)), layers=48)
    ((512, 512, 512), (500, 500, 536))
    """
    edge = max(LEAST_PX, int((BLOCK_BYTES / (4 * layers)) ** 0.5))
    rows, columns = (
        tuple(
            int(part)
            for size in sizes
            for part in np.diff(np.linspace(0, size, -(-size // edge) + 1).astype(int))
        )
        for sizes in chunks
    )
    return rows, columns
