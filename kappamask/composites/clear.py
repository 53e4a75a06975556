"""Where the ground is seen, and how far away the next cloud is.

Chunks are worked on one by one, each with as much beside it as the distance asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from kappamask.base.errors import InputError, UnknownNameError
from kappamask.base.legend import Label
from kappamask.base.pixels import count_codes, within
from kappamask.composites import BUFFER_M

if TYPE_CHECKING:
    import dask.array as da

CLOUDS = (Label.CLOUD, Label.SEMI_TRANSPARENT)  # what the buffer of clouds is put around
BufferLike: TypeAlias = Mapping[str, float] | float | None  # metres, by name or around both
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
    def read(cls, buffer_m: BufferLike) -> Buffers:
        """Read what a caller gives; what is not named has no buffer, a number is for both."""
        if isinstance(buffer_m, int | float):
            return cls(buffer_m, buffer_m)
        if not isinstance(buffer_m, Mapping | None):
            raise InputError(
                f"a buffer is metres, or metres by name ({{'cloud': 60}}), got {buffer_m!r}"
            )
        given = dict(buffer_m or {})
        if unknown := sorted(set(given) - set(BUFFER_M)):
            raise UnknownNameError.of("buffer", str(unknown[0]), list(BUFFER_M))
        return cls(**given)


def find_clear(labels: da.Array, buffers: Buffers, step: Step) -> da.Array:
    """Find the pixels that are clear and far enough from clouds and shadows: bool (time, y, x).

    A pixel whose centre is exactly as far away as a buffer reaches is not used. Missing and
    undefined pixels are never clear, and have no buffer.

    Examples
    --------
    >>> import dask.array as da
    >>> row = da.asarray(np.array([[[4, 1, 1, 1, 2, 1, 5, 1]]], "uint8"))
    >>> find_clear(row, Buffers(cloud=20), (10, 10)).compute().astype(int).tolist()
    [[[0, 0, 0, 1, 0, 1, 0, 1]]]
    """

    def find(codes: np.ndarray) -> np.ndarray:
        count_codes(codes, where="in the labels")  # refuses codes of another mask
        clear: np.ndarray = codes == Label.CLEAR
        clear &= ~within(np.isin(codes, CLOUDS), buffers.cloud, step=step)
        clear &= ~within(codes == Label.CLOUD_SHADOW, buffers.shadow, step=step)
        return clear

    return _map_dates(find, labels, max(buffers.cloud, buffers.shadow), step, bool)


def find_distance(labels: da.Array, reach: float, step: Step) -> da.Array:
    """Measure the metres to the nearest cloud or shadow, at most `reach`: float32 (time, y, x)."""

    def measure(codes: np.ndarray) -> np.ndarray:
        from scipy.ndimage import distance_transform_edt

        hidden = np.isin(codes, (*CLOUDS, Label.CLOUD_SHADOW))
        if not hidden.any():
            return np.full(codes.shape, reach, np.float32)
        metres = distance_transform_edt(~hidden, sampling=step)
        return np.minimum(metres, reach).astype(np.float32)  # type: ignore[no-any-return]

    return _map_dates(measure, labels, reach, step, np.float32)


def _map_dates(
    work: Callable[[np.ndarray], np.ndarray],
    labels: da.Array,
    metres: float,
    step: Step,
    dtype: Any,
) -> da.Array:
    """Work on each date of each chunk, and so many metres beside it."""
    from dask.array.overlap import map_overlap

    sides = zip((1, 2), step, labels.shape[1:], strict=True)
    return map_overlap(
        lambda dates: np.stack([work(codes) for codes in dates]),
        labels,
        depth={axis: min(int(np.ceil(metres / size)), length) for axis, size, length in sides},
        boundary="none",
        dtype=dtype,
        meta=np.empty((0, 0, 0), dtype),
    )
