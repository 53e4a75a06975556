"""Labels of several dates, corrected by one another and by the sun. Imports `sunlight`, `base`.

What a cube of dates knows more than each of them: a roof that is cloud on every clear date is
ground, a lake that is shadow on every date is water, a shadow has a cloud between it and the sun.
Everything here takes cloud and shadow away; nothing turns clear ground into either, so that what a
field does by itself (harvest, flood, fire) stays clear. Only labels are read: a harvest
cannot be taken for anything, and hundreds of dates need little memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.base.errors import InputError
from kappamask.base.legend import LEGEND, PREDICTED, Label
from kappamask.predict.array import most_probable
from kappamask.predict.blocks import repeat_cells, take_cells
from kappamask.predict.cube import BY, REFINED, check_same
from kappamask.predict.sunlight import Sun, find_shaded

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr

FEWEST = 3  # dates that can be witnesses of one another
WITNESSES = 12  # nearest other dates that are asked; more say little more
BOX_PX = 61  # around a pixel: how clear a date is there
CALM_FROM = 0.9  # clear share of that box: what is not clear is a speck, not weather
TWICE = 2  # other dates with shadow at one place: clouds do not come back to the pixel
BLOCK_PX = 512  # pixels per side of what one task refines
RUN = 24  # dates that one task refines,
RUN_PX = 2**28  # and pixels of all of them


def refine(labels: xr.DataArray, cube: xr.DataArray | None = None) -> xr.DataArray:
    """Correct each date by the others and by the sun, lazily.

    A shadow that no cloud casts becomes clear (`kappamask.predict.sunlight`); so does a pixel that
    is not clear on at least half of three or more calm dates, those that are clear around it; and
    a shadow that lies on at least two other dates, and half of those without cloud, in the same
    place. Nothing becomes cloud or shadow. One date alone comes back as it is.

    Parameters
    ----------
    labels
        uint8 class codes (time, y, x) as `predict_cube` gives them, or its probabilities
        (time, label, y, x); dates in any order. The sun stands in the coordinates
        `sun_azimuth` and `sun_elevation`, degrees; a date without is not asked for it.
    cube
        Of the same dates and pixels; only for coordinates that `labels` lack.

    Returns
    -------
    xarray.DataArray
        As `labels`, with the coordinate ``witnesses`` (time): the dates, at most twelve, that
        each date was refined by, separated by spaces. Of probabilities, what is taken from
        cloud and shadow goes to clear.

    Raises
    ------
    InputError
        If it is neither, or `cube` is of other dates or pixels.

    Notes
    -----
    The result does not depend on chunks. A task takes some dates of 512 x 512 px and 30 px
    around them; the sun needs a map of the whole date, a pixel each 40 m.

    Examples
    --------
    >>> import xarray as xr
    >>> codes = np.ones((4, 70, 70), "uint8")
    >>> codes[:, 30:33, 30:33] = 4  # a roof, on every date
    >>> times = np.array(["2022-06-02", "2022-06-12", "2022-06-20", "2022-06-30"], "M8[ns]")
    >>> labels = xr.DataArray(codes, dims=("time", "y", "x"), coords={"time": times})
    >>> int((refine(labels) == 4).sum())
    0
    """
    if cube is not None:
        check_same(cube, labels, "be of the same dates and pixels", dims=("time", "y", "x"))
        names = ("time", "y", "x", "sun_azimuth", "sun_elevation")
        found = {name: cube[name] for name in names if name in cube.coords}
        labels = labels.assign_coords({n: c for n, c in found.items() if n not in labels.coords})
    given = labels
    if "label" in labels.dims:
        labels = _most_likely(labels)
    if labels.dtype != np.uint8 or set(labels.dims) != {"time", "y", "x"}:
        raise InputError(
            "labels to refine are uint8 (time, y, x), or probabilities (time, label, y, x), got "
            f"{given.dtype} {given.dims}: pass what predict_cube returned"
        )
    labels = labels.transpose("time", "y", "x")
    if labels.sizes["time"] < 2:
        return given
    asked = choose_witnesses(labels["time"].values)
    raw = labels.chunk({"time": 1}).data
    codes = _settle(raw, _without_cloudless_shadow(labels, raw), asked)
    days = np.datetime_as_string(labels["time"].values, unit="D")
    told = [" ".join(days[np.sort(others)]) for others in asked]
    refined = labels.copy(data=codes).assign_coords({BY: ("time", told)})
    refined.attrs[REFINED] = 1
    if "label" not in given.dims:
        return refined
    return _move_to_clear(given, labels, refined)


def refine_array(
    codes: np.ndarray,
    times: np.ndarray,
    *,
    suns: Sequence[Sun | None] = (),
) -> np.ndarray:
    """Correct dates in memory by one another and by the sun, as `refine` does.

    Parameters
    ----------
    codes
        uint8 class codes (time, y, x).
    times
        datetime64 (time,), in any order.
    suns
        Of each date; None where it is not known, none at all for no date.

    Returns
    -------
    numpy.ndarray
        uint8 (time, y, x).

    Examples
    --------
    >>> codes = np.ones((4, 70, 70), "uint8")
    >>> codes[:, 30:33, 30:33] = 4
    >>> times = np.array(["2022-06-02", "2022-06-12", "2022-06-20", "2022-06-30"], "M8[ns]")
    >>> int((refine_array(codes, times) == 4).sum())
    0
    """
    if len(codes) < 2:
        return codes
    lit = codes.copy()
    for date, sun in zip(lit, suns or [None] * len(codes), strict=True):
        if sun is not None and sun.known:
            shaded = find_shaded(take_cells(date, sun.stride), sun)
            cells = (
                np.minimum(np.arange(size) // step, count - 1)  # pixels behind the last are of that
                for size, step, count in zip(date.shape, sun.stride, shaded.shape, strict=True)
            )
            date[:] = _clear_where_lit(date, shaded[np.ix_(*cells)])
    asked = [others.tolist() for others in choose_witnesses(times)]
    return settle(np.stack([codes, lit]), own=range(len(codes)), asked=asked)


def choose_witnesses(times: np.ndarray) -> list[np.ndarray]:
    """List, for each date, the nearest others: indices.

    Examples
    --------
    >>> choose_witnesses(np.array(["2022-06-02", "2022-06-12", "2022-06-20"], "M8[ns]"))[0].tolist()
    [1, 2]
    """
    days = times.astype("M8[ns]").astype(np.int64)
    order = (np.argsort(np.abs(days - day), kind="stable") for day in days)
    return [
        np.array([other for other in near if other != index][:WITNESSES])
        for index, near in enumerate(order)
    ]


# --- the sun ------------------------------------------------------------------------------------


def _without_cloudless_shadow(labels: xr.DataArray, codes: da.Array) -> da.Array:
    """Make shadow clear that no cloud casts, date by date."""
    import dask.array as da

    if not {"sun_azimuth", "sun_elevation"} <= set(labels.coords):
        return codes
    angles = np.stack([labels["sun_azimuth"].values, labels["sun_elevation"].values], axis=1)
    step = _step(labels, "y", south=-1.0), _step(labels, "x", south=1.0)
    dates = []
    for date, (azimuth, elevation) in zip(codes, angles, strict=True):
        sun = Sun(float(azimuth), float(elevation), step)
        if not sun.known or 0 in step:
            dates.append(date)
            continue
        shaded = take_cells(date, sun.stride).rechunk(-1).map_blocks(find_shaded, sun, dtype=bool)
        fine = repeat_cells(shaded, sun.stride, date.chunks)
        dates.append(da.map_blocks(_clear_where_lit, date, fine, dtype=np.uint8))
    return da.stack(dates)


def _clear_where_lit(codes: np.ndarray, shaded: np.ndarray) -> np.ndarray:
    lit = (codes == Label.CLOUD_SHADOW) & ~shaded
    return np.where(lit, np.uint8(Label.CLEAR), codes)


def _step(labels: xr.DataArray, dim: str, *, south: float) -> float:
    """Metres per pixel in the direction of rows to the south, columns to the east; 0: not known."""
    if dim not in labels.coords or labels.sizes[dim] < 2:
        return 0.0
    centres = labels[dim].values
    return float(south * (centres[-1] - centres[0]) / (centres.size - 1))


# --- other dates --------------------------------------------------------------------------------


def _settle(raw: da.Array, lit: da.Array, asked: Sequence[np.ndarray]) -> da.Array:
    """Ask the witnesses of every date, some dates and 512 px at a time."""
    import dask.array as da
    from dask.array.overlap import overlap

    both = da.stack([raw, lit]).rechunk({2: BLOCK_PX, 3: BLOCK_PX})
    reach = BOX_PX // 2
    depth = {2: min(reach, raw.shape[1]), 3: min(reach, raw.shape[2])}
    wide = overlap(both, depth={0: 0, 1: 0, **depth}, boundary="none", allow_rechunk=True)
    runs, step = [], run_length(raw.shape[1:])
    for first in range(0, len(asked), step):
        dates = range(first, min(first + step, len(asked)))
        needed = sorted({*dates, *(int(other) for date in dates for other in asked[date])})
        places = {date: place for place, date in enumerate(needed)}
        work = partial(
            settle,
            own=[places[date] for date in dates],
            asked=[[places[int(other)] for other in asked[date]] for date in dates],
        )
        stack = wide[:, needed].rechunk({0: -1, 1: -1})
        chunks = ((len(dates),), *wide.chunks[2:])
        settled = stack.map_blocks(work, drop_axis=0, chunks=chunks, dtype=np.uint8)
        runs.append(da.overlap.trim_overlap(settled, {0: 0, 1: depth[2], 2: depth[3]}, "none"))
    return da.concatenate(runs).rechunk(raw.chunks)


def run_length(shape: tuple[int, ...]) -> int:
    """Say how many dates (y, x) one task refines: who computes some of them computes them all."""
    return max(1, min(RUN, RUN_PX // (shape[0] * shape[1])))


def settle(both: np.ndarray, *, own: Sequence[int], asked: Sequence[Sequence[int]]) -> np.ndarray:
    """Ask other dates about each date of a block.

    Parameters
    ----------
    both
        uint8 class codes (2, date, y, x): as labelled, and without shadow that no cloud casts.
    own
        The dates to be settled.
    asked
        The witnesses of each.

    Returns
    -------
    numpy.ndarray
        uint8 (len(own), y, x).
    """
    raw, lit = both
    calm = np.stack([find_calm(codes) for codes in lit])
    odd = calm & (lit != Label.CLEAR)  # a speck on a date that is clear around it
    shadow, dark = raw == Label.CLOUD_SHADOW, raw == Label.CLEAR
    result: np.ndarray = lit[list(own)]
    for codes, date, others in zip(result, own, asked, strict=True):
        everyone = [date, *others]
        calms, odds = (_count(layers, everyone) for layers in (calm, odd))
        ground = odd[date] & (calms >= FEWEST) & (2 * odds >= calms)
        shadows = _count(shadow, others)
        again = shadows >= np.maximum(TWICE, (shadows + _count(dark, others) + 1) // 2)
        codes[ground | ((codes == Label.CLOUD_SHADOW) & again)] = Label.CLEAR
    return result


def _count(layers: np.ndarray, dates: Sequence[int]) -> np.ndarray:
    total = np.zeros(layers.shape[1:], np.uint8)
    for date in dates:
        total += layers[date]
    return total


def find_calm(codes: np.ndarray) -> np.ndarray:
    """Find pixels with data in whose surroundings nearly all is clear: bool (y, x)."""
    from scipy.ndimage import uniform_filter

    seen = (codes != Label.MISSING) & (codes != Label.UNDEFINED)
    clear, there = (
        uniform_filter(layer.astype(np.float32), BOX_PX, mode="constant")
        for layer in (codes == Label.CLEAR, seen)
    )
    # Sums of ones in float32: a share that is exactly at the limit counts.
    calm: np.ndarray = seen & (clear >= CALM_FROM * there - 1e-4)
    return calm


# --- probabilities ------------------------------------------------------------------------------


def _most_likely(probabilities: xr.DataArray) -> xr.DataArray:
    import xarray as xr

    names = [LEGEND[code].name for code in PREDICTED]
    if "label" not in probabilities.coords or list(probabilities["label"].values) != names:
        raise InputError(
            f"probabilities to refine are of {', '.join(names)}, got "
            f"{list(probabilities.coords.get('label', ()))}: pass what predict_cube returned"
        )

    codes: xr.DataArray = xr.apply_ufunc(
        lambda values: most_probable(np.moveaxis(values, -1, 0)),
        probabilities.chunk({"label": -1}) if probabilities.chunks else probabilities,
        input_core_dims=[["label"]],
        dask="parallelized",
        output_dtypes=[np.uint8],
    )
    return codes


def _move_to_clear(
    probabilities: xr.DataArray, labels: xr.DataArray, refined: xr.DataArray
) -> xr.DataArray:
    changed = (labels != refined).drop_vars(BY)
    clear = probabilities["label"] == LEGEND[Label.CLEAR].name
    values = probabilities.where(~changed, clear.astype(np.float32)).transpose(*probabilities.dims)
    told: xr.DataArray = values.assign_coords({BY: refined[BY]})
    return told.assign_attrs({**probabilities.attrs, REFINED: 1})


def is_refined(labels: Any) -> bool:
    """Tell whether labels went through `refine`."""
    return bool(labels.attrs.get(REFINED))
