"""Where the ground is seen, and how far away the next cloud is.

One dask task per date and chunk, which reads as much beside its chunk as the distance asks for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.base.errors import InputError, UnknownNameError
from kappamask.base.legend import Label
from kappamask.base.pixels import within
from kappamask.base.windows import Span, Window
from kappamask.composites import BUFFER_M
from kappamask.predict.blocks import map_windows

if TYPE_CHECKING:
    import dask.array as da

CLOUDS = (Label.CLOUD, Label.SEMI_TRANSPARENT)  # what the buffer of clouds is put around
Step = tuple[float, float]  # height and width of a pixel in metres


@dataclass(frozen=True)
class Buffers:
    """Metres around clouds and shadows that are not used."""

    cloud: float = 0.0  # around cloud and semi-transparent cloud
    shadow: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no distance."""
        for name, metres in vars(self).items():
            if not (np.isfinite(metres) and metres >= 0):
                raise InputError(f"a buffer is metres, 0 or more, got {metres!r} for {name!r}")

    @classmethod
    def read(cls, buffer_m: Mapping[str, float] | None) -> Buffers:
        """Read what a caller gives; what is not named has no buffer.

        Examples
        --------
        >>> Buffers.read({"cloud": 100})
        Buffers(cloud=100, shadow=0.0)
        """
        given = dict(buffer_m or {})
        if unknown := sorted(set(given) - set(BUFFER_M)):
            raise UnknownNameError.of("buffer", str(unknown[0]), list(BUFFER_M))
        return cls(**given)


def clear_array(labels: np.ndarray, buffers: Buffers, step: Step) -> np.ndarray:
    """Find the pixels that are clear and far enough from clouds and shadows.

    Parameters
    ----------
    labels
        uint8 (y, x) class codes.
    buffers
        Metres; a pixel whose centre is exactly so far away is not used.
    step
        Height and width of a pixel in metres.

    Returns
    -------
    numpy.ndarray
        bool (y, x). Missing and undefined pixels are never clear, and have no buffer.

    Examples
    --------
    >>> row = np.array([[4, 1, 1, 1, 2, 1, 5, 1]], "uint8")
    >>> clear_array(row, Buffers(cloud=20), (10, 10)).astype(int).tolist()
    [[0, 0, 0, 1, 0, 1, 0, 1]]
    """
    clear: np.ndarray = labels == Label.CLEAR
    clear &= ~within(np.isin(labels, CLOUDS), buffers.cloud, step=step)
    clear &= ~within(labels == Label.CLOUD_SHADOW, buffers.shadow, step=step)
    return clear


def distance_array(labels: np.ndarray, reach: float, step: Step) -> np.ndarray:
    """Measure the metres to the nearest cloud or shadow, at most `reach`: float32 (y, x).

    Examples
    --------
    >>> distance_array(np.array([[4, 1, 1, 1, 5]], "uint8"), 25, (10, 10)).tolist()
    [[0.0, 10.0, 20.0, 25.0, 25.0]]
    """
    from scipy.ndimage import distance_transform_edt

    hidden = np.isin(labels, (*CLOUDS, Label.CLOUD_SHADOW))
    if not hidden.any():
        return np.full(labels.shape, reach, np.float32)
    metres = distance_transform_edt(~hidden, sampling=step)
    capped: np.ndarray = np.minimum(metres, reach).astype(np.float32)
    return capped


def find_clear(labels: da.Array, buffers: Buffers, step: Step) -> da.Array:
    """Apply `clear_array` to lazy labels (time, y, x), whatever their chunks."""
    work = partial(clear_array, buffers=buffers, step=step)
    return _map_labels(work, labels, max(buffers.cloud, buffers.shadow), step, bool)


def find_distance(labels: da.Array, reach: float, step: Step) -> da.Array:
    """Apply `distance_array` to lazy labels (time, y, x), whatever their chunks."""
    work = partial(distance_array, reach=reach, step=step)
    return _map_labels(work, labels, reach, step, np.float32)


def _map_labels(
    work: partial[np.ndarray], labels: da.Array, metres: float, step: Step, dtype: Any
) -> da.Array:
    from dask.base import tokenize

    def on_window(layers: np.ndarray, window: Window) -> np.ndarray:
        return work(layers[0])[window.rows.crop, window.columns.crop]

    rows, columns = (
        cut_axis(sizes, overlap=int(np.ceil(metres / size)))
        for sizes, size in zip(labels.chunks[1:], step, strict=True)
    )
    token = f"clear-{tokenize(labels.name, work.func, work.keywords)}"
    return map_windows(on_window, labels[:, None], (rows, columns), token=token, dtype=dtype)


def cut_axis(sizes: tuple[int, ...], *, overlap: int) -> list[Span]:
    """Make a span of every chunk of an axis, reading `overlap` pixels beside it.

    Examples
    --------
    >>> [(span.read_start, span.read_stop) for span in cut_axis((4, 4, 2), overlap=3)]
    [(0, 7), (1, 10), (5, 10)]
    """
    edges = np.cumsum([0, *sizes]).tolist()
    return [
        Span(start, stop, max(0, start - overlap), min(edges[-1], stop + overlap), 0, 0)
        for start, stop in pairwise(edges)
    ]
