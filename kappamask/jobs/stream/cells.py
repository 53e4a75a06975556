"""Decoded pieces of a scene's files: each decoded once, ahead of its use, then forgotten.

JP2 tiles are the cost of a whole product, and windows with margins cut most of them
several times. So files are decoded in cells, one or a few of their own blocks, which
are kept from the first window that needs them to the last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from itertools import product
from typing import Any

import numpy as np

from kappamask.base.windows import Window
from kappamask.cubes.rasters import BandOnGrid, Reader

CELL_M = 10240  # metres: a JP2 tile of a 10 m band; those of the others are nearly as wide
Cell = tuple[str, int, int]  # band, row and column of the cell in the band's file


class Cells:
    """A reader of windows that are planned beforehand.

    Parameters
    ----------
    reader
        Where DN come from; used by several threads at once.
    bands
        Bands and how they lie on the grid.
    windows
        All windows that will be read, in order. `release` each when it is done.
    threads
        Decode.
    """

    def __init__(
        self,
        reader: Reader,
        bands: Mapping[str, BandOnGrid],
        windows: Sequence[Window],
        threads: Executor,
    ) -> None:
        self.reader, self.bands, self.threads = reader, bands, threads
        self.shapes = {
            name: cell_shape(reader.block_shape(name), band) for name, band in bands.items()
        }
        rows = [window.rows.read for window in windows]
        columns = [window.columns.read for window in windows]
        self.reach = {
            name: (_hull(band.rows.native, rows), _hull(band.columns.native, columns))
            for name, band in bands.items()
        }
        self.uses = Counter(cell for window in windows for cell in self.needs(window))
        self.decoded: dict[Cell, Future[np.ndarray]] = {}

    def needs(self, window: Window) -> Iterator[Cell]:
        """Yield the cells of a window, neighbours together: bands are decoded side by side."""
        by_band = [
            [
                (name, row, column)
                for row, column in product(
                    _touched(band.rows.native(window.rows.read), self.shapes[name][0]),
                    _touched(band.columns.native(window.columns.read), self.shapes[name][1]),
                )
            ]
            for name, band in self.bands.items()
        ]
        longest = max(map(len, by_band))
        for place in range(longest):
            yield from (cells[place] for cells in by_band if place < len(cells))

    def prefetch(self, window: Window) -> None:
        """Begin to decode what a window needs."""
        for cell in self.needs(window):
            if cell not in self.decoded:
                self.decoded[cell] = self.threads.submit(self._decode, cell)

    def release(self, window: Window) -> None:
        """Forget the cells that no later window needs."""
        for cell in self.needs(window):
            self.uses[cell] -= 1
            if not self.uses[cell]:
                del self.decoded[cell]

    def read(self, band: str, rows: slice, columns: slice) -> np.ndarray:
        """Read DN (y, x) uint16 of a band's own pixels; waits for what is being decoded."""
        height, width = self.shapes[band]
        dn = np.empty((rows.stop - rows.start, columns.stop - columns.start), np.uint16)
        for row, column in product(_touched(rows, height), _touched(columns, width)):
            spans = self._spans((band, row, column))
            to, source = zip(
                *(_shared(want, have) for want, have in zip((rows, columns), spans, strict=True)),
                strict=True,
            )
            dn[to] = self.decoded[band, row, column].result()[source]
        return dn

    def block_shape(self, band: str) -> tuple[int, int]:
        """Tell rows and columns of a cell."""
        return self.shapes[band]

    def _decode(self, cell: Cell) -> np.ndarray:
        return self.reader.read(cell[0], *self._spans(cell))

    def _spans(self, cell: Cell) -> tuple[slice, slice]:
        """Rows and columns of a cell, as far as any window needs them."""
        band, *place = cell
        rows, columns = (
            slice(max(number * size, reach.start), min((number + 1) * size, reach.stop))
            for number, size, reach in zip(place, self.shapes[band], self.reach[band], strict=True)
        )
        return rows, columns


def cell_shape(block: tuple[int, int], band: BandOnGrid) -> tuple[int, int]:
    """Choose rows and columns of a cell: whole blocks, about `CELL_M` wide.

    Examples
    --------
    >>> from kappamask.scenes.scene import BandFile
    >>> from kappamask.cubes.rasters import BandOnGrid
    >>> file = BandFile(band="B02", href="B02.jp2", gsd=10, dn_offset=0, scale=1e-4)
    >>> cell_shape((1024, 1024), BandOnGrid(file, None, None))
    (1024, 1024)
    >>> cell_shape((1, 10980), BandOnGrid(file, None, None))  # strips
    (1024, 10980)
    """
    rows, columns = (size * max(1, round(CELL_M / band.file.gsd / size)) for size in block)
    return rows, columns


def _touched(span: slice, size: int) -> range:
    """Numbers of the cells that a span meets; none if it is empty."""
    if span.start == span.stop:
        return range(0)
    return range(span.start // size, -(-span.stop // size))


def _shared(want: slice, have: slice) -> tuple[slice, slice]:
    """Where two spans meet, counted from the start of each."""
    low, high = max(want.start, have.start), min(want.stop, have.stop)
    return slice(low - want.start, high - want.start), slice(low - have.start, high - have.start)


def _hull(native: Any, spans: Sequence[slice]) -> slice:
    needed = [native(span) for span in spans]
    return slice(min(span.start for span in needed), max(span.stop for span in needed))
