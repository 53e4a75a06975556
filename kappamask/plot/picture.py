"""The numpy half of a picture: one date with its mask, pixels to colours."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.base.bands import check_level
from kappamask.base.errors import InputError
from kappamask.base.legend import LEGEND, SNOW_LEGEND, Label, Snow
from kappamask.base.pixels import count_codes
from kappamask.predict.array import HIGHEST_REFLECTANCE
from kappamask.predict.cube import check_same, refuse_snow

if TYPE_CHECKING:
    import xarray as xr

TRUE_COLOR = ("B04", "B03", "B02")
# Fixed stretch, so that dates compare and a cloud is white on every one of them:
# ((reflectance - dark) / BRIGHT) ** (1 / GAMMA). At L1C, dark is about what clear air adds.
DARK = {"L1C": (0.02, 0.04, 0.07), "L2A": (0.0, 0.0, 0.0)}
BRIGHT = 0.4
# Above this share of the stretch it bends: clouds of all brightness have their texture, and only
# what reflects more than everything is white.
SHOULDER = 0.8
GAMMA = 1.8
CASING = (16, 16, 16)  # beside outlines
SNOW_COLOR = next(entry.color for entry in SNOW_LEGEND if entry.label == Snow.SNOW)
OUTLINES = (
    ("cloud outline", (Label.CLOUD, Label.SEMI_TRANSPARENT), "FFD400"),
    ("shadow outline", (Label.CLOUD_SHADOW,), "FF2D95"),
)


class Date:
    """One date with its mask as pictures show it: north up, reduced to so many pixels.

    Parameters
    ----------
    cube, labels
        Reflectance (band, y, x) and uint8 class codes (y, x); a dimension time of size one
        may stand before. Nothing is read before it is asked for.
    longest
        Pixels along the longer side of what is drawn, at most: a larger raster is reduced
        by a whole number.

    Raises
    ------
    InputError
        If either has more dates or other dims, if a visible band or the level is absent,
        or if they do not cover the same pixels.
    """

    def __init__(self, cube: xr.DataArray, labels: xr.DataArray, *, longest: int) -> None:
        """Check that both show the same pixels of one date."""
        cube, labels = _one_date(cube, "cube"), _one_date(labels, "labels")
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
        refuse_snow(labels)
        check_same(cube, labels, "cover the same pixels", dims=("y", "x"))
        self.level = check_level(labels.attrs.get("level", cube.attrs.get("level")))
        south_up = "y" in labels.coords and labels["y"].values[0] < labels["y"].values[-1]
        self._rows = slice(None, None, -1 if south_up else 1)
        self.cube, self.labels = (
            array.transpose(..., "y", "x").isel(y=self._rows) for array in (cube, labels)
        )
        self.factor = -(-max(self.labels.shape) // longest)

    @cached_property
    def codes(self) -> np.ndarray:
        """All labels, at full resolution."""
        return self.labels.to_numpy()

    @cached_property
    def shares(self) -> np.ndarray:
        """Of all pixels, what each class has: (6,), 0 to 1. Missing pixels are not clear."""
        when = f"of {self.labels['time'].values}" if "time" in self.labels.coords else "in labels"
        return count_codes(self.codes, where=when) / self.codes.size

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """Give true colour (rows, columns, 3) and the most frequent labels (rows, columns)."""
        return self.draw_colors(), reduce_labels(self.codes, factor=self.factor)

    def draw_snow(self, snow: xr.DataArray) -> tuple[np.ndarray, float]:
        """Tell where snow is drawn, bool (rows, columns), and what share of clear pixels it has.

        Raises
        ------
        InputError
            If it does not cover the same pixels.
        """
        snow = _one_date(snow, "snow")
        check_same(self.cube, snow.isel(y=self._rows), "cover the same pixels", dims=("y", "x"))
        snowy = snow.transpose("y", "x").isel(y=self._rows).to_numpy() == Snow.SNOW
        snowy &= self.codes == Label.CLEAR
        clear = np.count_nonzero(self.codes == Label.CLEAR)
        return block_mean(snowy, factor=self.factor) > 0.5, np.count_nonzero(snowy) / (clear or 1)

    def draw_colors(self) -> np.ndarray:
        """Give true colour alone: uint8 (rows, columns, 3)."""
        return true_color(self.cube, level=self.level, factor=self.factor)


def _one_date(array: xr.DataArray, name: str) -> xr.DataArray:
    if array.sizes.get("time", 1) != 1:
        raise InputError(
            f"a quicklook shows one date, got {array.sizes['time']} in {name}: "
            "select one with isel(time=0)"
        )
    return array.isel(time=0, missing_dims="ignore")


def true_color(cube: xr.DataArray, *, level: str, factor: int = 1) -> np.ndarray:
    """Stretch the visible bands of reflectance (band, y, x) to a picture.

    It is uint8 (rows, columns, 3), black where any of the three has no data. L1C still holds
    the light of the air above. Bands are read one at a time; blocks of `factor` x `factor`
    pixels are averaged.
    """
    bands = [block_mean(cube.sel(band=name).to_numpy(), factor=factor) for name in TRUE_COLOR]
    reflectance = np.dstack(bands)  # (rows, columns, 3)
    highest = np.nanmax(reflectance, initial=0.0)
    if highest > HIGHEST_REFLECTANCE:
        raise InputError(
            f"a cube must hold reflectance, 1.0 = 100 %, got values up to {highest:.0f}: "
            "divide DN by 10000 after adding the offset of the processing baseline"
        )
    bright = _bend((reflectance - DARK[level]) / BRIGHT) ** (1 / GAMMA)
    bright[np.isnan(reflectance).any(axis=-1)] = 0
    return np.round(bright * 255).astype(np.uint8)


def _bend(values: np.ndarray) -> np.ndarray:
    """Bring 0 to any brightness into 0 to 1, straight up to `SHOULDER`."""
    values, room = np.maximum(values, 0), 1 - SHOULDER
    above = np.maximum(values - SHOULDER, 0)
    bent = SHOULDER + room * (1 - np.exp(-above / (4 * room)))
    return np.where(above > 0, bent, values)


def block_mean(values: np.ndarray, *, factor: int) -> np.ndarray:
    """Average blocks of `factor` x `factor` pixels; NaN counts only where a block has no other.

    Blocks at the lower and right edge may be smaller.
    """
    valid = ~np.isnan(values)
    count = _block_sum(valid, factor)
    total = _block_sum(np.where(valid, values, 0), factor)
    means: np.ndarray = np.full(total.shape, np.nan)
    np.divide(total, count, out=means, where=count > 0)
    return means


def reduce_labels(codes: np.ndarray, *, factor: int) -> np.ndarray:
    """Take the most frequent code of each block of `factor` x `factor` pixels."""
    votes = np.stack([_block_sum(codes == int(entry.label), factor) for entry in LEGEND])
    winners: np.ndarray = votes.argmax(axis=0)  # (6, rows, columns) -> (rows, columns)
    return winners.astype(np.uint8)


def _block_sum(values: np.ndarray, factor: int) -> np.ndarray:
    rows, columns = (-(-size // factor) for size in values.shape)
    short = rows * factor - values.shape[0], columns * factor - values.shape[1]
    values, total = np.pad(values, [(0, short[0]), (0, short[1])]), np.zeros((rows, columns))
    for row, column in np.ndindex(factor, factor):
        total += values[row::factor, column::factor]
    return total


def label_colors(codes: np.ndarray) -> np.ndarray:
    """Paint class codes (y, x) in the colours of the legend: uint8 (y, x, 3)."""
    palette = np.array([entry.rgb for entry in LEGEND], dtype=np.uint8)
    colors: np.ndarray = palette[codes]
    return colors


def outlined(colors: np.ndarray, codes: np.ndarray, *, width: int = 2) -> np.ndarray:
    """Draw lines of `width` pixels into a picture (y, x, 3), inside the edges of `OUTLINES`.

    Each has a dark line along its inner side: a bright colour alone is lost on a white cloud.
    """
    picture = colors.copy()
    for _, members, color in OUTLINES:
        line = np.isin(codes, members)
        core = line
        for _ in range(width):
            core = _shrink(core)
        picture[core & ~_shrink(core)] = CASING
        picture[line & ~core] = tuple(bytes.fromhex(color))
    return picture


def plot_labels(labels: xr.DataArray) -> Any:
    """Draw labels by xarray's own plot, in the colours of the classes, with their names.

    Parameters
    ----------
    labels
        uint8 class codes (y, x), or (time, y, x): then a panel per date.

    Returns
    -------
    matplotlib.collections.QuadMesh or xarray.plot.FacetGrid
        What xarray gives.

    Raises
    ------
    InputError
        If they are no labels.

    Examples
    --------
    >>> import xarray as xr
    >>> labels = xr.DataArray(np.array([[1, 4], [2, 5]], "uint8"), dims=("y", "x"))
    >>> plot_labels(labels).get_cmap().N
    6
    """
    from matplotlib.colors import BoundaryNorm, ListedColormap

    refuse_snow(labels)
    names = [entry.title for entry in LEGEND]
    many: dict[str, Any] = {"col": "time", "col_wrap": 4} if labels.sizes.get("time", 1) > 1 else {}
    return labels.squeeze(drop=False).plot(
        cmap=ListedColormap([f"#{entry.color}" for entry in LEGEND]),
        norm=BoundaryNorm(np.arange(-0.5, len(LEGEND)), len(LEGEND)),
        cbar_kwargs={"ticks": range(len(LEGEND)), "format": lambda code, _: names[int(code)],
                     "label": ""},
        **many,
    )  # fmt: skip


def _shrink(inside: np.ndarray) -> np.ndarray:
    # The picture's own edge is no edge of a cloud: pad with what lies there.
    padded = np.pad(inside, 1, mode="edge")
    middle = slice(1, -1)
    return (  # type: ignore[no-any-return]
        inside & padded[:-2, middle] & padded[2:, middle] & padded[middle, :-2] & padded[middle, 2:]
    )


def class_shares(labels: xr.DataArray) -> np.ndarray:
    """Count what share of all pixels each class has on each date, one date at a time.

    Takes uint8 class codes (time, y, x) and gives float64 (time, 6), 0 to 1. Missing pixels
    are pixels too: they are not clear.
    """
    counts = [
        count_codes(labels.isel(time=index).to_numpy(), where=f"on date {index}")
        for index in range(labels.sizes["time"])
    ]
    return np.array(counts) / (labels.sizes["y"] * labels.sizes["x"])
