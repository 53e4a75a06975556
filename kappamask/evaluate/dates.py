"""Composites against a clear date that was kept out of them: how much a mask is worth.

No labels are needed: a date that is clear shows what a composite of the others should look like.
What the ground did between the dates is in the error too, of every mask the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from kappamask.base.errors import InputError
from kappamask.base.legend import Label
from kappamask.composites import BUFFER_M
from kappamask.composites.cube import composite

METHODS = ("median", "first-clear", "best-pixel")
CLEAREST = 3  # dates that are kept out in turn, where nobody names them
CLEAR_FROM = 0.98  # share of a date that may be kept out
SAME = {"refine": False, "quality": False}  # a mask by itself
MASKS: dict[str, dict[str, Any]] = {"kappamask": {}, "kappamask, single dates": SAME}
PERCENTS = (50, 95, 99)


@dataclass(frozen=True)
class Row:
    """The error of one composite, in reflectance, over all bands."""

    held_out: str  # day
    mask: str
    method: str
    dates: int  # that it was made of
    median: float
    p95: float
    p99: float
    rmse: float
    never: int  # pixels with data that no date serves


def keep_out(  # noqa: PLR0913  two cubes, and five ways to ask
    cube: xr.DataArray,
    labels: xr.DataArray,
    *,
    scl: xr.DataArray | None = None,
    held_out: Sequence[str] = (),
    within_days: int | None = None,
    methods: Sequence[str] = METHODS,
    progress: Callable[[str, int, int], object] | None = None,
) -> list[Row]:
    """Compose without a clear date, and compare with it, one date after another.

    Parameters
    ----------
    cube
        Canonical reflectance, three dates at least.
    labels
        By single dates, of `predict_cube`.
    scl
        Labels of another mask, such as `kappamask.cubes.classes.load_classes` gives.
    held_out
        Days such as ``"2022-06-12"``; none: the three with the largest clear share.
    within_days
        Only dates so near are composed; None: all.
    methods
        Of composites.
    progress
        Called with what, how many are done, and how many there are.

    Returns
    -------
    list of Row
        By date, mask and method. Compared are pixels that `labels` call clear on the date kept
        out and that the composite holds.

    Raises
    ------
    InputError
        If a day is not there, or no date is clear enough.
    """
    cube, labels = cube.compute(), labels.compute()
    masks = {name: (labels, options) for name, options in MASKS.items()}
    if scl is not None:
        masks["SCL"] = scl.compute(), SAME
    days = np.datetime_as_string(labels["time"].values, unit="D").tolist()
    for day in held_out:
        if day not in days:
            raise InputError(
                f"a date to keep out is one of {', '.join(days)}, got {day}: choose it"
            )
    chosen = [days.index(day) for day in held_out] or _clearest(labels)
    rows = []
    tasks = [(at, mask, method) for at in chosen for mask in masks for method in methods]
    for done, (at, mask, method) in enumerate(tasks):
        codes, options = masks[mask]
        apart = np.abs(cube["time"].values - cube["time"].values[at]) / np.timedelta64(1, "D")
        others = (apart > 0) & (apart <= (within_days or np.inf))
        image = composite(
            cube.isel(time=others),
            codes.isel(time=others),
            method=method,
            buffer_m=BUFFER_M,
            **options,
        ).compute()
        clear = (labels.isel(time=at) == Label.CLEAR).values
        error = np.abs(image["reflectance"].values[0] - cube.isel(time=at).values)[:, clear]
        error = error[np.isfinite(error)]
        median, p95, p99 = np.percentile(error, PERCENTS) if error.size else (np.nan,) * 3
        rmse = float(np.sqrt(np.mean(error.astype(float) ** 2))) if error.size else np.nan
        never = int(image["never_clear"].sum())
        row = Row(days[at], mask, method, int(others.sum()), median, p95, p99, rmse, never)
        rows.append(row)
        if progress is not None:
            progress(f"{days[at]} {mask} {method}", done + 1, len(tasks))
    return rows


def _clearest(labels: xr.DataArray) -> list[int]:
    shares = (labels == Label.CLEAR).mean(("y", "x")).values
    best = [int(at) for at in np.argsort(-shares, kind="stable") if shares[at] >= CLEAR_FROM]
    if not best:
        raise InputError(
            f"a date to keep out is clear on {CLEAR_FROM:.0%}, got {shares.max():.0%} at best: "
            "take more dates, or a smaller area"
        )
    return sorted(best[:CLEAREST])


def ratios(rows: Sequence[Row], *, to: str) -> dict[tuple[str, str], float]:
    """Give the mean over the dates of 95 % error as a share of another mask's, by mask and method.

    Examples
    --------
    >>> rows = [Row("2022-06-12", mask, "median", 11, 0.01, error, 0.1, 0.03, 0)
    ...         for mask, error in (("kappamask", 0.06), ("SCL", 0.08))]
    >>> round(ratios(rows, to="SCL")["kappamask", "median"], 2)
    0.75
    """
    known = {(row.held_out, row.mask, row.method): row.p95 for row in rows}
    shares: dict[tuple[str, str], list[float]] = {}
    for (day, mask, method), error in known.items():
        if (day, to, method) in known:
            shares.setdefault((mask, method), []).append(error / known[day, to, method])
    return {key: float(np.mean(values)) for key, values in shares.items()}


def to_table(rows: Sequence[Row]) -> str:
    """Write a table in Markdown, errors in reflectance times 10000, and shares of the SCL's."""
    lines = [
        "| kept out | mask | method | dates | median | 95 % | 99 % | rmse | never usable |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        errors = (f"{1e4 * error:.0f}" for error in (row.median, row.p95, row.p99, row.rmse))
        cells = (row.held_out, row.mask, row.method, row.dates, *errors, row.never)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    base = "SCL" if any(row.mask == "SCL" for row in rows) else "kappamask, single dates"
    lines += ["", f"95 % error as a share of that of {base}, mean of the dates:", ""]
    lines += [
        f"- {mask}, {method}: {share:.3f}"
        for (mask, method), share in ratios(rows, to=base).items()
        if mask != base
    ]
    return "\n".join(lines) + "\n"
