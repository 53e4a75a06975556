"""One scene to labels, strip by strip, while its files are decoded ahead.

JP2 tiles are the cost of a whole product, and windows with margins cut most of them several
times. So files are decoded in cells, one or a few of their own blocks, which are kept from the
first window that needs them to the last. Memory holds a few windows, however large the scene is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import chain, groupby, product, zip_longest
from typing import Any

import numpy as np

from kappamask.base.errors import InputError
from kappamask.base.windows import NO_MARGINS, Grid, Margins, Window, plan_windows
from kappamask.cubes.levels import at_grid, shared, touched
from kappamask.cubes.native import BandOnGrid, check_band
from kappamask.cubes.rasters import FileReader, Reader
from kappamask.networks.runners import available_threads
from kappamask.outputs.cog import Strips
from kappamask.outputs.records import Progress
from kappamask.predict.array import Task, predict_window
from kappamask.scenes.scene import Scene

AHEAD = 2  # windows decoded before they are needed; a core is 40 MB of DN in 13 bands
CELL_M = 10240  # metres: a JP2 tile of a 10 m band; those of the others are nearly as wide
Cell = tuple[str, int, int]  # band, row and column of the cell in the band's file


def stream_labels(
    scene: Scene,
    grid: Grid,
    task: Task,
    *,
    margins: Margins = NO_MARGINS,
    reader: Reader | None = None,
    progress: Progress | None = None,
) -> Strips:
    """Label a scene from top to bottom, one strip of windows at a time; nothing is read yet.

    The task says what a strip holds: labels, or planes of labels and of snow. Equal to
    ``predict_cube`` of the whole, bit for bit: same windows, same pixels.

    Parameters
    ----------
    scene
        Its files; holds all bands of `task`.
    grid
        The pixels to be labelled, in the scene's CRS.
    task
        What `make_task` gave.
    margins
        Pixels beside the grid that the network sees too.
    reader
        Reads the files, several threads at once; None: GDAL.
    progress
        Called after each window with the scene's id, windows done, windows in all.

    Raises
    ------
    InputError
        If the pixels of the scene and the grid do not meet edge on edge.
    """
    if scene.epsg != grid.epsg:
        raise InputError(
            f"a scene is labelled in its own CRS, got EPSG:{scene.epsg} and a grid in "
            f"EPSG:{grid.epsg}: use load_cube, which warps"
        )
    scene = at_grid(scene, grid)
    bands = {name: BandOnGrid.fit(scene.files[name], grid) for name in task.bands}
    lattice = task.model.entry.lattice
    windows = list(
        plan_windows(grid.height, grid.width, origin=grid.origin, lattice=lattice, margins=margins)
    )

    def strips() -> Generator[np.ndarray]:
        # What a window takes at the least, asked for at once: where memory is short, this is an
        # error that can be told; in the C++ of decoders and networks it ends the process.
        largest = max(
            (w.rows.read.stop - w.rows.read.start) * (w.columns.read.stop - w.columns.read.start)
            for w in windows
        )
        np.empty((2, len(bands), largest), np.float32)
        threads = ThreadPoolExecutor(available_threads(), thread_name_prefix="kappamask-decode")
        done = 0
        with FileReader(scene.files) as files:
            try:
                cells = Cells(reader or files, bands, windows, threads)
                for rows, strip in groupby(windows, key=lambda window: window.rows):
                    labels = task.nothing(rows.stop - rows.start, grid.width)
                    for window in strip:
                        for coming in windows[done : done + 1 + AHEAD]:
                            cells.prefetch(coming)
                        core = label_window(
                            task,
                            bands,
                            cells,
                            window,
                            where=scene.id,
                            grid=grid,
                        )
                        labels[..., window.columns.core] = core
                        cells.release(window)
                        done += 1
                        if progress is not None:
                            progress(scene.id, done, len(windows))
                    yield labels
            finally:
                threads.shutdown(cancel_futures=True)  # before the files are closed

    return Strips(strips(), np.dtype(np.uint8))


def label_window(
    task: Task,
    bands: Mapping[str, BandOnGrid],
    reader: Reader,
    window: Window,
    *,
    where: str,
    grid: Grid,
) -> np.ndarray:
    """Label the core of one window, (*leading, y, x); without data that costs nothing.

    Raises
    ------
    ReadError
        If one band has no data where all others have it; `where` names the scene.
    """
    empty = find_empty(task, bands, reader, window)
    missing = any(task.bands[index] in empty for index in task.required)
    nothing = task.nothing(*(span.stop - span.start for span in (window.rows, window.columns)))
    if missing and len(empty) == len(task.bands):
        return nothing
    layers = {
        name: bands[name].read(reader, window.rows.read, window.columns.read) for name in task.bands
    }
    for name in task.bands:
        if bands[name].file.own:
            continue  # what its user has cut out of a band is cut out
        check_band(
            name,
            task.bands,
            lambda band: np.isfinite(layers[band]),
            where=where,
            resolution=grid.resolution,
            whole=(grid.height, grid.width),
        )
    return nothing if missing else predict_window(task, list(layers.values()), window)


def find_empty(
    task: Task, bands: Mapping[str, BandOnGrid], reader: Reader, window: Window
) -> set[str]:
    """Find the bands that have no data in the whole core."""
    empty = set()
    for name in task.bands:
        band = bands[name]
        rows, columns = band.rows.native(window.rows.core), band.columns.native(window.columns.core)
        if not band.file.has_data(reader.read(name, rows, columns)):
            empty.add(name)
    return empty


class Cells:
    """A reader of windows that are planned beforehand: `release` each when it is done."""

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
            product(
                [name],
                touched(band.rows.native(window.rows.read), self.shapes[name][0]),
                touched(band.columns.native(window.columns.read), self.shapes[name][1]),
            )
            for name, band in self.bands.items()
        ]
        yield from filter(None, chain.from_iterable(zip_longest(*by_band)))

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
        shape = rows.stop - rows.start, columns.stop - columns.start
        dn = np.empty(shape, self.bands[band].file.dtype)
        for row, column in product(touched(rows, height), touched(columns, width)):
            spans = self._spans((band, row, column))
            to, source = zip(
                *(shared(want, have) for want, have in zip((rows, columns), spans, strict=True)),
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
    >>> from kappamask.cubes.native import BandOnGrid
    >>> file = BandFile(band="B02", href="B02.jp2", gsd=10, dn_offset=0, scale=1e-4)
    >>> cell_shape((1024, 1024), BandOnGrid(file, None, None))
    (1024, 1024)
    >>> cell_shape((1, 10980), BandOnGrid(file, None, None))  # strips
    (1024, 10980)
    """
    rows, columns = (size * max(1, round(CELL_M / band.file.gsd / size)) for size in block)
    return rows, columns


def _hull(native: Any, spans: Sequence[slice]) -> slice:
    needed = [native(span) for span in spans]
    return slice(min(span.start for span in needed), max(span.stop for span in needed))
