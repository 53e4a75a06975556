"""A composite beside one of the dates that it was made of. Row 5."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kappamask.base.bands import check_level
from kappamask.base.errors import InputError
from kappamask.base.legend import Label
from kappamask.plot.figure import DPI, percent, save, show_pixels
from kappamask.plot.picture import block_mean, check_pair, class_shares, true_color
from kappamask.plot.series import check_dates

if TYPE_CHECKING:
    import xarray as xr

COUNTS = colormaps["viridis"]
SIDE = 4.6  # inches along the longer side of a panel
HEAD, NAME, FOOT, AIR = 0.5, 0.28, 0.5, 0.15


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
    check_dates(cube, labels)
    level = check_level(labels.attrs.get("level", cube.attrs.get("level")))
    index, share = _choose(labels, before)
    scene, codes = check_pair(cube.isel(time=index), labels.isel(time=index))
    composed, _ = check_pair(image["reflectance"], labels.isel(time=index))
    counts = image["observations"]
    counts = counts.isel(time=0) if "time" in counts.dims else counts
    counts = counts.sel(y=composed["y"]) if "y" in composed.coords else counts
    factor = -(-max(codes.shape) // int(SIDE * DPI))
    seen = counts.transpose("y", "x").to_numpy()
    day = np.datetime_as_string(labels["time"].values[index], unit="D")
    never = 100 * float((seen == 0).mean())
    panels = {
        f"{day}: {percent(100 * share)} clear": true_color(scene, level=level, factor=factor),
        f"Composite ({image.attrs.get('method', 'of all')}): {percent(never)} never clear": (
            true_color(composed, level=level, factor=factor)
        ),
        "Dates that could be used": _paint(block_mean(seen.astype(float), factor=factor), seen),
    }
    return save(_draw(panels, title or _span(image, level), int(seen.max())), Path(path))


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


def _paint(counts: np.ndarray, seen: np.ndarray) -> np.ndarray:
    painted: np.ndarray = COUNTS(counts / max(int(seen.max()), 1))[..., :3]
    painted[counts == 0] = 0
    return painted


@dataclass(frozen=True)
class _Sheet:
    """Where the panels stand, in inches."""

    rows: int
    columns: int

    @property
    def panel(self) -> tuple[float, float]:
        scale = SIDE / max(self.rows, self.columns)
        return max(self.columns * scale, 2.6), max(self.rows * scale, 0.3)

    @property
    def size(self) -> tuple[float, float]:
        width, height = self.panel
        return 3 * width + 4 * AIR, HEAD + NAME + height + FOOT


def _draw(panels: dict[str, np.ndarray], title: str, most: int) -> Figure:
    sheet = _Sheet(*next(iter(panels.values())).shape[:2])
    (width, height), (across, down) = sheet.panel, sheet.size
    figure = Figure(figsize=(across, down), dpi=DPI, facecolor="white")
    figure.text(AIR / across, 1 - 0.12 / down, title, fontsize=11, va="top", parse_math=False)
    for number, (name, picture) in enumerate(panels.items()):
        left = AIR + number * (width + AIR)
        axes = figure.add_axes((left / across, FOOT / down, width / across, height / down))
        show_pixels(axes, picture)
        figure.text(left / across, (FOOT + height + 0.06) / down, name, fontsize=9, va="bottom")
    scale = figure.add_axes((left / across, 0.3 / down, width / across, 0.1 / down))
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, max(most, 1)), COUNTS), cax=scale, orientation="horizontal"
    )
    bar.locator = MaxNLocator(5, integer=True)
    bar.ax.tick_params(labelsize=8, length=2)
    return figure
