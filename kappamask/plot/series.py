"""All dates of a cube: side by side, as a calendar, and beside what is composed of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from kappamask.base.errors import InputError
from kappamask.base.legend import LEGEND, Label
from kappamask.plot.picture import Date, block_mean, class_shares, label_colors
from kappamask.plot.scene import EDGE, HEADING, Sheet, named_in_legend, percent
from kappamask.predict.cube import check_same, refuse_snow

if TYPE_CHECKING:
    import xarray as xr

# All sizes are screen pixels.
AIR = 16
SMALL, LARGE = 256, 588  # longer side of a picture of a series, of one before and after
COLUMNS = 6  # dates of a series beside each other, at most
HEAD, FOOT, BAR = 72, 58, 38
CELL = 44  # of a calendar
MARGIN = 122  # left of it: names of the months
CLEAR = colormaps["YlGn"]
WHITE_TEXT = 0.6  # from this share on, a cell is too dark for black digits
COUNTS = colormaps["viridis"]


def plot_series(
    cube: xr.DataArray, labels: xr.DataArray, path: str | Path, *, title: str | None = None
) -> Path:
    """Draw every date of a cube as PNG: true colour, labels, and the shares of the classes.

    The stretch is the fixed one of `quicklook`: dates compare. Dates are read one at a time,
    and shares are of all pixels at full resolution.

    Parameters
    ----------
    cube
        Canonical reflectance (time, band, y, x) with B04, B03 and B02.
    labels
        uint8 class codes of the same dates and pixels (time, y, x).
    path
        Of the PNG; its folder is made if absent.
    title
        Stands above all.

    Returns
    -------
    Path
        The picture.

    Raises
    ------
    InputError
        If a visible band or the level is lacking, or the two are not of the same dates and
        pixels.
    WriteError
        If the file cannot be written; a picture that was there before stays.

    Examples
    --------
    >>> import tempfile, xarray as xr
    >>> cube = xr.DataArray(
    ...     np.full((2, 3, 4, 4), 0.1, "float32"),
    ...     dims=("time", "band", "y", "x"),
    ...     coords={"time": np.array(["2022-06-02", "2022-06-05"], "M8[ns]"),
    ...             "band": ["B02", "B03", "B04"]},
    ...     attrs={"level": "L2A"},
    ... )
    >>> labels = cube.isel(band=0, drop=True).copy(data=np.ones((2, 4, 4), "uint8"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plot_series(cube, labels, Path(folder) / "june.png").name
    'june.png'
    """
    _check_dates(cube, labels)
    count = labels.sizes["time"]
    width, height = _fit(labels.sizes["y"], labels.sizes["x"], longest=SMALL, least=115)
    beside = min(count, COLUMNS)
    cell = 32 + 2 * height + BAR + 3 * AIR
    across = max(beside * (width + AIR) + AIR, 512)
    legend_columns = max(2, min(6, int(across / 243)))
    down = HEAD + -(-count // beside) * cell + FOOT + 26 * (-(-6 // legend_columns) - 1)
    sheet = Sheet(across, down)
    most = np.zeros(len(LEGEND))
    for index in range(count):
        date = Date(cube.isel(time=index), labels.isel(time=index), longest=SMALL)
        line, column = divmod(index, beside)
        left, top = AIR + column * (width + AIR), HEAD + line * cell + 32
        colors, codes = date.draw()
        sheet.show(left, top, width, height, colors)
        sheet.show(left, top + height + AIR / 2, width, height, label_colors(codes))
        _draw_bar(sheet.axes(left, top + 2 * height + AIR, width, BAR), date.shares)
        most = np.maximum(most, date.shares)
        sheet.write(left, top - 6, str(date.labels["time"].values)[:10])
    title = title or f"Sentinel-2 {date.level}: {count} dates"
    sheet.write(AIR, AIR, title, size=HEADING, va="top")
    named = named_in_legend(undefined=bool(most[Label.UNDEFINED]))
    sheet.explain(AIR, legend_columns, named)
    return sheet.save(path)


def _draw_bar(axes: Axes, shares: np.ndarray) -> None:
    """Draw the shares of all classes as one bar, with the clear one in words."""
    lefts = np.cumsum([0, *shares[:-1]])
    for entry, left in zip(LEGEND, lefts, strict=True):
        width = shares[entry.label]
        axes.barh(0, width, left=left, color=f"#{entry.color}", edgecolor=EDGE, linewidth=0.4)
    axes.set(xlim=(0, 1), ylim=(-1.7, 0.4))
    axes.text(0, -1.6, f"clear {percent(100 * shares[Label.CLEAR])}", fontsize=8)
    axes.axis("off")


def _check_dates(cube: xr.DataArray, labels: xr.DataArray) -> None:
    if "time" not in cube.dims or "time" not in labels.dims or not labels.sizes["time"]:
        raise InputError(
            "a series needs a cube (time, band, y, x) and labels (time, y, x) of one date at "
            f"least, got {dict(cube.sizes)} and {dict(labels.sizes)}: for one date take quicklook"
        )
    refuse_snow(labels)
    check_same(cube, labels, "be of the same dates", dims=["time"])


def _fit(rows: int, columns: int, *, longest: int, least: int) -> tuple[float, float]:
    """Width and height of a picture: a strip of one pixel is still seen, its words have room."""
    scale = longest / max(rows, columns, 1)
    return max(columns * scale, least), max(rows * scale, 38)


# --- calendar -----------------------------------------------------------------------------------


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
    days, shares = _best_of_days(labels)
    months = np.arange(days.min().astype("M8[M]"), days.max().astype("M8[M]") + 1)
    top, height = 96, len(months) * CELL
    sheet = Sheet(MARGIN + 31 * CELL + 26, top + height + 70)
    known = dict(zip(days.tolist(), shares.tolist(), strict=True))
    _draw_days(sheet.axes(MARGIN, top, 31 * CELL, height), months, known)
    heading = title or f"Clear part of the area, {len(days)} days with data"
    sheet.write(AIR, AIR, heading, size=HEADING, va="top")
    _draw_scale(sheet, CLEAR, 1, (MARGIN, sheet.height - 44, 256, 18), ticks=False)
    sheet.write(MARGIN - 8, sheet.height - 35, "0 %", size=8, ha="right", va="center")
    words = "100 % of all pixels are clear; empty: no data on this day"
    sheet.write(MARGIN + 264, sheet.height - 35, words, size=8, va="center")
    return sheet.save(path)


def _best_of_days(labels: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Give the days that have data, in order, and the greatest clear share of each."""
    if "time" not in labels.dims or not labels.sizes["time"]:
        raise InputError(
            f"a calendar needs labels (time, y, x) or shares (time,), got {labels.dims}: "
            "pass what predict_cube returned"
        )
    refuse_snow(labels)
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
            color = "white" if share is None else CLEAR(share)
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


def _draw_scale(
    sheet: Sheet, colors: Colormap, most: float, box: tuple[float, ...], *, ticks: bool
) -> None:
    """Say what the colours mean, from 0 to `most`."""
    bar = sheet.figure.colorbar(
        ScalarMappable(Normalize(0, most), colors),
        cax=sheet.axes(*box),
        orientation="horizontal",
        ticks=MaxNLocator(5, integer=True) if ticks else [],
    )
    bar.ax.tick_params(labelsize=8, length=2)


# --- before and after ---------------------------------------------------------------------------


def plot_before_after(
    cube: xr.DataArray,
    labels: xr.DataArray,
    image: xr.Dataset,
    path: str | Path,
    *,
    before: Any = None,
    title: str | None = None,
) -> Path:
    """Draw one date, the composite, and how many dates each pixel had, as PNG.

    Parameters
    ----------
    cube, labels
        What the composite was made of: (time, band, y, x) with B04, B03 and B02, and
        uint8 class codes (time, y, x).
    image
        What `composite` gave, of one period: choose with ``image.isel(time=0)``.
    path
        Of the PNG; its folder is made if absent.
    before
        A date of the cube; None for the one that is nearest to half clear.
    title
        Stands above.

    Returns
    -------
    Path
        The picture. Pixels that were never seen clear are black.

    Raises
    ------
    InputError
        If a visible band is lacking, or the inputs are not of the same dates and pixels, or
        the image has several periods.
    WriteError
        If the file cannot be written; a picture that was there before stays.

    Examples
    --------
    >>> import tempfile, xarray as xr
    >>> from kappamask import composite
    >>> cube = xr.DataArray(
    ...     np.full((2, 3, 4, 4), 0.1, "float32"),
    ...     dims=("time", "band", "y", "x"),
    ...     coords={"time": np.array(["2022-06-02", "2022-06-05"], "M8[ns]"),
    ...             "band": ["B02", "B03", "B04"],
    ...             "y": 50.0 - 10 * np.arange(4), "x": 10.0 * np.arange(4)},
    ...     attrs={"level": "L2A"},
    ... ).rio.write_crs(32632)
    >>> labels = cube.isel(band=0, drop=True).copy(data=np.ones((2, 4, 4), "uint8"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plot_before_after(cube, labels, composite(cube, labels), Path(folder) / "two.png").name
    'two.png'
    """
    _check_dates(cube, labels)
    index, share = _choose(labels, before)
    codes = labels.isel(time=index)
    scene = Date(cube.isel(time=index), codes, longest=LARGE)
    composed = Date(image["reflectance"], codes, longest=LARGE)
    counts = image["observations"].isel(time=0, missing_dims="ignore")
    counts = counts.sel(y=composed.cube["y"]) if "y" in composed.cube.coords else counts
    seen = counts.transpose("y", "x").to_numpy().astype(float)
    most = max(int(seen.max()), 1)
    reduced = block_mean(seen, factor=composed.factor)
    painted = COUNTS(reduced / most)[..., :3]
    painted[reduced == 0] = 0
    day = str(codes["time"].values)[:10]
    never = 100 * float((seen == 0).mean())
    panels = {
        f"{day}: {percent(100 * share)} clear": scene.draw_colors(),
        f"Composite ({image.attrs.get('method', 'of all')}): {percent(never)} never clear": (
            composed.draw_colors()
        ),
        "Dates that could be used": painted,
    }
    width, height = _fit(*reduced.shape, longest=LARGE, least=332)
    top = 100
    sheet = Sheet(3 * width + 4 * AIR, top + height + 64)
    sheet.write(AIR, AIR, title or _span(image, scene.level), size=HEADING, va="top")
    for number, (name, picture) in enumerate(panels.items()):
        left = AIR + number * (width + AIR)
        sheet.show(left, top, width, height, picture)
        sheet.write(left, top - 8, name)
    _draw_scale(sheet, COUNTS, most, (left, top + height + 13, width, 13), ticks=True)
    return sheet.save(path)


def _choose(labels: xr.DataArray, before: Any) -> tuple[int, float]:
    """Find the date to show: its index and its clear share."""
    shares = class_shares(labels)[:, Label.CLEAR]
    if before is None:
        index = int(np.abs(shares - 0.5).argmin())
        return index, float(shares[index])
    days = labels["time"].values.astype("M8[D]")
    found = np.flatnonzero(days == np.datetime64(before, "D"))
    if not found.size:
        raise InputError(
            f"before must be a date of the cube, got {before!r}: choose one of "
            f"{', '.join(days.astype(str))}"
        )
    return int(found[0]), float(shares[found[0]])


def _span(image: xr.Dataset, level: str) -> str:
    """Say of which time the composite is, both days included."""
    words = f"Sentinel-2 {level}"
    if "time_bounds" not in image.coords:
        return words
    start, end = image["time_bounds"].values.reshape(-1, 2)[0]
    short = np.timedelta64(0 if image.attrs.get("period") == "whole" else 1, "ns")
    return f"{words}, {str(start)[:10]} to {str(end - short)[:10]}"
