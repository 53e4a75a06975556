"""Pictures of a mask: true colour, labels and outlines side by side.

Row 5: imports `stac_item` (names, counts), `bands`, `errors` and `legend`; never `output`.
"""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rioxarray  # noqa: F401  (registers the .rio accessor)
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kappamask import __version__
from kappamask.bands import check_level
from kappamask.errors import InputError, WriteError
from kappamask.legend import LEGEND, Label
from kappamask.stac_item import count_codes, names_of_dates, sources_of_dates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import xarray as xr

TRUE_COLOR = ("B04", "B03", "B02")
# Fixed stretch, so that dates compare and a cloud is white on every one of them:
# ((reflectance - dark) / BRIGHT) ** (1 / GAMMA). At L1C, dark is about what clear air adds.
DARK = {"L1C": (0.02, 0.04, 0.07), "L2A": (0.0, 0.0, 0.0)}
BRIGHT = 0.4
GAMMA = 1.8
DN_ABOVE = 10.0  # no reflectance is that high
OUTLINES = (
    ("cloud outline", (Label.CLOUD, Label.SEMI_TRANSPARENT), "FFD400"),
    ("shadow outline", (Label.CLOUD_SHADOW,), "FF2D95"),
)
DPI = 128  # a power of two: pixels / DPI * DPI is exact
SMALL = 600  # screen pixels; a smaller raster is drawn with whole pixels enlarged to about this


@dataclass(frozen=True)
class Layout:
    """Where everything stands, in screen pixels from the upper left corner."""

    rows: int  # of the drawn array
    columns: int
    left: int = 76  # room for the y axis
    right: int = 24
    top: int = 92  # figure title and panel titles
    gap: int = 44  # between panels: a title or some air
    bottom: int = 60  # room for the x axis
    line: int = 26  # height of one line of the legend
    slot: int = 200  # least width given to a panel: its title has to fit
    panels: int = 3

    @property
    def zoom(self) -> int:
        """Screen pixels along the side of one array pixel."""
        return max(1, SMALL // max(self.rows, self.columns))

    @property
    def panel(self) -> tuple[int, int]:
        """Width and height of a panel."""
        return self.columns * self.zoom, self.rows * self.zoom

    @property
    def pitch(self) -> tuple[int, int]:
        """From one panel to the next: to the right, downwards."""
        return max(self.panel[0], self.slot) + self.gap, self.panel[1] + self.gap

    @property
    def stacked(self) -> bool:
        """Whether the panels stand one below the other: wide scenes."""
        return self.columns > 1.5 * self.rows

    @property
    def width(self) -> int:
        """Of the picture."""
        across = 1 if self.stacked else self.panels
        panels = across * self.pitch[0] - self.gap
        return max(self.left + panels + self.right, SMALL + self.left + self.right)

    @property
    def legend_columns(self) -> int:
        """Entries that fit in one line of the legend."""
        return max(2, self.width // 300)

    @property
    def height(self) -> int:
        """Of the picture."""
        down = self.panels if self.stacked else 1
        lines = -(-(len(LEGEND) + len(OUTLINES)) // self.legend_columns)
        panels = down * self.pitch[1] - self.gap
        return self.top + panels + self.bottom + lines * self.line + 12

    def corner(self, number: int) -> tuple[int, int]:
        """Upper left corner of panel `number`: x, y."""
        if self.stacked:
            return self.left, self.top + number * self.pitch[1]
        return self.left + number * self.pitch[0], self.top


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
        Stands before level and date.
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
    >>> import xarray as xr
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
    cube, labels = _check_pair(_one_date(cube, "cube"), _one_date(labels, "labels"))
    level = check_level(labels.attrs.get("level", cube.attrs.get("level")))
    factor = -(-max(labels.shape) // max_px)
    codes = labels.to_numpy()
    if codes.max() >= len(LEGEND):
        raise InputError(
            f"labels must be codes of kappamask.Label, 0 to {len(LEGEND) - 1}, got "
            f"{codes.max()}: pass what predict_cube returned"
        )
    percentages = 100 * count_codes(codes) / codes.size
    drawn = reduce_labels(codes, factor=factor)
    colors = true_color(cube, level=level, factor=factor)
    layout = Layout(*drawn.shape)
    figure = _draw(colors, drawn, layout)
    heading = " · ".join(
        text for text in (title, f"Sentinel-2 {level}", _date_of(labels), _model_of(labels)) if text
    )
    figure.text(layout.left / layout.width, 1 - 16 / layout.height, heading, va="top", fontsize=11)
    _draw_axes(figure, labels, layout)
    _draw_legend(figure, percentages, layout)
    return _save(figure, Path(path))


def quicklooks(
    cube: xr.DataArray,
    labels: xr.DataArray,
    folder: str | Path,
    *,
    source_items: Iterable[Any] | None = None,
    progress: Callable[[Path], object] | None = None,
) -> list[Path]:
    """Draw every date, one at a time, named as `kappamask.output.write_mask` names it.

    Parameters
    ----------
    cube
        Canonical reflectance, dims (time, band, y, x).
    labels
        uint8 class codes, dims (time, y, x), at times that the cube holds too.
    folder
        Made if absent.
    source_items
        As in `write_mask`: they know the tile that stands in the name.
    progress
        Called with each path after it is written.

    Returns
    -------
    list of Path
        One PNG per date, in the order of ``labels``.

    Raises
    ------
    InputError
        As `quicklook` does; also if a time of the labels is not in the cube.
    WriteError
        As `quicklook` does.
    """
    for name, array in {"cube": cube, "labels": labels}.items():
        if "time" not in array.dims:
            raise InputError(
                f"{name} must have a time dim, got dims {array.dims}: use quicklook for one date"
            )
    absent = np.setdiff1d(labels["time"].values, cube["time"].values)
    if absent.size:
        raise InputError(
            f"each date of the labels must be in the cube, got none for {absent}: "
            "pass the cube that was labelled"
        )
    level = check_level(labels.attrs.get("level", cube.attrs.get("level")))
    sources = sources_of_dates(labels, source_items)
    names = names_of_dates(labels["time"].values, sources, level=level)
    paths = []
    for index, name in enumerate(names):
        date = labels.isel(time=index)
        path = Path(folder) / f"{name}.png"
        paths.append(quicklook(cube.sel(time=date["time"]), date, path))
        if progress is not None:
            progress(path)
    return paths


def _one_date(array: xr.DataArray, name: str) -> xr.DataArray:
    if "time" not in array.dims:
        return array
    if array.sizes["time"] != 1:
        raise InputError(
            f"a quicklook shows one date, got {array.sizes['time']} in {name}: "
            "select one with isel(time=0), or call quicklooks"
        )
    return array.isel(time=0)


def _check_pair(cube: xr.DataArray, labels: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Check that both show the same pixels, and turn them north up."""
    if set(cube.dims) != {"band", "y", "x"} or set(labels.dims) != {"y", "x"}:
        raise InputError(
            "a quicklook needs a cube (band, y, x) and labels (y, x), got "
            f"{cube.dims} and {labels.dims}: select one date of each"
        )
    if labels.dtype != np.uint8 or labels.size == 0:
        raise InputError(
            f"labels must be uint8 class codes of one pixel or more, got {labels.dtype} "
            f"of shape {labels.shape}: pass what predict_cube returned"
        )
    absent = [name for name in TRUE_COLOR if name not in cube["band"].values]
    if absent:
        raise InputError(
            f"true colour needs {', '.join(TRUE_COLOR)}; the cube lacks {', '.join(absent)}: "
            "load these bands too"
        )
    cube, labels = cube.transpose("band", "y", "x"), labels.transpose("y", "x")
    for axis in ("y", "x"):
        known = axis in cube.coords and axis in labels.coords
        if cube.sizes[axis] != labels.sizes[axis] or (
            known and not np.allclose(cube[axis], labels[axis])
        ):
            raise InputError(
                "cube and labels must cover the same pixels, got "
                f"{cube.sizes[axis]} and {labels.sizes[axis]} along {axis}, or other "
                "coordinates: pass the cube that was labelled"
            )
    if "y" in labels.coords and labels["y"].values[0] < labels["y"].values[-1]:
        up = slice(None, None, -1)
        return cube.isel(y=up), labels.isel(y=up)
    return cube, labels


def true_color(cube: xr.DataArray, *, level: str, factor: int = 1) -> np.ndarray:
    """Stretch the visible bands to a picture.

    Parameters
    ----------
    cube
        Reflectance, dims (band, y, x); read one band at a time.
    level
        ``"L1C"`` or ``"L2A"``: L1C still holds the light of the air above.
    factor
        Pixels per side that are averaged into one.

    Returns
    -------
    ndarray
        uint8 (rows, columns, 3); black where any of the three has no data.
    """
    bands = [block_mean(cube.sel(band=name).to_numpy(), factor=factor) for name in TRUE_COLOR]
    reflectance = np.stack(bands, axis=-1)  # (rows, columns, 3)
    highest = np.nanmax(reflectance, initial=0.0)
    if highest > DN_ABOVE:
        raise InputError(
            f"a cube must hold reflectance, 1.0 = 100 %, got values up to {highest:.0f}: "
            "divide DN by 10000 after adding the offset of the processing baseline"
        )
    bright = np.clip((reflectance - DARK[level]) / BRIGHT, 0, 1) ** (1 / GAMMA)
    bright[np.isnan(reflectance).any(axis=-1)] = 0
    picture: np.ndarray = np.round(bright * 255)
    return picture.astype(np.uint8)


def block_mean(values: np.ndarray, *, factor: int) -> np.ndarray:
    """Average blocks of `factor` x `factor` pixels; NaN counts only where a block has no other.

    Blocks at the lower and right edge may be smaller.

    Examples
    --------
    >>> block_mean(np.array([[1.0, 3.0, 5.0], [np.nan, np.nan, np.nan]]), factor=2)
    array([[2., 5.]])
    """
    if factor == 1:
        return values
    valid = ~np.isnan(values)
    count = _block_sum(valid, factor)
    total = _block_sum(np.where(valid, values, 0), factor)
    means: np.ndarray = np.full(total.shape, np.nan)
    np.divide(total, count, out=means, where=count > 0)
    return means


def reduce_labels(codes: np.ndarray, *, factor: int) -> np.ndarray:
    """Take the most frequent code of each block of `factor` x `factor` pixels.

    Examples
    --------
    >>> reduce_labels(np.array([[1, 4, 5], [4, 4, 5]], dtype="uint8"), factor=2)
    array([[4, 5]], dtype=uint8)
    """
    if factor == 1:
        return codes
    votes = np.stack([_block_sum(codes == int(entry.label), factor) for entry in LEGEND])
    winners: np.ndarray = votes.argmax(axis=0)  # (6, rows, columns) -> (rows, columns)
    return winners.astype(np.uint8)


def _block_sum(values: np.ndarray, factor: int) -> np.ndarray:
    for axis in (0, 1):
        starts = np.arange(0, values.shape[axis], factor)
        values = np.add.reduceat(values, starts, axis=axis, dtype=float)
    return values


def label_colors(codes: np.ndarray) -> np.ndarray:
    """Paint class codes (y, x) in the colours of the legend: uint8 (y, x, 3)."""
    palette = np.array([entry.rgb for entry in LEGEND], dtype=np.uint8)
    colors: np.ndarray = palette[codes]
    return colors


def outlined(colors: np.ndarray, codes: np.ndarray, *, width: int = 2) -> np.ndarray:
    """Draw the edges of clouds and shadows into a picture, inside the labelled area.

    Parameters
    ----------
    colors
        uint8 (y, x, 3).
    codes
        Class codes (y, x).
    width
        Of the line, in pixels.
    """
    picture = colors.copy()
    for _, members, color in OUTLINES:
        inside = np.isin(codes, members)
        core = inside
        for _ in range(width):
            core = _shrink(core)
        picture[inside & ~core] = tuple(bytes.fromhex(color))
    return picture


def _shrink(inside: np.ndarray) -> np.ndarray:
    # The picture's own edge is no edge of a cloud: pad with what lies there.
    padded = np.pad(inside, 1, mode="edge")
    middle = slice(1, -1)
    return (  # type: ignore[no-any-return]
        inside & padded[:-2, middle] & padded[2:, middle] & padded[middle, :-2] & padded[middle, 2:]
    )


def _draw(colors: np.ndarray, codes: np.ndarray, layout: Layout) -> Figure:
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
        last = number == layout.panels - 1
        axes.tick_params(
            labelsize=8,
            labelleft=layout.stacked or number == 0,
            labelbottom=last or not layout.stacked,
        )
        if layout.stacked or number == 0:
            axes.set_ylabel(unit, fontsize=8)
        if last or not layout.stacked:
            axes.set_xlabel(unit, fontsize=8)


def _extent(labels: xr.DataArray) -> tuple[float, float, str]:
    """Width and height of the scene and their unit: km, degrees, or pixels if neither is known."""
    sizes = labels.sizes["x"], labels.sizes["y"]
    crs = labels.rio.crs
    if crs is None or min(sizes) < 2 or not {"x", "y"} <= set(labels.coords):
        return *sizes, "pixels"
    across, down = (
        abs(float(labels[axis].values[-1] - labels[axis].values[0])) * size / (size - 1)
        for axis, size in zip(("x", "y"), sizes, strict=True)
    )
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
            label=f"{entry.title} {_percent(percentages[entry.label])}",
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


def _percent(value: float) -> str:
    return "< 0.1 %" if 0 < value < 0.05 else f"{value:.1f} %"


def _date_of(labels: xr.DataArray) -> str:
    if "time" not in labels.coords:
        return ""
    minute = str(np.datetime_as_string(labels["time"].values, unit="m"))
    return f"{minute.replace('T', ' ')} UTC"


def _model_of(labels: xr.DataArray) -> str:
    name = labels.attrs.get("kappamask_model")
    return f"model {name}" if name else ""


def _save(figure: Figure, path: Path) -> Path:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": f"kappamask {__version__}"})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".kappamask-", dir=path.parent) as staging:
            part = Path(staging) / path.name
            part.write_bytes(buffer.getvalue())
            part.replace(path)
    except OSError as error:
        raise WriteError(
            f"a picture's folder must be writable and have space, got {error.strerror or error} "
            f"for {path}: free some space or choose another folder"
        ) from error
    return path
