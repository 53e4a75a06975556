"""The pixel grid of a cube and its window lattice: which pixels are read and labelled together.

Windows are square cores on a lattice anchored to the projected pixel grid, each
read with a margin on every side and cropped back. So the cut never depends on
how an array is chunked, and hardly on where an area of interest begins. Imports `errors`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from kappamask.base.errors import InputError

Chunks = tuple[tuple[int, ...], tuple[int, ...]]  # sizes along y and x
MOST_PIXELS = 10_000_000  # of a grid, per side; around the equator there are 4 million of 10 m
MOST_CHUNKS = 1_000_000  # of a date; more would take minutes and gigabytes before a pixel is read


@dataclass(frozen=True)
class Lattice:
    """The geometry of all windows, in pixels.

    Margins beside an area are as wide as the network's receptive field needs; the core is large
    to pay for those at the seams between windows, which are narrower: a tile of 10980 px costs
    1.2 times its pixels, with seams of 128 px it would be 1.4 (docs/decisions/0001-windows.md).
    """

    core: int = 1536  # labelled pixels per side; whole 10, 20 and 60 m pixels
    margin: int = 128  # read and discarded beside an area
    seam: int = 64  # the same where windows meet; at most `margin`
    whole: int = 2048  # an axis up to this long is not cut: cheaper than two windows
    stride: int = 32  # the network's coarsest step: windows begin and end on its multiples
    mirror: int = 32  # pixels mirrored at least at the edges of an array, where margins end

    def __post_init__(self) -> None:
        """Check that windows can begin and end on the network's grid."""
        sizes = (self.core, self.margin, self.seam, self.mirror)
        if self.core <= 0 or min(sizes) < 0 or any(size % self.stride for size in sizes):
            raise InputError(
                f"core, margin, seam and mirror must be multiples of the stride {self.stride}, got "
                f"{self.core}, {self.margin}, {self.seam} and {self.mirror}: choose the next "
                "multiple"
            )


LATTICE = Lattice()


@dataclass(frozen=True)
class Margins:
    """Pixels beside an area that are read too, for the network to see them; they get no label."""

    above: int = 0
    below: int = 0
    left: int = 0
    right: int = 0

    @property
    def sides(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Before and after along y, and along x."""
        return (self.above, self.below), (self.left, self.right)

    def widen(self, chunks: Chunks) -> Chunks:
        """Chunks of the area and its margins: those at the edges hold the margins too.

        Examples
        --------
        >>> Margins(above=2, right=1).widen(((5, 5), (8,)))
        ((7, 5), (9,))
        """
        rows, columns = (
            (sizes[0] + before, *sizes[1:-1], sizes[-1] + after)
            if len(sizes) > 1
            else (before + sizes[0] + after,)
            for sizes, (before, after) in zip(chunks, self.sides, strict=True)
        )
        return rows, columns

    def crop(self, shape: tuple[int, int]) -> tuple[slice, slice]:
        """Where the area lies in an array (y, x) that holds its margins too."""
        rows, columns = (
            slice(before, size - after)
            for size, (before, after) in zip(shape, self.sides, strict=True)
        )
        return rows, columns


NO_MARGINS = Margins()
INSIDE = "inside"  # in the encoding of a cube: bool (y, x), what of its rectangle was cut out
SURROUNDINGS = "surroundings"  # in the encoding of a cube: the lazy cube that it was cut out of


@dataclass(frozen=True)
class Span:
    """One axis of a window; indices count pixels of the area."""

    start: int  # first pixel labelled
    stop: int  # one past the last pixel labelled
    read_start: int  # first pixel read, `seam` before, or `margin`; below 0 beside the area
    read_stop: int
    pad_before: int  # mirrored pixels put before those read, to begin on the network's grid
    pad_after: int

    @property
    def core(self) -> slice:
        """Pixels labelled, in the area."""
        return slice(self.start, self.stop)

    @property
    def read(self) -> slice:
        """Pixels read, in the area or beside it."""
        return slice(self.read_start, self.read_stop)

    @property
    def crop(self) -> slice:
        """Pixels labelled, in what was read."""
        return slice(self.start - self.read_start, self.stop - self.read_start)

    @property
    def size(self) -> int:
        """Pixels that the network sees."""
        return self.pad_before + self.read_stop - self.read_start + self.pad_after


@dataclass(frozen=True)
class Window:
    """The pixel rectangle fed to the network at once."""

    rows: Span
    columns: Span


def plan_axis(
    length: int,
    *,
    origin: int = 0,
    lattice: Lattice = LATTICE,
    beside: tuple[int, int] = (0, 0),
) -> list[Span]:
    """Cut one axis into spans that label every pixel exactly once.

    Parameters
    ----------
    length
        Pixels along the axis.
    origin
        Where the axis' first pixel lies on the lattice, in pixels.
    lattice
        Sizes of core and margin.
    beside
        Pixels that there are before and after the axis: they are read, not labelled.

    Returns
    -------
    list of Span
        In order. An axis no longer than `lattice.whole` is one span.

    Raises
    ------
    InputError
        If the axis has no pixel.

    Examples
    --------
    >>> [(span.start, span.stop) for span in plan_axis(4000, origin=1500)]
    [(0, 36), (36, 1572), (1572, 3108), (3108, 4000)]
    >>> span = plan_axis(705, origin=3)[0]
    >>> span.pad_before, span.size % 32
    (35, 0)
    """
    if length < 1:
        raise InputError("an area needs at least one pixel, got an empty axis: check the bounds")
    cuts = [0, length]
    if length > lattice.whole:
        first = -origin % lattice.core or lattice.core
        cuts = [0, *range(first, length, lattice.core), length]
    # Where a whole margin is there, nothing is mirrored.
    before, after = (lattice.margin + 1 if 0 < lattice.margin <= n else n for n in beside)
    spans, seam = [], min(lattice.seam, lattice.margin)
    for start, stop in pairwise(cuts):
        read_start = max(-before, start - (seam if start else lattice.margin))
        read_stop = min(length + after, stop + (seam if stop < length else lattice.margin))
        spans.append(
            Span(
                start=start,
                stop=stop,
                read_start=read_start,
                read_stop=read_stop,
                pad_before=(origin + read_start) % lattice.stride
                + (lattice.mirror if read_start == -before else 0),
                pad_after=-(origin + read_stop) % lattice.stride
                + (lattice.mirror if read_stop == length + after else 0),
            )
        )
    return spans


def plan_windows(
    height: int,
    width: int,
    *,
    origin: tuple[int, int] = (0, 0),
    lattice: Lattice = LATTICE,
    margins: Margins = NO_MARGINS,
) -> Iterator[Window]:
    """Cut an area of (`height`, `width`) pixels into windows, row by row.

    Examples
    --------
    >>> len(list(plan_windows(10980, 10980)))
    64
    """
    rows, columns = (
        plan_axis(length, origin=first, lattice=lattice, beside=beside)
        for length, first, beside in zip((height, width), origin, margins.sides, strict=True)
    )
    return (Window(row, column) for row, column in product(rows, columns))


def plan_chip(height: int, width: int, *, lattice: Lattice = LATTICE) -> Window:
    """One window for a picture that lies nowhere, in the middle of what the network sees.

    With nothing beside it but its own mirrored edges, half as many of these are as good:
    `benchmarks/chip_margins.py` compares the labels with those in real surroundings.

    Examples
    --------
    >>> rows = plan_chip(256, 256).rows
    >>> rows.pad_before, rows.pad_after, rows.size
    (16, 16, 288)
    """
    spans = []
    for length in (height, width):
        pad = lattice.mirror + -(length + lattice.mirror) % lattice.stride
        spans.append(Span(0, length, 0, length, pad // 2, pad - pad // 2))
    return Window(*spans)


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

    def widened(self, margins: Margins) -> Grid:
        """Make the grid of the same pixels and the margins beside them."""
        return Grid(
            self.epsg,
            self.resolution,
            self.left - margins.left * self.resolution,
            self.top + margins.above * self.resolution,
            margins.above + self.height + margins.below,
            margins.left + self.width + margins.right,
        )

    def margins(
        self, within: tuple[float, float, float, float] | None, *, most: int = LATTICE.margin
    ) -> Margins:
        """Say how many pixels there are beside the grid, at most so many on each side.

        Parameters
        ----------
        within
            Left, bottom, right, top of all that can be read; None if nobody knows.
        most
            Pixels on each side, 0 or more.

        Raises
        ------
        InputError
            If `most` is no whole number from 0 on.

        Examples
        --------
        >>> grid = Grid(epsg=32632, resolution=10, left=100, top=900, height=5, width=5)
        >>> grid.margins((0, 0, 175, 900))
        Margins(above=0, below=85, left=10, right=2)
        """
        if isinstance(most, bool) or not isinstance(most, int) or most < 0:
            raise InputError(f"a margin is a whole number of pixels, 0 or more, got {most!r}")
        if within is None:
            return Margins(most, most, most, most)
        (left, bottom, right, top), (west, south, east, north) = self.bounds, within
        beside = (north - top, bottom - south, left - west, east - right)
        pixels = (int(metres / self.resolution + 1e-4) for metres in beside)
        return Margins(*(min(most, max(0, count)) for count in pixels))


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
