"""The pixel grid of a cube, and where its chunks are cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kappamask.base.errors import InputError
from kappamask.base.windows import LATTICE

Chunks = tuple[tuple[int, ...], tuple[int, ...]]  # sizes along y and x
MOST_PIXELS = 10_000_000  # of a grid, per side; around the equator there are 4 million of 10 m
MOST_CHUNKS = 1_000_000  # of a date; more would take minutes and gigabytes before a pixel is read


@dataclass(frozen=True)
class Grid:
    """A north-up pixel grid."""

    epsg: int  # projected, metres
    resolution: float  # metres per pixel
    left: float  # projected coordinates of the upper left corner
    top: float
    height: int  # pixels
    width: int

    def __post_init__(self) -> None:
        """Check that there is a pixel, and no more than coordinates are kept of."""
        if self.height < 1 or self.width < 1:
            raise InputError(
                f"an area needs at least one pixel, got {self.height} x {self.width}: widen it"
            )
        if max(self.height, self.width) > MOST_PIXELS:
            raise InputError(
                f"a cube has at most {MOST_PIXELS} pixels per side, got {self.height:g} x "
                f"{self.width:g} of {self.resolution:g} m: take a smaller area or larger pixels"
            )

    @classmethod
    def covering(
        cls,
        bounds: tuple[float, float, float, float],
        *,
        epsg: int,
        resolution: float,
        anchor: tuple[float, float],
    ) -> Grid:
        """Make the smallest grid that covers `bounds`, pixel edges in line with `anchor`.

        Examples
        --------
        >>> Grid.covering((3, 1, 22, 39), epsg=32632, resolution=10, anchor=(600000, 5000040))
        Grid(epsg=32632, resolution=10, left=0.0, top=40.0, height=4, width=3)
        """
        if not np.isfinite([*bounds, *anchor]).all():
            raise InputError(
                f"the edges of a cube are finite numbers, got {bounds}: check the area"
            )
        left, right = (_snapped(bounds[i], anchor[0], resolution, up=i == 2) for i in (0, 2))
        bottom, top = (_snapped(bounds[i], anchor[1], resolution, up=i == 3) for i in (1, 3))
        height = round((top - bottom) / resolution)
        return cls(epsg, resolution, left, top, height, round((right - left) / resolution))

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top."""
        return (
            self.left,
            self.top - self.height * self.resolution,
            self.left + self.width * self.resolution,
            self.top,
        )

    @property
    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates x and y of the pixel centres."""
        return (
            self.left + (np.arange(self.width) + 0.5) * self.resolution,
            self.top - (np.arange(self.height) + 0.5) * self.resolution,
        )

    @property
    def origin(self) -> tuple[int, int]:
        """Row and column of the first pixel, counted from the projected origin."""
        return round(-self.top / self.resolution), round(self.left / self.resolution)


def _snapped(value: float, anchor: float, step: float, *, up: bool) -> float:
    count = (value - anchor) / step
    nearest = round(count)
    if abs(count - nearest) > 1e-4:  # a thousandth of a metre is no reason for one more pixel
        nearest = int(np.ceil(count) if up else np.floor(count))
    return float(anchor + nearest * step)


def snap_chunks(grid: Grid, chunks: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Chunk sizes along y and x, cut where the projected grid's multiples of `chunks` lie."""
    if isinstance(chunks, bool) or not isinstance(chunks, int) or chunks < 1:
        raise InputError(f"chunks is pixels per side, an integer above 0, got {chunks!r}")
    row, column = grid.origin
    if (grid.height / chunks + 1) * (grid.width / chunks + 1) > MOST_CHUNKS:
        raise InputError(
            f"a date is cut into at most {MOST_CHUNKS} chunks, got {grid.height} x {grid.width} "
            f"pixels in chunks of {chunks}: take a smaller area or larger chunks"
        )
    return _snap(grid.height, row, chunks), _snap(grid.width, column, chunks)


def _snap(length: int, origin: int, chunk: int) -> tuple[int, ...]:
    if chunk >= LATTICE.core and length <= LATTICE.whole:
        return (length,)  # one window labels it: one chunk feeds that
    cuts = [0, *range(-origin % chunk or chunk, length, chunk), length]
    return tuple(int(size) for size in np.diff(cuts))
