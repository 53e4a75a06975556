"""A quicklook of one date: true colour, labels, outlines. Row 5."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rioxarray  # noqa: F401  (registers the .rio accessor)
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kappamask.base.bands import check_level
from kappamask.base.errors import InputError
from kappamask.base.legend import LEGEND, Label
from kappamask.outputs.label_cube import count_codes
from kappamask.plot.figure import DPI, percent, save
from kappamask.plot.picture import (
    OUTLINES,
    check_pair,
    label_colors,
    outlined,
    reduce_labels,
    true_color,
)

if TYPE_CHECKING:
    import xarray as xr

SMALL = 600  # screen pixels; a smaller raster is drawn with whole pixels enlarged to about this
HEADING = 11  # points


@dataclass(frozen=True)
class Layout:
    """Where everything stands, in screen pixels from the upper left corner."""

    rows: int  # of the drawn array
    columns: int
    left: int = 76  # room for the y axis
    right: int = 24
    gap: int = 44  # between panels: a title or some air
    bottom: int = 60  # room for the x axis
    line: int = 26  # height of one line of the legend
    slot: int = 200  # least width given to a panel: its title has to fit
    panels: int = 3
    headings: int = 1  # lines above the panels

    @property
    def top(self) -> int:
        """Where the panels begin: below the heading and their own titles."""
        return 66 + 26 * self.headings

    @property
    def zoom(self) -> int:
        """Screen pixels along the side of one array pixel."""
        return max(1, SMALL // max(self.rows, self.columns))

    @property
    def panel(self) -> tuple[int, int]:
        """Width and height of a panel."""
        return self.columns * self.zoom, self.rows * self.zoom

    @property
    def stacked(self) -> bool:
        """Whether the panels stand one below the other: wide scenes."""
        return self.columns > 1.5 * self.rows

    def corner(self, number: int) -> tuple[int, int]:
        """Upper left corner of panel `number`: x, y."""
        if self.stacked:
            return self.left, self.top + number * (self.panel[1] + self.gap)
        return self.left + number * (max(self.panel[0], self.slot) + self.gap), self.top

    @property
    def width(self) -> int:
        """Of the picture."""
        last = self.corner(self.panels - 1)[0] + max(self.panel[0], self.slot)
        return max(last, self.left + SMALL) + self.right

    @property
    def legend_columns(self) -> int:
        """Entries that fit in one line of the legend."""
        return max(2, self.width // 300)

    @property
    def height(self) -> int:
        """Of the picture."""
        last = self.corner(self.panels - 1)[1] + self.panel[1]
        lines = -(-(len(LEGEND) + len(OUTLINES)) // self.legend_columns)
        return last + self.bottom + lines * self.line + 12


def quicklook(
    cube: xr.DataArray,
    labels: xr.DataArray,
    path: str | Path,
    *,
    title: str | None = None,
    max_px: int = 1200,
) -> Path:
    """Draw one date as PNG: true colour, labels, and true colour with outlines.

    True colour (B04, B03, B02) has a fixed stretch, so that dates compare and a
    cloud is white on all of them; so is snow, which only other bands tell apart.
    Missing pixels are black. Percentages are of all pixels at full resolution.

    Parameters
    ----------
    cube
        Canonical reflectance of one date, dims (band, y, x), NaN = no data.
    labels
        uint8 class codes of the same pixels, dims (y, x).
    path
        Of the PNG; its folder is made if absent.
    title
        Stands above level, date and model.
    max_px
        Longest side of a panel, in pixels. A larger raster is reduced by a whole
        number: means of reflectance, the most frequent label.

    Returns
    -------
    Path
        The picture.

    Raises
    ------
    InputError
        If a visible band, the level or a single date is lacking, if the two do not
        cover the same pixels, or if the cube holds DN instead of reflectance.
    WriteError
        If the file cannot be written; a picture that was there before stays.

    Examples
    --------
    >>> import tempfile, xarray as xr
    >>> cube = xr.DataArray(
    ...     np.full((3, 4, 4), 0.1, "float32"),
    ...     dims=("band", "y", "x"),
    ...     coords={"band": ["B02", "B03", "B04"]},
    ...     attrs={"level": "L2A"},
    ... )
    >>> labels = xr.DataArray(np.ones((4, 4), "uint8"), dims=("y", "x"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     quicklook(cube, labels, Path(folder) / "clear.png").name
    'clear.png'
    """
    if max_px < 1:
        raise InputError(f"max_px must be 1 or more, got {max_px}: leave it out for 1200")
    cube, labels = check_pair(cube, labels)
    level = check_level(labels.attrs.get("level", cube.attrs.get("level")))
    codes = labels.to_numpy()
    percentages = 100 * count_codes(codes, where="in labels") / codes.size
    factor = -(-max(codes.shape) // max_px)
    drawn = reduce_labels(codes, factor=factor)
    colors = true_color(cube, level=level, factor=factor)
    layout = Layout(*drawn.shape)
    room = layout.width - layout.left - layout.right
    heading = [*_wrap(title or "", room), *_wrap(_facts(labels, level), room)]
    layout = replace(layout, headings=len(heading))
    figure = _draw_panels(colors, drawn, layout)
    at = layout.left / layout.width, 1 - 16 / layout.height
    figure.text(*at, "\n".join(heading), va="top", fontsize=HEADING, parse_math=False)
    _draw_axes(figure, labels, layout)
    _draw_legend(figure, percentages, layout)
    return save(figure, Path(path))


def _draw_panels(colors: np.ndarray, codes: np.ndarray, layout: Layout) -> Figure:
    figure = Figure(figsize=(layout.width / DPI, layout.height / DPI), dpi=DPI, facecolor="white")
    colors, codes = (
        array.repeat(layout.zoom, 0).repeat(layout.zoom, 1) for array in (colors, codes)
    )
    pictures = {
        "True colour": colors,
        "Labels": label_colors(codes),
        "Outlines of the labels": outlined(colors, codes),
    }
    for number, (name, picture) in enumerate(pictures.items()):
        x, y = layout.corner(number)
        # figimage copies pixel by pixel: no resampling blurs the classes.
        figure.figimage(
            picture, xo=x, yo=layout.height - y - layout.panel[1], origin="upper", zorder=-1
        )
        figure.text(x / layout.width, 1 - (y - 10) / layout.height, name, va="bottom", fontsize=9)
    return figure


def _draw_axes(figure: Figure, labels: xr.DataArray, layout: Layout) -> None:
    across, down, unit = _extent(labels)
    width, height = layout.panel
    for number in range(layout.panels):
        x, y = layout.corner(number)
        bottom = layout.height - y - height
        axes = figure.add_axes(
            (x / layout.width, bottom / layout.height, width / layout.width, height / layout.height)
        )
        axes.set(facecolor="none", xlim=(0, across), ylim=(0, down))
        axes.locator_params(axis="x", nbins=max(1, width // 70))
        axes.locator_params(axis="y", nbins=max(1, height // 50))
        leftmost = layout.stacked or number == 0
        lowest = not layout.stacked or number == layout.panels - 1
        axes.tick_params(labelsize=8, labelleft=leftmost, labelbottom=lowest)
        axes.set_ylabel(unit if leftmost else "", fontsize=8)
        axes.set_xlabel(unit if lowest else "", fontsize=8)


def _extent(labels: xr.DataArray) -> tuple[float, float, str]:
    """Width and height of the scene and their unit: km, degrees, or pixels if neither is known."""
    crs, (height, width) = labels.rio.crs, labels.shape
    if crs is None or min(labels.shape) < 2 or not {"x", "y"} <= set(labels.coords):
        return width, height, "pixels"
    dx, dy = labels.rio.resolution(recalc=True)
    across, down = abs(dx) * width, abs(dy) * height
    if not crs.is_projected:
        return across, down, "degrees"
    kilometres = crs.linear_units_factor[1] / 1000
    return across * kilometres, down * kilometres, "km"


def _draw_legend(figure: Figure, percentages: np.ndarray, layout: Layout) -> None:
    handles: list[Patch | Line2D] = [
        Patch(
            facecolor=f"#{entry.color}",
            edgecolor="#404040",
            linewidth=0.6,
            label=f"{entry.title} {percent(percentages[entry.label])}",
        )
        for entry in LEGEND
        if entry.label != Label.UNDEFINED or percentages[entry.label]
    ]
    handles += [Line2D([], [], color=f"#{color}", label=name) for name, _, color in OUTLINES]
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(layout.left / layout.width, 6 / layout.height),
        borderaxespad=0,
        borderpad=0,
        ncols=layout.legend_columns,
        frameon=False,
        fontsize=9,
    )


def _facts(labels: xr.DataArray, level: str) -> str:
    facts = [f"Sentinel-2 {level}"]
    if "time" in labels.coords:
        minute = str(labels["time"].values.astype("M8[m]"))
        facts.append(f"{minute.replace('T', ' ')} UTC")
    if model := labels.attrs.get("kappamask_model"):
        facts.append(f"model {model}")
    return " · ".join(facts)


def _wrap(text: str, room: int) -> list[str]:
    """Break a line of the heading between words where it is wider than `room` pixels."""
    font = get_font(findfont(FontProperties()))
    font.set_size(HEADING, DPI)
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        font.set_text(longer)
        if lines and font.get_width_height()[0] / 64 <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
