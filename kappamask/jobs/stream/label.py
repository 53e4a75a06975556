"""One scene to labels, strip by strip, while its files are decoded ahead."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import numpy as np

from kappamask.base.legend import Label
from kappamask.base.windows import Grid, Window, plan_windows
from kappamask.cubes.rasters import BandOnGrid, Reader
from kappamask.jobs.stream.cells import Cells
from kappamask.networks.runners import available_threads
from kappamask.predict.array import Task, predict_window
from kappamask.scenes.scene import Scene

AHEAD = 2  # windows decoded before they are needed; a core is 40 MB of DN in 13 bands
Progress = Callable[[str, int, int], object]


def label_strips(
    scene: Scene,
    grid: Grid,
    task: Task,
    reader: Reader,
    *,
    progress: Progress | None = None,
) -> Generator[np.ndarray]:
    """Yield the labels of a scene from top to bottom, one strip of windows at a time.

    Equal to ``predict_cube`` of the whole, bit for bit: same windows, same pixels.

    Parameters
    ----------
    scene
        The files; holds all bands of `task`.
    grid
        The pixels to be labelled.
    task
        Model and bands.
    reader
        Reads the files; several threads at once.
    progress
        Called after each window with the scene's id, windows done, windows in all.

    Yields
    ------
    numpy.ndarray
        (rows, grid.width) uint8.
    """
    bands = {name: BandOnGrid.fit(scene.files[name], grid) for name in task.bands}
    lattice = task.model.entry.lattice
    windows = list(plan_windows(grid.height, grid.width, origin=grid.origin, lattice=lattice))
    threads = ThreadPoolExecutor(available_threads(), thread_name_prefix="kappamask-decode")
    try:
        cells = Cells(reader, bands, windows, threads)
        done = 0
        for rows, strip in groupby(windows, key=lambda window: window.rows):
            labels = np.empty((rows.stop - rows.start, grid.width), np.uint8)
            for window in strip:
                for coming in windows[done : done + 1 + AHEAD]:
                    cells.prefetch(coming)
                labels[:, window.columns.core] = label_window(task, bands, cells, window)
                cells.release(window)
                done += 1
                if progress is not None:
                    progress(scene.id, done, len(windows))
            yield labels
    finally:
        threads.shutdown(cancel_futures=True)


def label_window(
    task: Task, bands: Mapping[str, BandOnGrid], reader: Reader, window: Window
) -> np.ndarray:
    """Label the core of one window, (y, x) uint8; without data that costs nothing."""
    if is_empty(task, bands, reader, window):
        rows, columns = (span.stop - span.start for span in (window.rows, window.columns))
        return np.full((rows, columns), int(Label.MISSING), np.uint8)
    layers = [
        bands[name].read(reader, window.rows.read, window.columns.read) for name in task.bands
    ]
    return predict_window(task, layers, window)


def is_empty(task: Task, bands: Mapping[str, BandOnGrid], reader: Reader, window: Window) -> bool:
    """Tell whether a band without which a pixel is missing has no data in the whole core."""
    for name in (task.bands[index] for index in task.required):
        band = bands[name]
        rows, columns = band.rows.native(window.rows.core), band.columns.native(window.columns.core)
        if not reader.read(name, rows, columns).any():
            return True
    return False
