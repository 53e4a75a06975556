"""A quicklook of one date: true colour, labels, outlines; and the sheet that all pictures are."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import rioxarray  # noqa: F401  (registers the .rio accessor)
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image, PngImagePlugin

from kappamask import __version__
from kappamask.base.errors import InputError
from kappamask.base.files import publish, staging
from kappamask.base.legend import LEGEND, Label
from kappamask.plot.picture import OUTLINES, SNOW_COLOR, Date, label_colors, outlined
from kappamask.scenes.area import transformer

if TYPE_CHECKING:
    import xarray as xr

DPI = 128  # a power of two: pixels / DPI * DPI is exact
EDGE = "#404040"  # around colours that are nearly white
HEADING = 11  # points
SMALL = 600  # screen pixels; a smaller raster is drawn with whole pixels enlarged to about this
LEFT, RIGHT, BELOW = 76, 24, 72  # room for the axes, and around the legend
GAP = 44  # between panels: a title or some air
SLOT = 200  # least width given to a panel: its title has to fit
LINE = 26  # height of one line of words
AFTER = 7  # between a name of the legend and its number
PANELS = ("True colour", "Labels", "Outlines of the labels")


def quicklook(  # noqa: PLR0913  the contract fixes three
    cube: xr.DataArray,
    labels: xr.DataArray,
    path: str | Path,
    *,
    title: str | None = None,
    max_px: int = 1200,
    snow: xr.DataArray | None = None,
    shares: np.ndarray | None = None,
) -> Path:
    """Draw one date as PNG: true colour, labels, and true colour with outlines.

    True colour (B04, B03, B02) has a fixed stretch, so that dates compare and a
    cloud is white on all of them; so is snow, which other bands tell apart: see `snow`.
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
    shares
        Of all pixels, what each class has: (6,), 0 to 1. Only where the two are reduced already;
        None counts them.
    snow
        Codes of snow of the same pixels, as `kappamask.predict_cube` gives them with
        ``output="snow"``; they are painted over the labels.

    Returns
    -------
    Path
        The picture; a notebook shows it.

    Raises
    ------
    InputError
        If a visible band, the level or a single date is lacking, if they do not
        cover the same pixels, or if the cube holds DN instead of reflectance.
    WriteError
        If the file cannot be written; a picture that was there before stays.

    Examples
    --------
    >>> import tempfile, numpy as np, xarray as xr
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
    date = Date(cube, labels, longest=max_px)
    if shares is None:
        shares = date.shares
    colors, codes = date.draw()
    snowy, share = (np.zeros(codes.shape, bool), 0.0) if snow is None else date.draw_snow(snow)
    rows, columns = codes.shape
    zoom = max(1, SMALL // max(rows, columns))
    width, height = columns * zoom, rows * zoom
    stacked = columns > 1.5 * rows  # the panels of a wide scene: one below the other
    slot = max(width, SLOT)
    right, down = (0, height + GAP) if stacked else (slot + GAP, 0)
    room = max(2 * right + slot, SMALL)
    heading = [*_wrap(title or "", room), *_wrap(_facts(date), room)]
    top = 66 + LINE * len(heading)
    columns = _legend_columns(LEFT + room + RIGHT)
    lines = -(-(len(LEGEND) + len(OUTLINES) + (snow is not None)) // columns)
    size = LEFT + room + RIGHT, top + 2 * down + height + BELOW + lines * LINE
    # enlarged before outlines are drawn: these are as thin in a small scene
    colors, codes, snowy = (
        array.repeat(zoom, 0).repeat(zoom, 1) for array in (colors, codes, snowy)
    )
    painted = label_colors(codes)
    painted[snowy] = tuple(bytes.fromhex(SNOW_COLOR))
    places = tuple((LEFT + number * right, top + number * down) for number in range(len(PANELS)))
    named = named_in_legend(undefined=bool(shares[Label.UNDEFINED]), snow=snow is not None)
    extent = _extent(date.labels)
    frame = _draw_frame(size, places, (width, height), extent, named, stacked=stacked)
    sheet = Sheet(*size, below=frame)
    for place, picture in zip(places, (colors, painted, outlined(colors, codes)), strict=True):
        sheet.paint(*place, picture)
    for code, (right, bottom) in zip(named, frame.ends, strict=False):
        value = share if code is None else shares[code]
        sheet.write(right + AFTER, bottom, percent(100 * value))
    sheet.write(LEFT, 16, "\n".join(heading), size=HEADING, va="top")
    return sheet.save(path)


@lru_cache(maxsize=1)
def _draw_frame(
    size: tuple[int, int],
    places: tuple[tuple[int, int], ...],
    panel: tuple[int, int],
    extent: tuple[float, float, str],
    named: tuple[int | None, ...],
    *,
    stacked: bool,
) -> Sheet:
    """Draw what the dates of an area share: names, axes and ticks of panels at `places`, legend.

    They take matplotlib ten times as long as all other words of a quicklook.
    """
    sheet, (width, height), (across, along, unit) = Sheet(*size), panel, extent
    crs_known = unit != "pixels"  # then up is north
    for number, ((x, y), name) in enumerate(zip(places, PANELS, strict=True)):
        sheet.write(x, y - 10, name)
        if crs_known:
            sheet.write(x + width, y - 10, "N ↑", ha="right")
        axes = sheet.axes(x, y, width, height)
        axes.set(xlim=(0, across), ylim=(0, along), facecolor="none")
        axes.locator_params(axis="x", nbins=max(1, width // 70))
        axes.locator_params(axis="y", nbins=max(1, height // 50))
        leftmost, lowest = stacked or number == 0, not stacked or number == len(PANELS) - 1
        axes.tick_params(labelsize=8, left=leftmost, labelleft=leftmost)
        axes.tick_params(bottom=lowest, labelbottom=lowest)
        axes.set_ylabel(unit if leftmost else "", fontsize=8)
        axes.set_xlabel(unit if lowest else "", fontsize=8)
    sheet.explain(LEFT, _legend_columns(size[0]), named, full=True)
    return sheet


def _legend_columns(width: int) -> int:
    return max(2, width // 300)


def named_in_legend(*, undefined: bool, snow: bool = False) -> tuple[int | None, ...]:
    """List the codes that a legend names, undefined only where some is; snow is None."""
    codes: list[int | None] = [
        int(e.label) for e in LEGEND if undefined or e.label != Label.UNDEFINED
    ]
    if snow:
        codes.insert(1, None)  # it is part of what is clear
    return tuple(codes)


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


def _facts(date: Date) -> str:
    facts = [f"Sentinel-2 {date.level}"]
    if "time" in date.labels.coords:
        time = date.labels["time"].values
        known = time != time.astype("M8[D]")  # midnight stands for a time that is not told
        minute = str(time.astype("M8[m]")).replace("T", " ")
        facts.append(f"{minute} UTC" if known else minute[:10])
    if place := _place(date.labels):
        facts.append(place)
    if model := date.labels.attrs.get("kappamask_model"):
        facts.append(f"model {model}")
    return " · ".join(facts)


def _place(labels: xr.DataArray) -> str:
    """Say where the middle of the scene lies; nothing if that is not known."""
    crs = labels.rio.crs
    if crs is None or not {"x", "y"} <= set(labels.coords):
        return ""
    middle = (float(labels[axis].values[[0, -1]].mean()) for axis in ("x", "y"))
    east, north = transformer(crs.to_wkt(), 4326).transform(*middle)
    return f"{abs(north):.3f}° {'NS'[north < 0]} {abs(east):.3f}° {'EW'[east < 0]}"


def _wrap(text: str, room: int) -> list[str]:
    """Break a line of the heading between words where it is wider than `room` pixels."""
    font = get_font(findfont(FontProperties()))
    font.set_size(HEADING, DPI)

    def fits(line: str) -> bool:
        font.set_text(line)
        return font.get_width_height()[0] / 64 <= room

    words = text.split()
    if words and fits(" ".join(words)):  # most do, and each line that is tried takes a millisecond
        return [" ".join(words)]
    lines: list[str] = []
    for word in words:
        if lines and fits(longer := f"{lines[-1]} {word}"):
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


# --- what all pictures share ----------------------------------------------------------------------


def percent(value: float) -> str:
    """Write a percentage; what is there is never 0."""
    return "< 0.1 %" if 0 < value < 0.05 else f"{value:.1f} %"


class Picture(type(Path())):  # type: ignore[misc]  # the path class of this system
    """The path of a PNG, which a notebook shows as the picture."""

    def _repr_png_(self) -> bytes | None:
        return self.read_bytes() if self.is_file() else None


class Ink(NamedTuple):
    """What was drawn on a sheet, without its paper."""

    where: tuple[np.ndarray, ...]  # rows and columns of n pixels
    colors: np.ndarray  # (n, 3) 0 to 255, times `cover`
    cover: np.ndarray  # (n, 1) 0 to 1

    def print_on(self, page: np.ndarray) -> None:
        """Lay it over a picture, uint8 (rows, columns, 3)."""
        page[self.where] = np.round(self.colors + page[self.where] * (1 - self.cover))


class Sheet:
    """A figure whose parts stand at screen pixels from its upper left corner."""

    def __init__(self, width: float, height: float, *, below: Sheet | None = None) -> None:
        """Make it empty and white, but for what stands on another one of its size."""
        self.below = below
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="none")
        self._pictures: list[tuple[int, int, np.ndarray]] = []

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Make room for a drawing."""
        bottom = 1 - (top + height) / self.height
        box = left / self.width, bottom, width / self.width, height / self.height
        return self.figure.add_axes(box)

    def paint(self, left: int, top: int, colors: np.ndarray) -> None:
        """Put a picture, uint8 (y, x, 3), pixel by pixel below whatever is drawn there."""
        self._pictures.append((left, top, colors))

    def show(
        self, left: float, top: float, width: float, height: float, colors: np.ndarray
    ) -> None:
        """Show a picture (y, x, 3) without ticks, with a thin frame."""
        axes = self.axes(left, top, width, height)
        axes.imshow(colors, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        for side in axes.spines.values():
            side.set(color=EDGE, linewidth=0.6)

    def write(self, left: float, top: float, words: str, *, size: int = 9, **how: Any) -> None:
        """Write words as they are; unless told otherwise, they stand above `top`."""
        at = left / self.width, 1 - top / self.height
        self.figure.text(*at, words, fontsize=size, parse_math=False, **{"va": "bottom"} | how)

    def explain(
        self,
        left: float,
        columns: int,
        named: Sequence[int | None],
        *,
        full: bool = False,
        size: float = 9,
    ) -> None:
        """Put the legend at the bottom: of classes by their codes, and of snow, which is None.

        In full it says what the outlines are, and leaves room after each name: see `ends`.
        """
        shown = [
            (SNOW_COLOR, "snow, of clear")
            if code is None
            else (LEGEND[code].color, LEGEND[code].title)
            for code in named
        ]
        handles: list[Patch | Line2D] = [
            Patch(facecolor=f"#{color}", edgecolor=EDGE, linewidth=0.6, label=words)
            for color, words in shown
        ]
        if full:
            handles += [
                Line2D([], [], color=f"#{color}", label=name) for name, _, color in OUTLINES
            ]
        self.figure.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(left / self.width, 6 / self.height),
            borderaxespad=0,
            borderpad=0,
            ncols=columns,
            frameon=False,
            fontsize=size,
            columnspacing=6.5 if full else None,  # times the size of a letter; None: as usual
        )

    @property
    def ends(self) -> list[tuple[float, float]]:
        """Where the names of a legend end: pixels to the right, and down to their lower edge."""
        _ = self.ink  # until it is drawn nothing has a place
        boxes = [text.get_window_extent() for text in self.figure.legends[0].get_texts()]
        return [(box.x1, self.height - box.y0) for box in boxes]

    @cached_property
    def ink(self) -> Ink:
        """All but the pictures, drawn once."""
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        drawn = np.asarray(canvas.buffer_rgba())
        where = np.nonzero(drawn[..., 3])
        cover = drawn[where][:, 3:] / np.float32(255)
        return Ink(where, drawn[where][:, :3] * cover, cover)

    def save(self, path: str | Path) -> Picture:
        """Write it as PNG, whole or not at all; the same figure gives the same bytes."""
        path, content = Picture(path), io.BytesIO()
        # matplotlib would resample pictures that are made pixel by pixel: most of the time
        page = np.full((round(self.height), round(self.width), 3), 255, np.uint8)
        for left, top, colors in self._pictures:
            page[top : top + colors.shape[0], left : left + colors.shape[1]] = colors
        for sheet in (self.below, self):
            if sheet is not None:
                sheet.ink.print_on(page)
        about = PngImagePlugin.PngInfo()
        about.add_text("Software", f"kappamask {__version__}")
        # zlib's default takes twice as long for a tenth of the size
        Image.fromarray(page).save(content, "PNG", compress_level=3, pnginfo=about)
        with staging(path.parent, path.name) as aside:
            publish(aside, {path: content.getvalue()})
        return path
