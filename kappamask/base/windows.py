"""The window lattice: which pixels are read and labelled together. Row 2: imports row 0 only.

Windows are square cores on a lattice anchored to the projected pixel grid, each
read with a margin on every side and cropped back. So the cut never depends on
how an array is chunked, and hardly on where an area of interest begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product

from kappamask.base.errors import InputError


@dataclass(frozen=True)
class Lattice:
    """The geometry of all windows, in pixels.

    Margins are as wide as the network's receptive field needs; the core is large
    to pay for them: 1536 with 128 costs (1792 / 1536)^2 = 1.36 times the pixels.
    """

    core: int = 1536  # labelled pixels per side; whole 10, 20 and 60 m pixels
    margin: int = 128  # read and discarded on every side
    whole: int = 2048  # an axis up to this long is not cut: cheaper than two windows
    stride: int = 32  # the network's coarsest step: windows begin and end on its multiples
    mirror: int = 32  # pixels mirrored at least at the edges of an array, where margins end

    def __post_init__(self) -> None:
        """Check that windows can begin and end on the network's grid."""
        sizes = (self.core, self.margin, self.mirror)
        if self.core <= 0 or min(sizes) < 0 or any(size % self.stride for size in sizes):
            raise InputError(
                f"core, margin and mirror must be multiples of the stride {self.stride}, "
                f"got {self.core}, {self.margin} and {self.mirror}: choose the next multiple"
            )


LATTICE = Lattice()


@dataclass(frozen=True)
class Span:
    """One axis of a window; indices count pixels of the array."""

    start: int  # first pixel labelled
    stop: int  # one past the last pixel labelled
    read_start: int  # first pixel read: `margin` before, as far as the array reaches
    read_stop: int
    pad_before: int  # mirrored pixels put before those read, to begin on the network's grid
    pad_after: int

    @property
    def core(self) -> slice:
        """Pixels labelled, in the array."""
        return slice(self.start, self.stop)

    @property
    def read(self) -> slice:
        """Pixels read, in the array."""
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


def plan_axis(length: int, *, origin: int = 0, lattice: Lattice = LATTICE) -> list[Span]:
    """Cut one axis into spans that label every pixel exactly once.

    Parameters
    ----------
    length
        Pixels along the axis.
    origin
        Where the axis' first pixel lies on the lattice, in pixels.
    lattice
        Sizes of core and margin.

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
    spans = []
    for start, stop in pairwise(cuts):
        read_start = max(0, start - lattice.margin)
        read_stop = min(length, stop + lattice.margin)
        spans.append(
            Span(
                start=start,
                stop=stop,
                read_start=read_start,
                read_stop=read_stop,
                pad_before=(origin + read_start) % lattice.stride
                + (lattice.mirror if read_start == 0 else 0),
                pad_after=-(origin + read_stop) % lattice.stride
                + (lattice.mirror if read_stop == length else 0),
            )
        )
    return spans


def plan_windows(
    height: int, width: int, *, origin: tuple[int, int] = (0, 0), lattice: Lattice = LATTICE
) -> Iterator[Window]:
    """Cut an area of (`height`, `width`) pixels into windows, row by row.

    Examples
    --------
    >>> len(list(plan_windows(10980, 10980)))
    64
    """
    rows = plan_axis(height, origin=origin[0], lattice=lattice)
    columns = plan_axis(width, origin=origin[1], lattice=lattice)
    return (Window(row, column) for row, column in product(rows, columns))
