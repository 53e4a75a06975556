"""`composite`: cubes and their labels to cloud-free images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import rioxarray  # noqa: F401  (registers the .rio accessor)
import xarray as xr

from kappamask.base.errors import InputError, UnknownNameError
from kappamask.base.legend import LEGEND, Label
from kappamask.composites import BUFFER_M, METHODS
from kappamask.composites.methods import Choice, check_method, compose_periods
from kappamask.composites.periods import Period, split_dates
from kappamask.composites.quality import can_judge, find_poor
from kappamask.composites.ranking import BufferLike, Buffers, Ranking, Step, find_clear
from kappamask.predict.canonical import to_canonical
from kappamask.predict.cube import BY, check_cube, check_same, refuse_snow
from kappamask.predict.refine import FEWEST, is_refined
from kappamask.predict.refine import refine as correct

if TYPE_CHECKING:
    import dask.array as da

CLEAR_FRACTION = "clear_fraction"  # a coordinate of labels that spares `coverage` reading them
OTHERS = ("scl", "fmask", "qa_pixel", "cloud_mask")  # names of masks with other codes
SAME = "be of the same dates and pixels"


def composite(  # noqa: PLR0913  the public contract fixes the first five
    cube: xr.DataArray,
    labels: xr.DataArray,
    *,
    method: str = "median",
    period: str | None = None,
    buffer_m: BufferLike = BUFFER_M,
    probabilities: xr.DataArray | None = None,
    ranking: Ranking | None = None,
    refine: bool = True,
    quality: bool = True,
    fill: str | None = None,
    min_observations: int = 1,
    max_observations: int | None = None,
    percentile: float = 50.0,
) -> xr.Dataset:
    """Compose images without clouds, lazily: nothing is read or computed before the result is.

    A date is used for a pixel where its label is clear, no cloud or shadow is nearer than
    the buffer, and every band of the cube has data. Missing pixels are never used, whatever
    their values.

    Parameters
    ----------
    cube
        Canonical reflectance (time, band, y, x), NaN = no data, in a projected CRS; lazy
        or loaded. What `load_cube` gives.
    labels
        uint8 class codes of the same dates and pixels (time, y, x). What `predict_cube`
        gives.
    method
        Of blending: ``"median"``, ``"mean"``, each band by itself; ``"geomedian"``, all
        bands together (needs ``kappamask[geomedian]``). Or of choosing one date for all
        bands, the earliest of equals: ``"best-pixel"`` by `ranking`; ``"medoid"``, nearest
        to all others in reflectance; ``"first-clear"``, the earliest; ``"max-ndvi"``, the
        greenest (needs B04 and B08 or B8A).
    period
        None for one image of all dates; ``"day"``, ``"week"`` (from Monday), ``"dekad"``,
        ``"month"``, ``"season"`` (DJF, MAM, JJA, SON) or ``"year"``; or a pandas frequency
        of starts, such as ``"2MS"`` or ``"10D"``.
    buffer_m
        Metres around ``"cloud"`` (which here includes semi-transparent cloud) and around
        ``"shadow"`` that are not used, between pixel centres; what is not named has none, a
        number is for both, None means no buffers. Nothing is known of clouds outside of the cube.
    probabilities
        float32 (time, label, y, x) as ``predict_cube(cube, output="probabilities")`` gives
        them: best-pixel then prefers what is surely clear.
    ranking
        What best-pixel looks for; None for ``Ranking()``.
    refine
        Let three dates or more, and the sun, correct one another first
        (`kappamask.refine`), unless `labels` are refined already.
    quality
        Where another date can be used, leave out what is clear but hazy or shaded, beside
        clouds, by the same ground on clear dates (`kappamask.composites.quality`); needs
        B02, B03, B04 and B08 or B8A.
    fill
        ``"least-cloudy"``: a pixel that no date shows clear is taken from the date that shows it
        least cloudy. Its `observations` stay 0. None leaves it empty.
    min_observations
        Dates that a pixel needs; with fewer it is empty.
    max_observations
        Dates that a pixel is made of at most, the best by `ranking`; None for all.
    percentile
        Of the method ``"percentile"``, 0 to 100.

    Returns
    -------
    xarray.Dataset
        ``reflectance`` (time, band, y, x) float32, NaN where no date could be used: again a
        canonical cube, one image per period. ``observations`` (time, y, x) uint16: how many
        dates were used or could be chosen. ``date`` (time, y, x) datetime64: the date
        chosen, or the middle one of those blended; NaT where there is none.
        ``never_clear`` (time,) int64: pixels with data that had too few. ``seen`` (time, y, x)
        bool: whether any date has data. ``time`` is the start of each
        period, ``time_bounds`` its start and its end, which no longer belongs to it; of all
        dates together, the first and the last. Periods without dates between others are
        there, and empty: ``date_count`` (time,) is 0.

    Raises
    ------
    InputError
        If the cube is none, the labels are not of its dates and pixels, the CRS has no
        metres though they are needed, or a number breaks its rule.
    UnknownNameError
        If a method, period or buffer is unknown.

    Notes
    -----
    One dask task takes all dates of one block of pixels, at most 32 MB of reflectance;
    larger chunks are cut, but read whole first. The result does not depend on the chunks.
    ``best-pixel`` with a weight for coverage needs all labels before the first pixel,
    unless `labels` has a coordinate ``clear_fraction`` (time).

    Examples
    --------
    >>> cube = xr.DataArray(
    ...     np.array([0.1, 0.9, 0.3], "float32").reshape(3, 1, 1, 1),
    ...     dims=("time", "band", "y", "x"),
    ...     coords={"time": np.array(["2022-06-02", "2022-06-12", "2022-06-20"], "M8[ns]"),
    ...             "band": ["B04"], "y": [5000395.0], "x": [600005.0]},
    ...     attrs={"level": "L2A"},
    ... ).rio.write_crs(32632)
    >>> labels = cube.isel(band=0, drop=True).copy(data=np.array([1, 4, 1], "uint8")[:, None, None])
    >>> june = composite(cube, labels, period="month")
    >>> june.reflectance.dims, june.reflectance.values.item(), june.observations.values.item()
    (('time', 'band', 'y', 'x'), 0.20000000298023224, 2)
    """
    check_recipe(method, period, buffer_m)
    choice = Choice(
        percent=percentile,
        likeness=(ranking or Ranking()).likeness if method == "best-pixel" else 0.0,
        at_least=min_observations,
        at_most=max_observations,
        fill=fill,
    )
    cube, labels = check_stack(cube, labels)
    buffers = Buffers.read(buffer_m)
    bands = [str(name) for name in cube["band"].values]
    check_method(method, bands)
    several = cube.sizes["time"] >= FEWEST
    if refine and several and not is_refined(labels):
        labels = correct(labels, cube)
    judged = quality and several and can_judge(bands) and cube.rio.crs.is_projected
    ranked = method == "best-pixel" or max_observations is not None
    step = _metres(cube, needed=ranked or any(vars(buffers).values()))
    periods = split_dates(cube["time"].values, period)
    codes = lazy(labels, cube)
    stacks = {"values": lazy(cube, cube), "clear": find_clear(codes, buffers, step), "codes": codes}
    if judged:
        days = cube["time"].values.astype("M8[D]").astype(int)
        stacks["poor"] = find_poor(stacks["values"], codes, days=days, bands=bands, step=step)
    attrs: dict[str, Any] = {
        "level": cube.attrs.get("level") or labels.attrs.get("level"),
        "method": method,
        "period": period or "whole",
        "buffer_cloud_m": float(buffers.cloud),
        "buffer_shadow_m": float(buffers.shadow),
        "refined": int(is_refined(labels)),
        "quality": int(judged),
        "fill": fill,
        "min_observations": min_observations if min_observations > 1 else None,
        "max_observations": max_observations,
        "percentile": float(percentile) if method == "percentile" else None,
        "kappamask_model": labels.attrs.get("kappamask_model"),
        "kappamask_model_sha256": labels.attrs.get("kappamask_model_sha256"),
    }
    if ranked:
        ranking = ranking or Ranking()
        clear = None
        if probabilities is not None and ranking.probability:
            clear = _probability_of_clear(probabilities, labels, codes)
        near = [ranking.near(cube["time"].values[one.dates], one) for one in periods]
        share = labels.coords.get(CLEAR_FRACTION)
        coverage = None if share is None else share.values.astype(float)
        stacks["marks"] = ranking.mark_dates(
            codes, np.concatenate(near), step, coverage=coverage, probability=clear
        )
        said = vars(ranking) | {"probabilities": clear is not None}
        attrs["ranking"] = json.dumps(said, default=str)
    packed = compose_periods(stacks, periods, method=method, bands=bands, choice=choice)
    known = {name: value for name, value in attrs.items() if value is not None}
    asked = labels.coords[BY].values if BY in labels.coords else None
    return _dress(packed, cube, periods, known, at_least=min_observations, asked=asked)


def clear_of(
    cube: xr.DataArray,
    labels: xr.DataArray,
    *,
    buffer_m: BufferLike = BUFFER_M,
) -> xr.DataArray:
    """Say lazily which pixels `composite` would take for clear: bool (time, y, x).

    Raises
    ------
    InputError, UnknownNameError
        As `composite` does.
    """
    buffers = Buffers.read(buffer_m)
    cube, labels = check_stack(cube, labels)
    step = _metres(cube, needed=any(vars(buffers).values()))
    clear = find_clear(lazy(labels, cube), buffers, step)
    coords = {name: cube[name] for name in ("time", "y", "x") if name in cube.coords}
    return xr.DataArray(clear, dims=("time", "y", "x"), coords=coords)


# --- checks -------------------------------------------------------------------------------------


def check_recipe(method: str, period: str | None, buffer_m: BufferLike) -> None:
    """Refuse an unknown method, period or buffer before anything is loaded."""
    if method not in METHODS:
        raise UnknownNameError.of("method", str(method), list(METHODS))
    split_dates(np.array(["2000-01-01"], "M8[ns]"), period)
    Buffers.read(buffer_m)


def check_stack(cube: xr.DataArray, labels: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Check that both are of the same dates and pixels; bring them to order of time.

    Returns
    -------
    cube, labels : DataArray
        (time, band, y, x) and (time, y, x), still lazy if they were.

    Raises
    ------
    InputError
        If anything breaks the rules of `composite`.
    """
    cube, labels = (_with_time(array) for array in (to_canonical(cube), labels))
    cube = check_cube(cube)
    if set(cube.dims) != {"time", "band", "y", "x"} or set(labels.dims) != {"time", "y", "x"}:
        raise InputError(
            "a composite needs a cube (time, band, y, x) and labels (time, y, x), got "
            f"{cube.dims} and {labels.dims}: pass a cube with dates and what predict_cube returned"
        )
    if labels.dtype != np.uint8:
        raise InputError(
            f"labels must be uint8 class codes, got {labels.dtype}: pass what predict_cube "
            "returned, as it is"
        )
    refuse_snow(labels)
    check_meanings(labels)
    times = check_times(cube, "cube")
    check_same(cube, labels, SAME, dims=("time", "y", "x"))
    cube, labels = cube.transpose("time", "band", "y", "x"), labels.transpose("time", "y", "x")
    order = np.argsort(times, kind="stable")
    if (order != np.arange(times.size)).any():
        cube, labels = cube.isel(time=order), labels.isel(time=order)
    return cube, labels


def check_times(array: xr.DataArray, name: str) -> np.ndarray:
    """Refuse times that are no dates; give them."""
    times = array["time"].values
    if times.dtype.kind != "M" or np.isnat(times).any():
        raise InputError(
            f"time must hold dates (datetime64 in UTC, none missing), got {times.dtype} "
            f"{times[:3]}: set {name}['time'] to the sensing times"
        )
    return times


def check_meanings(labels: xr.DataArray) -> None:
    """Refuse class codes of another mask, such as the SCL, that can be told for that.

    Raises
    ------
    InputError
        If their name or their ``flag_meanings`` are others, or what is in memory holds other
        codes; lazy labels are looked at when they are computed.
    """
    own = {entry.name for entry in LEGEND}
    meanings = str(labels.attrs.get("flag_meanings", "")).split()
    got = ""
    if foreign := [name for name in meanings if name not in own]:
        got = f"classes named {', '.join(foreign[:3])}"
    elif str(labels.name).lower() in OTHERS:
        got = f"the name {labels.name}"
    elif isinstance(labels.data, np.ndarray) and labels.size and labels.data.max() >= len(LEGEND):
        got = f"codes up to {labels.data.max()}"
    if got:
        raise InputError(
            f"labels must be codes of kappamask.Label, 0 to {len(LEGEND) - 1}, got {got}: pass "
            "what predict_cube returned; other masks have to be recoded first (docs: Classes)"
        )


def _with_time(array: Any) -> xr.DataArray:
    if not isinstance(array, xr.DataArray):
        raise InputError(
            f"cube and labels must be xarray.DataArray, got {type(array).__name__}: "
            "pass what load_cube and predict_cube returned"
        )
    if "time" not in array.dims and "time" in array.coords:
        return array.expand_dims("time")
    return array


def _metres(cube: xr.DataArray, *, needed: bool) -> Step:
    """Height and width of a pixel in metres; of a single row or column, those of the other."""
    crs = cube.rio.crs
    if needed and not crs.is_projected:
        raise InputError(
            f"buffers and distances are metres, got a cube in {crs.to_string()}, which has none: "
            "load it in a projected CRS, or pass buffer_m=None"
        )
    unit = crs.linear_units_factor[1] if crs.is_projected else 1.0
    steps = {
        dim: abs(float(cube[dim][-1] - cube[dim][0])) / (cube.sizes[dim] - 1) * unit
        for dim in ("y", "x")
        if cube.sizes[dim] > 1
    }
    anything = next(iter(steps.values()), 1.0)
    return steps.get("y", anything), steps.get("x", anything)


# --- lazy parts ---------------------------------------------------------------------------------


def lazy(array: xr.DataArray, cube: xr.DataArray) -> da.Array:
    """Get the lazy pixels, cut along y and x as those of the cube are."""
    import dask.array as da

    data = array.data
    if not isinstance(data, da.Array):
        data = da.from_array(data, chunks=(1, *(-1,) * (data.ndim - 1)))
    if array is not cube and isinstance(cube.data, da.Array):
        data = data.rechunk({1: cube.data.chunks[2], 2: cube.data.chunks[3]})
    return data


def _probability_of_clear(
    probabilities: xr.DataArray, labels: xr.DataArray, codes: da.Array
) -> da.Array:
    name = LEGEND[Label.CLEAR].name
    found = _with_time(probabilities)
    if "label" not in found.coords or name not in found["label"].values:
        raise InputError(
            "probabilities must be (time, label, y, x) with the label 'clear', got "
            f"{found.dims}: pass predict_cube(cube, output='probabilities')"
        )
    found = found.sel(label=name).transpose("time", "y", "x")
    found = found.isel(time=np.argsort(found["time"].values, kind="stable"))
    check_same(found, labels, SAME, dims=("time", "y", "x"))
    return lazy(found, found).rechunk(codes.chunks)


# --- the result ---------------------------------------------------------------------------------


def _dress(
    packed: da.Array,
    cube: xr.DataArray,
    periods: Sequence[Period],
    attrs: dict[str, Any],
    *,
    at_least: int,
    asked: np.ndarray | None,
) -> xr.Dataset:
    """Unpack the layers of `compose_periods` and say what they are."""
    observations, seen = packed[:, -3].astype(np.uint16), packed[:, -1] > 0
    times = np.append(cube["time"].values, np.datetime64("NaT")).astype("M8[ns]")  # last: NO_DATE
    dates = packed[:, -2].map_blocks(lambda index: times[index.astype(int)], dtype="M8[ns]")
    about = {"units": "1", "long_name": "cloud-free reflectance"}
    about |= {name: attrs[name] for name in ("level", "method") if name in attrs}
    if attrs["method"] in ("median", "mean"):
        about["cell_methods"] = f"time: {attrs['method']}"  # those that CF knows
    counted = {"long_name": "dates that could be used", "units": "1"}
    dated = {"long_name": "date of the pixel, or the middle date of those blended"}
    never = {"long_name": "pixels with data and too few dates that could be used", "units": "1"}
    plane = ("time", "y", "x")
    dataset = xr.Dataset(
        {
            "reflectance": (("time", "band", "y", "x"), packed[:, :-3], about),
            "observations": (plane, observations, counted),
            "date": (plane, dates, dated),
            "seen": (plane, seen, {"long_name": "whether any date has data", "units": "1"}),
            "never_clear": (
                ("time",),
                (seen & (observations < at_least)).sum(axis=(1, 2)),
                never,
            ),
        },
        coords={
            **{
                name: coordinate
                for name, coordinate in cube.coords.items()
                if "time" not in coordinate.dims and name != "time"
            },
            **_time_coordinates(cube, periods, asked),
        },
        attrs=attrs,
    )
    return dataset.rio.write_crs(cube.rio.crs)  # type: ignore[no-any-return]


def _time_coordinates(
    cube: xr.DataArray, periods: Sequence[Period], asked: np.ndarray | None
) -> dict[str, Any]:
    """Name start and end of each period, the items of its dates, and the dates they were asked."""
    bounds = np.array([(period.start, period.end) for period in periods], "M8[ns]")
    found: dict[str, Any] = {
        "time": ("time", bounds[:, 0], {"bounds": "time_bounds"}),
        "time_bounds": (("time", "bounds"), bounds),
        "date_count": ("time", [period.count for period in periods]),
    }
    if "source_items" in cube.coords:
        ids = np.atleast_1d(cube["source_items"].values)
        joined = [" ".join(map(str, ids[period.dates])) for period in periods]
        found["source_items"] = ("time", joined)
    if asked is not None:
        days = [sorted(set(" ".join(asked[period.dates]).split())) for period in periods]
        found[BY] = ("time", [" ".join(names) for names in days])
    return found
