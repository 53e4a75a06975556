"""All dates of a cube side by side: true colour, labels, how much is clear. Row 5."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kappamask.base.bands import check_level
from kappamask.base.errors import InputError
from kappamask.base.legend import LEGEND, Label
from kappamask.plot.figure import DPI, EDGE, class_patches, percent, save, show_pixels
from kappamask.plot.picture import check_pair, class_shares, label_colors, reduce_labels, true_color

if TYPE_CHECKING:
    import xarray as xr

CELL = 2.0  # inches along the longer side of a small picture
COLUMNS = 6  # dates beside each other, at most
HEAD, FOOT, BAR, AIR = 0.55, 0.45, 0.3, 0.12  # inches


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
    check_dates(cube, labels)
    level = check_level(labels.attrs.get("level", cube.attrs.get("level")))
    shares = class_shares(labels)
    grid = _Grid(labels.sizes["time"], labels.sizes["y"], labels.sizes["x"])
    figure = Figure(figsize=grid.size, dpi=DPI, facecolor="white")
    for index in range(grid.count):
        scene, codes = check_pair(cube.isel(time=index), labels.isel(time=index))
        factor = -(-max(codes.shape) // int(CELL * DPI))
        colors = true_color(scene, level=level, factor=factor)
        painted = label_colors(reduce_labels(codes.to_numpy(), factor=factor))
        show_pixels(grid.axes(figure, index, 0), colors)
        show_pixels(grid.axes(figure, index, 1), painted)
        _draw_bar(grid.axes(figure, index, 2), shares[index])
        day = np.datetime_as_string(labels["time"].values[index], unit="D")
        figure.text(*grid.heading(index), str(day), fontsize=9, va="bottom")
    figure.text(
        AIR / grid.size[0],
        1 - AIR / grid.size[1],
        title or f"Sentinel-2 {level}: {grid.count} dates",
        fontsize=11,
        va="top",
        parse_math=False,
    )
    figure.legend(
        handles=class_patches(shares.max(axis=0)),
        loc="lower left",
        bbox_to_anchor=(AIR / grid.size[0], 0.05 / grid.size[1]),
        borderaxespad=0,
        borderpad=0,
        ncols=grid.legend_columns,
        frameon=False,
        fontsize=9,
    )
    return save(figure, Path(path))


def check_dates(cube: xr.DataArray, labels: xr.DataArray) -> None:
    """Refuse what is not of the same dates.

    Raises
    ------
    InputError
        If it is so, or if there is no dimension of dates.
    """
    if "time" not in cube.dims or "time" not in labels.dims:
        raise InputError(
            "a series needs a cube (time, band, y, x) and labels (time, y, x), got "
            f"{cube.dims} and {labels.dims}: for one date take quicklook"
        )
    times = cube["time"].values, labels["time"].values
    if len(times[0]) != len(times[1]) or (times[0] != times[1]).any() or not len(times[0]):
        raise InputError(
            "cube and labels must be of the same dates, one at least, got "
            f"{len(times[0])} and {len(times[1])}, or others: pass the cube that was labelled"
        )


def _draw_bar(axes: Axes, shares: np.ndarray) -> None:
    """Draw the shares of all classes as one bar, with the clear one in words."""
    left = 0.0
    for entry in LEGEND:
        width = float(shares[entry.label])
        axes.barh(0, width, left=left, color=f"#{entry.color}", edgecolor=EDGE, linewidth=0.4)
        left += width
    axes.set(xlim=(0, 1), ylim=(-1.7, 0.4))
    axes.text(0, -1.6, f"clear {percent(100 * float(shares[Label.CLEAR]))}", fontsize=8)
    axes.axis("off")


class _Grid:
    """Where everything stands: inches from the upper left corner."""

    def __init__(self, count: int, rows: int, columns: int) -> None:
        self.count = count
        scale = CELL / max(rows, columns)
        # a strip of one pixel is still seen, and its words have room
        self.picture = max(columns * scale, 0.9), max(rows * scale, 0.3)
        self.columns = min(count, COLUMNS)
        self.lines = -(-count // self.columns)
        self.cell = self.picture[0] + AIR, 0.25 + 2 * self.picture[1] + AIR + BAR + 2 * AIR
        self.legend_lines = -(-6 // self.legend_columns)

    @property
    def width(self) -> float:
        return max(self.columns * self.cell[0] + AIR, 4.0)

    @property
    def legend_columns(self) -> int:
        return max(2, min(6, int(self.width / 1.9)))

    @property
    def size(self) -> tuple[float, float]:
        legend = FOOT + 0.2 * (self.legend_lines - 1)
        return self.width, HEAD + self.lines * self.cell[1] + legend

    def corner(self, index: int) -> tuple[float, float]:
        line, column = divmod(index, self.columns)
        return AIR + column * self.cell[0], HEAD + line * self.cell[1]

    def heading(self, index: int) -> tuple[float, float]:
        left, top = self.corner(index)
        return left / self.size[0], 1 - (top + 0.2) / self.size[1]

    def axes(self, figure: Figure, index: int, part: int) -> Any:
        left, top = self.corner(index)
        width, height = self.picture
        top += 0.25 + part * (height + AIR / 2)
        if part == 2:
            height = BAR
        across, down = self.size
        bottom = 1 - (top + height) / down
        return figure.add_axes((left / across, bottom, width / across, height / down))
