"""A calendar of how much of an area was clear: a cell per day, a row per month. Row 5."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kappamask.base.errors import InputError
from kappamask.base.legend import Label
from kappamask.plot.figure import DPI, EDGE, save
from kappamask.plot.picture import class_shares

if TYPE_CHECKING:
    import xarray as xr

COLORS = colormaps["YlGn"]
CELL = 0.34  # inches
LEFT, TOP, BOTTOM = 0.95, 0.75, 0.55
WHITE_TEXT = 0.6  # from this share on, the cell is too dark for black digits


def plot_calendar(labels: xr.DataArray, path: str | Path, *, title: str | None = None) -> Path:
    """Draw a calendar as PNG: on each day with a date, how many percent were clear.

    Parameters
    ----------
    labels
        uint8 class codes (time, y, x), read one date at a time; or shares of clear
        pixels from 0 to 1 (time,), of any float type.
    path
        Of the PNG; its folder is made if absent.
    title
        Stands above.

    Returns
    -------
    Path
        The picture. Rows run from the month of the first date to that of the last; of two
        dates of one day the clearer one is shown.

    Raises
    ------
    InputError
        If there are no dates, or shares beyond 0 to 1.
    WriteError
        If the file cannot be written; a picture that was there before stays.

    Examples
    --------
    >>> import tempfile, xarray as xr
    >>> days = np.array(["2022-06-02", "2022-07-05"], "M8[ns]")
    >>> shares = xr.DataArray([0.4, 1.0], dims="time", coords={"time": days})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plot_calendar(shares, Path(folder) / "summer.png").name
    'summer.png'
    """
    days, shares = best_of_days(labels)
    months = np.arange(days.min().astype("M8[M]"), days.max().astype("M8[M]") + 1)
    width, height = LEFT + 31 * CELL + 0.2, TOP + len(months) * CELL + BOTTOM
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    axes = figure.add_axes(
        (LEFT / width, BOTTOM / height, 31 * CELL / width, len(months) * CELL / height)
    )
    _draw_days(axes, months, dict(zip(days.tolist(), shares.tolist(), strict=True)))
    heading = title or f"Clear part of the area, {len(days)} days with data"
    figure.text(0.15 / width, 1 - 0.12 / height, heading, fontsize=11, va="top", parse_math=False)
    _draw_scale(figure)
    return save(figure, Path(path))


def best_of_days(labels: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Give the days that have data, in order, and the greatest clear share of each.

    Examples
    --------
    >>> import xarray as xr
    >>> times = np.array(["2022-06-02T10:10", "2022-06-02T10:20"], "M8[ns]")
    >>> best_of_days(xr.DataArray([0.25, 0.5], dims="time", coords={"time": times}))
    (array(['2022-06-02'], dtype='datetime64[D]'), array([0.5]))
    """
    if "time" not in labels.dims or not labels.sizes["time"]:
        raise InputError(
            f"a calendar needs labels (time, y, x) or shares (time,), got {labels.dims}: "
            "pass what predict_cube returned"
        )
    if labels.dtype == np.uint8:
        shares = class_shares(labels)[:, Label.CLEAR]
    else:
        shares = labels.to_numpy().astype(float)
    if shares.ndim != 1 or not ((shares >= 0) & (shares <= 1)).all():
        raise InputError(
            f"shares of clear pixels are 0 to 1, one per date, got {labels.dtype} of shape "
            f"{labels.shape}: pass uint8 labels or such shares"
        )
    days, which = np.unique(labels["time"].values.astype("M8[D]"), return_inverse=True)
    best = np.zeros(days.size)
    np.maximum.at(best, which, shares)
    return days, best


def _draw_days(axes: Axes, months: np.ndarray, shares: dict[object, float]) -> None:
    for row, month in enumerate(months):
        days = np.arange(month.astype("M8[D]"), (month + 1).astype("M8[D]"))
        for column, day in enumerate(days.tolist()):
            share = shares.get(day)
            color = "white" if share is None else COLORS(share)
            axes.add_patch(
                Rectangle((column, row), 1, 1, facecolor=color, edgecolor="#C8C8C8", linewidth=0.5)
            )
            if share is not None:
                axes.text(
                    column + 0.5,
                    row + 0.5,
                    f"{int(100 * share)}",  # 99.9 % is not all
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if share > WHITE_TEXT else "black",
                )
    axes.set(xlim=(0, 31), ylim=(len(months), 0))
    axes.set_xticks(np.arange(31) + 0.5, [str(day) for day in range(1, 32)], fontsize=7)
    names = [str(month) for month in months]
    axes.set_yticks(np.arange(len(months)) + 0.5, names, fontsize=8)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _draw_scale(figure: Figure) -> None:
    """Say what the colours mean, in a line below."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((LEFT / width, 0.2 / height, 2.0 / width, 0.14 / height))
    axes.imshow(COLORS(np.linspace(0, 1, 101))[None], aspect="auto", extent=(0, 100, 0, 1))
    axes.set(yticks=[], xticks=[])
    for side in axes.spines.values():
        side.set(color=EDGE, linewidth=0.6)
    where = (0.2 + 0.07) / height
    figure.text((LEFT - 0.06) / width, where, "0 %", ha="right", va="center", fontsize=8)
    words = "100 % of all pixels are clear; empty: no data on this day"
    figure.text((LEFT + 2.06) / width, where, words, va="center", fontsize=8)
