"""One pixel of many dates: the table of methods, and lazy stacks of dates to one of layers.

Every task takes one block of all dates of a period. What it gives is one float32 array whose
last two layers are how many dates were usable, and which date it is: one pass over the pixels.
Methods take blocks of values float32 (time, band, y, x) in order of time, and `usable`
bool (time, y, x). They go date by date where sums are made: the result of a pixel must not
depend on the block that it lies in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kappamask.base.bands import NEAR_INFRARED
from kappamask.base.errors import InputError, UnknownNameError
from kappamask.base.legend import Label
from kappamask.composites import FILLS
from kappamask.composites.periods import Period

if TYPE_CHECKING:
    import dask.array as da

BLOCK_BYTES = 32 * 2**20  # of reflectance in one task; it makes a few copies of that
LEAST_PX = 64  # of the side of a block: tasks must be worth their cost
NO_DATE = -1
UNLIKE = 0.05  # reflectance from the median; the changes of a field within weeks are smaller
Tiles = tuple[tuple[int, ...], tuple[int, ...]]


def median(values: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Take the middle value of each band, or the mean of the middle two: (band, y, x)."""
    ordered = np.sort(np.where(usable[:, None], values, np.nan), axis=0)  # NaN comes last
    count = usable.sum(axis=0)[None, None]
    low = np.take_along_axis(ordered, np.maximum(count - 1, 0) // 2, 0)[0]
    high = np.take_along_axis(ordered, np.minimum(count // 2, len(values) - 1), 0)[0]
    middle: np.ndarray = (low + high) / 2
    return middle


def percentile(values: np.ndarray, usable: np.ndarray, percent: float) -> np.ndarray:
    """Take the value of each band below which so many percent lie: (band, y, x).

    Between two dates linearly, as ``numpy.nanpercentile``.
    """
    ordered = np.sort(np.where(usable[:, None], values, np.nan), axis=0)
    place = np.maximum(usable.sum(axis=0) - 1, 0)[None, None] * (percent / 100)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, np.maximum(usable.sum(axis=0) - 1, 0)[None, None])
    below, above = (np.take_along_axis(ordered, index, 0)[0] for index in (low, high))
    value: np.ndarray = below + (place - low)[0] * (above - below)
    return value


def mean(values: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Average each band: (band, y, x)."""
    total = np.zeros(values.shape[1:])
    for layers, seen in zip(values, usable, strict=True):
        total += np.where(seen, layers, 0)
    count = usable.sum(axis=0)
    averages = np.full_like(total, np.nan)
    np.divide(total, count, out=averages, where=count > 0)
    return averages


def geomedian(values: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Find the spectrum with the least sum of distances to all: (band, y, x).

    Roberts, Mueller and McIntyre 2017, High-dimensional pixel composites from Earth
    observation time series, doi:10.1109/TGRS.2017.2723896; computed by geomad.
    """
    nangeomedian = import_geomedian()
    # (time, band, y, x) -> (y, x, band, time); its test for convergence adds up all bands
    stacked = np.where(usable[:, None], values, np.nan).transpose(2, 3, 1, 0)
    found = nangeomedian(np.ascontiguousarray(stacked, np.float32), eps=1e-6, num_threads=1)
    result: np.ndarray = np.moveaxis(found, -1, 0)
    return result


def import_geomedian() -> Callable[..., np.ndarray]:
    """Find the library, or say what to install."""
    try:
        from geomad import nangeomedian_pcm
    except ImportError:
        raise InputError(
            "method 'geomedian' needs the library geomad, which is not installed: "
            "pip install kappamask[geomedian], or take method='medoid'"
        ) from None
    return nangeomedian_pcm  # type: ignore[no-any-return]


# --- one date for all bands: marks (time, y, x), of which the highest chooses it -----------------


def centrality(values: np.ndarray, usable: np.ndarray, bands: Sequence[str]) -> np.ndarray:  # noqa: ARG001
    """Mark how near in reflectance a date is to all others: the highest is the medoid.

    Flood 2013, Seasonal composite Landsat TM/ETM+ images using the medoid,
    doi:10.3390/rs5126481.
    """
    count = len(values)
    sums = np.zeros(usable.shape)
    for one in range(count):
        for other in range(one + 1, count):
            squared = np.zeros(usable.shape[1:])
            for band in range(values.shape[1]):
                squared += (values[one, band].astype(float) - values[other, band]) ** 2
            apart = np.where(usable[one] & usable[other], np.sqrt(squared), 0)
            sums[one] += apart
            sums[other] += apart
    return -sums


def ndvi(values: np.ndarray, usable: np.ndarray, bands: Sequence[str]) -> np.ndarray:  # noqa: ARG001
    """Compute the vegetation index.

    It is the lowest there is where either band is 0 or less: there is no plant, but a shadow
    so deep that the correction of the atmosphere took too much, and an index of 1 or above.
    """
    near_infrared = next(name for name in NEAR_INFRARED if name in bands)
    bright, dark = values[:, bands.index(near_infrared)], values[:, bands.index("B04")]
    index = np.full(dark.shape, -np.inf, np.float32)
    np.divide(bright - dark, bright + dark, out=index, where=(bright > 0) & (dark > 0))
    return index


Blend = Callable[[np.ndarray, np.ndarray], np.ndarray]
Marks = Callable[[np.ndarray, np.ndarray, Sequence[str]], np.ndarray]
BLENDS: dict[str, Blend] = {
    "median": median, "mean": mean, "geomedian": geomedian, "percentile": median,
}  # fmt: skip
PICKS: dict[str, Marks | None] = {
    "best-pixel": None,  # its marks are made by `ranking`, which sees more than a block
    "medoid": centrality,
    "first-clear": lambda _, usable, __: usable,  # the earliest of equals
    "max-ndvi": ndvi,
}


def check_method(method: str, bands: Sequence[str]) -> None:
    """Refuse a method whose bands or library are absent."""
    if method == "geomedian":
        import_geomedian()
    if method == "max-ndvi" and not ("B04" in bands and set(NEAR_INFRARED) & set(bands)):
        raise InputError(
            f"method 'max-ndvi' needs B04 and B08 (or B8A), got {', '.join(bands)}: "
            "load these bands too, or take another method"
        )


def middle_date(usable: np.ndarray) -> np.ndarray:
    """Find the date in the middle of the usable ones, the earlier of two: indices (y, x)."""
    so_far = usable.cumsum(axis=0)
    index: np.ndarray = (so_far >= (so_far[-1] + 1) // 2).argmax(axis=0)
    return index


# --- which observations ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """Which observations of a pixel are used, beside how they are made one.

    Parameters
    ----------
    percent
        Of the method ``percentile``.
    likeness
        Weight of the mark that best-pixel gives to nearness to the median of all that is usable,
        in reflectance.
    at_least
        Usable observations without which a pixel stays empty.
    at_most
        Observations that are used, the best by their marks; None for all.
    fill
        One of `kappamask.composites.FILLS`: what is taken where no date is usable.

    Raises
    ------
    InputError, UnknownNameError
        If a number cannot be meant, or nothing fills like that.
    """

    percent: float = 50.0
    likeness: float = 0.0
    at_least: int = 1
    at_most: int | None = None
    fill: str | None = None

    def __post_init__(self) -> None:
        """Refuse numbers of observations, percentiles and fills that cannot be meant."""
        if self.fill not in (None, *FILLS):
            raise UnknownNameError.of("fill", str(self.fill), list(FILLS))
        counts = {"min_observations": self.at_least, "max_observations": self.at_most}
        for name, count in counts.items():
            if count is not None and (type(count) is not int or count < 1):
                raise InputError(f"{name} is a number of dates, 1 or more, got {count!r}")
        if self.at_most is not None and self.at_most < self.at_least:
            raise InputError(
                f"max_observations must not be below min_observations, got {self.at_most} and "
                f"{self.at_least}: no pixel could have both"
            )
        if not 0 <= self.percent <= 100:
            raise InputError(f"a percentile lies between 0 and 100, got {self.percent!r}")


def drop_poor(usable: np.ndarray, poor: np.ndarray) -> np.ndarray:
    """Drop poor observations where another one stays: bool (time, y, x)."""
    good = usable & ~poor
    kept: np.ndarray = np.where(good.any(axis=0), good, usable)
    return kept


def keep_best(usable: np.ndarray, marks: np.ndarray, at_most: int) -> np.ndarray:
    """Keep the observations with the best marks, of equals the earliest: bool (time, y, x)."""
    order = np.argsort(-np.where(usable, marks, -np.inf), axis=0, kind="stable")
    places = np.argsort(order, axis=0, kind="stable")
    kept: np.ndarray = usable & (places < at_most)
    return kept


def mark_likeness(values: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Mark how near an observation is to the median of the usable ones: 0 to 1, (time, y, x).

    Haze, a missed shadow, a wet or burnt day lie far from it, whatever a mask says; `UNLIKE` in
    the mean of the bands is as far as counts.
    """
    middle = median(values, usable)
    marks = np.empty(usable.shape, np.float32)
    for mark, date in zip(marks, values, strict=True):
        apart = np.zeros(mark.shape)
        for band, typical in zip(date, middle, strict=True):
            apart += np.abs(band - typical)
        mark[:] = 1 - np.minimum(apart / len(date), UNLIKE) / UNLIKE
    return np.nan_to_num(marks)


def mark_cloudiness(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Mark how little cloud an observation has: (time, y, x), -inf without data.

    By class first (clear beside a cloud, semi-transparent, shadow, cloud), of one class the
    darkest in its first band.
    """
    rank = np.array([0, 4, 2, 3, 1, 0], np.float32)[codes]
    marks = rank - np.clip(np.nan_to_num(values[:, 0]), 0, 1) * np.float32(0.9)
    there = np.isfinite(values).all(axis=1) & (codes != Label.MISSING)
    return np.where(there, marks, -np.inf)


# --- blocks ---------------------------------------------------------------------------------------


def compose_periods(
    stacks: Mapping[str, da.Array],
    periods: Sequence[Period],
    *,
    method: str,
    bands: Sequence[str],
    choice: Choice = Choice(),
) -> da.Array:
    """Make one layer stack of the dates of each period.

    Parameters
    ----------
    stacks
        ``values``, reflectance (time, band, y, x) in order of time, NaN = no data. Of (time, y, x):
        ``clear``, bool, where it is; ``codes``, uint8, of classes. Perhaps ``poor``, bool; and for
        best-pixel, or where observations are limited, ``marks``, float32.
    periods
        What `split_dates` gave.
    method, bands
        One of `kappamask.composites.METHODS`, and the names of the bands.
    choice
        Which observations are used.

    Returns
    -------
    dask.array.Array
        float32 (period, band + 3, y, x): the bands, NaN where no date is usable; how many
        dates were; the index of the chosen one, or of the middle one of a blend, counted
        from the first date of the cube, else -1; 1 where any date has data.
    """
    import dask.array as da

    most = max(period.count for period in periods)
    values = stacks["values"]
    tiles = split_chunks(values.chunks[2:], layers=most * len(bands))
    names = ["values", *(name for name in stacks if name != "values")]
    layered = [values, *(stacks[name][:, None] for name in names[1:])]
    layers = []
    for period in periods:
        dates = [stack[period.dates] for stack in layered]
        if not period.count:  # one date that is nowhere clear, and has no data, stands for none
            empty = {"values": np.nan, "codes": int(Label.MISSING)}
            dates = [
                da.full((1, *stack.shape[1:]), empty.get(name, 0), dtype=stack.dtype)
                for name, stack in zip(names, layered, strict=True)
            ]
        layers.append(
            da.map_blocks(
                _compose_block,
                *(date.rechunk({0: -1, 1: -1, 2: tiles[0], 3: tiles[1]}) for date in dates),
                names=names,
                first=period.dates.start,
                method=method,
                bands=list(bands),
                choice=choice,
                chunks=((1,), (len(bands) + 3,), *tiles),
                dtype=np.float32,
                meta=np.empty((0, 0, 0, 0), np.float32),
                token=f"composite-{method}",
            )
        )
    return da.concatenate(layers)


def _compose_block(
    *blocks: np.ndarray,
    names: Sequence[str],
    first: int,
    method: str,
    bands: Sequence[str],
    choice: Choice,
) -> np.ndarray:
    """Make one layer stack of the dates of a period, of which `first` is the index of the first.

    Takes float32 values (time, band, y, x) in order of time, and the other stacks of
    `compose_periods` (time, 1, y, x). A date is usable where it is clear and every band has data.
    """
    values, *flat = blocks
    given = {name: block[:, 0] for name, block in zip(names[1:], flat, strict=True)}
    data = np.isfinite(values).all(axis=1) & (given["codes"] != Label.MISSING)
    usable = given["clear"] & data
    if "poor" in given:
        usable = drop_poor(usable, given["poor"])
    marks = given.get("marks")
    if choice.at_most is not None and marks is not None:
        usable = keep_best(usable, marks, choice.at_most)
    count = usable.sum(axis=0)
    enough = count >= choice.at_least
    if method in BLENDS:
        index = middle_date(usable)
        pixels = (
            percentile(values, usable, choice.percent)
            if method == "percentile"
            else BLENDS[method](values, usable)
        )
    else:
        make_marks = PICKS[method]
        score = make_marks(values, usable, bands) if make_marks else given["marks"]
        if not make_marks and choice.likeness:
            score = score + np.float32(choice.likeness) * mark_likeness(values, usable)
        index = np.where(usable, score, -np.inf).argmax(axis=0)  # the earliest of equals
        pixels = np.take_along_axis(values, index[None, None], axis=0)[0]
    if choice.fill:
        least = mark_cloudiness(values, given["codes"])
        taken = least.argmax(axis=0)
        fill = ~enough & np.isfinite(least.max(axis=0))
        pixels = np.where(fill, np.take_along_axis(values, taken[None, None], axis=0)[0], pixels)
        index, enough = np.where(fill, taken, index), enough | fill
    result = np.empty((1, len(bands) + 3, *count.shape), np.float32)
    result[0, :-3] = np.where(enough, pixels, np.nan)
    result[0, -3] = count
    result[0, -2] = np.where(enough, first + index, NO_DATE)
    result[0, -1] = data.any(axis=0)
    return result


def split_chunks(chunks: Tiles, *, layers: int) -> Tiles:
    """Cut chunks along y and x into blocks that hold at most `BLOCK_BYTES` of all layers.

    Examples
    --------
    >>> split_chunks(((1536,), (1000, 536)), layers=48)
    ((384, 384, 384, 384), (333, 333, 334, 268, 268))
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
