"""Lazy stacks of dates to one lazy layer stack. Row 5: imports rows 0-4.

Every task takes one block of all dates of a period. What it gives is one float32 array whose
last two layers are how many dates were usable, and which date it is: one pass over the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kappamask.base.bands import NEAR_INFRARED
from kappamask.base.errors import InputError
from kappamask.composites import methods
from kappamask.composites.periods import Period
from kappamask.composites.ranking import Marks, Ranking

if TYPE_CHECKING:
    import dask.array as da

BLOCK_BYTES = 64 * 2**20  # of reflectance in one task; it makes a few copies of that
LEAST_PX = 64  # of the side of a block: tasks must be worth their cost
NO_DATE = -1


@dataclass(frozen=True)
class Method:
    """A method by name, and what it needs beside the values."""

    name: str
    red: int = 0  # where B04 and a near infrared stand among the bands, for max-ndvi
    near_infrared: int = 0

    def choose(
        self, values: np.ndarray, usable: np.ndarray, score: np.ndarray | None
    ) -> np.ndarray:
        """Choose one date for each pixel: indices (y, x)."""
        if self.name == "medoid":
            return methods.medoid(values, usable)
        if self.name == "max-ndvi":
            return methods.highest(methods.ndvi(values, self.red, self.near_infrared), usable)
        if score is not None:
            return methods.highest(score, usable)
        return methods.first_clear(values, usable)


def find_method(name: str, bands: Sequence[str]) -> Method:
    """Look up a method and the bands that it asks for.

    Raises
    ------
    InputError
        If a band that the method needs is absent, or its library is.
    """
    if name == "geomedian":
        methods.import_geomedian()
    if name != "max-ndvi":
        return Method(name)
    infrared = [band for band in NEAR_INFRARED if band in bands]
    if "B04" not in bands or not infrared:
        raise InputError(
            f"method 'max-ndvi' needs B04 and B08 (or B8A), got {', '.join(bands)}: "
            "load these bands too, or take another method"
        )
    return Method(name, list(bands).index("B04"), list(bands).index(infrared[0]))


def compose_array(
    values: np.ndarray, clear: np.ndarray, score: np.ndarray | None = None, *, method: Method
) -> np.ndarray:
    """Make one layer stack of the dates of a period.

    Parameters
    ----------
    values
        Reflectance float32 (time, band, y, x), in order of time; NaN = no data.
    clear
        bool (time, y, x), or (time, 1, y, x).
    score
        float32 (time, y, x), or (time, 1, y, x), for ``best-pixel``.
    method
        What `find_method` gave.

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
    ...               method=Method("median")).ravel().tolist()
    [0.20000000298023224, 2.0, 0.0]
    """
    shape = (len(values), *values.shape[2:])
    usable = clear.reshape(shape) & np.isfinite(values).all(axis=1)
    if method.name in methods.BLENDS:
        bands = methods.BLENDS[method.name](values, usable)
        index = methods.middle_date(usable)
    else:
        index = method.choose(values, usable, None if score is None else score.reshape(shape))
        bands = np.take_along_axis(values, index[None, None], axis=0)[0]
    count = usable.sum(axis=0)
    result = np.empty((values.shape[1] + 2, *shape[1:]), np.float32)
    result[:-2] = np.where(count > 0, bands, np.nan)
    result[-2] = count
    result[-1] = np.where(count > 0, index, NO_DATE)
    return result


def compose_periods(
    values: da.Array, clear: da.Array, periods: Sequence[Period], method: Method, rank: Rank | None
) -> da.Array:
    """Apply `compose_array` to each period: lazy float32 (period, band + 2, y, x).

    The last layer counts dates from the first one of the cube.
    """
    import dask.array as da

    most = max(period.count for period in periods)
    tiles = split_chunks(values.chunks[2:], layers=most * values.shape[1])
    layers = []
    for period in periods:
        if not period.count:
            layers.append(_nothing(values.shape[1], tiles))
            continue
        score = None if rank is None else rank.score(period)
        layers.append(_compose_period(values, clear, score, period, method, tiles))
    return da.concatenate(layers)


@dataclass(frozen=True)
class Rank:
    """A ranking with its marks, ready for any period."""

    ranking: Ranking
    marks: Marks
    times: np.ndarray  # datetime64 (time,)

    def score(self, period: Period) -> da.Array:
        """Score the dates of a period."""
        near = self.ranking.near(self.times[period.dates], period)
        return self.marks.score(self.ranking, period.dates, near)


Tiles = tuple[tuple[int, ...], tuple[int, ...]]


def _compose_period(  # all that one period is made of
    values: da.Array,
    clear: da.Array,
    score: da.Array | None,
    period: Period,
    method: Method,
    tiles: Tiles,
) -> da.Array:
    import dask.array as da

    inputs = [values[period.dates], clear[period.dates, None]]
    if score is not None:
        inputs.append(da.broadcast_to(score, clear[period.dates].shape)[:, None])
    blocks = [array.rechunk({0: -1, 1: -1, 2: tiles[0], 3: tiles[1]}) for array in inputs]
    first = period.dates.start

    def work(values: np.ndarray, *others: np.ndarray) -> np.ndarray:
        result = compose_array(values, *others, method=method)
        result[-1] += np.where(result[-1] == NO_DATE, 0, first)
        return result[None]

    layers = values.shape[1] + 2
    return da.map_blocks(
        work,
        *blocks,
        chunks=((1,), (layers,), *tiles),
        dtype=np.float32,
        meta=np.empty((0, 0, 0, 0), np.float32),
        name=f"composite-{method.name}-{_token(blocks, method, period)}",
    )


def _token(blocks: Sequence[da.Array], method: Method, period: Period) -> str:
    from dask.base import tokenize

    names = [block.name for block in blocks]
    return str(tokenize(names, method.name, method.red, method.near_infrared, period.dates.start))


def _nothing(bands: int, tiles: Tiles) -> da.Array:
    import dask.array as da

    shape = (1, 1, sum(tiles[0]), sum(tiles[1]))
    chunks = ((1,), (1,), *tiles)
    none = [np.nan] * bands + [0.0, float(NO_DATE)]
    layers = [da.full(shape, value, dtype=np.float32, chunks=chunks) for value in none]
    return da.concatenate(layers, axis=1).rechunk({1: -1})


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
