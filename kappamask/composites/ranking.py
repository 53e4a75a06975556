"""Where the ground is seen, how far away the next cloud is, and how good that makes each date.

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
from kappamask.composites.periods import Period
from kappamask.scenes.dates import parse_dates

if TYPE_CHECKING:
    import dask.array as da

MIDDLE = "middle"
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


# --- how good a date is -------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranking:
    """What a best-pixel composite looks for: a weighted sum of five marks from 0 to 1.

    With ``Ranking(coverage=0, likeness=0)`` and neither target nor probabilities, the clear date
    farthest from clouds and shadows wins, the earliest of several: what
    `kappamask.openeo.graphs` asks of a back end.

    Examples
    --------
    >>> times = np.array(["2022-06-15", "2022-07-15"], "M8[ns]")
    >>> whole = Period(times[0], times[1], slice(0, 2))
    >>> Ranking(target="2022-06-15").near(times, whole).round(3)
    array([1.   , 0.607])
    """

    distance: float = 1.0  # weight of metres to the nearest cloud or shadow, from 0 to `reach_m`
    probability: float = 1.0  # weight of the probability of clear, where probabilities are given
    date: float = 1.0  # weight of nearness to `target`, where there is one
    coverage: float = 0.5  # weight of the clear share of the whole date: fewer dates, fewer seams
    likeness: float = 0.5  # weight of nearness to the median of all that is usable
    target: Any = None  # a date in any form of kappamask.search, or "middle" of each period
    reach_m: float = 200.0  # beyond, clouds do not matter; 20 pixels of 10 m, as in openEO
    spread_days: float = 30.0  # days from the target where the mark has fallen to exp(-1/2)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        weights = (self.distance, self.probability, self.date, self.coverage, self.likeness)
        if not all(np.isfinite(weight) and weight >= 0 for weight in weights):
            raise InputError(f"weights of a ranking are numbers, 0 or more, got {weights}")
        scales = (self.reach_m, self.spread_days)
        if not all(np.isfinite(scale) and scale > 0 for scale in scales):
            raise InputError(f"reach_m and spread_days are numbers above 0, got {scales}")
        if self.target not in (None, MIDDLE):
            _start_of(self.target)

    def near(self, times: np.ndarray, period: Period) -> np.ndarray:
        """Mark dates by their nearness to the target: (time,), 1 on it."""
        if self.target is None:
            return np.zeros(times.size)
        middle = period.start + (period.end - period.start) / 2
        target = middle if self.target == MIDDLE else _start_of(self.target)
        days = (times - target) / np.timedelta64(1, "D")
        marks: np.ndarray = np.exp(-0.5 * (days / self.spread_days) ** 2)
        return marks

    def mark_dates(
        self,
        codes: da.Array,
        near: np.ndarray,
        step: Step,
        *,
        coverage: np.ndarray | None = None,
        probability: da.Array | None = None,
    ) -> da.Array:
        """Add all marks up, lazily: float32 (time, y, x).

        Parameters
        ----------
        codes
            uint8 class codes (time, y, x).
        near
            What `near` gave for each date (time,).
        step
            Height and width of a pixel in metres.
        coverage
            Clear share of each date (time,); None counts it.
        probability
            Of clear, float32 (time, y, x), if it is known.
        """
        import dask.array as da

        total = da.asarray((self.date * near).astype(np.float32))[:, None, None]
        if self.coverage:
            if coverage is None:
                pixels = float(codes.shape[1] * codes.shape[2])
                coverage = (codes == int(Label.CLEAR)).sum(axis=(1, 2)) / pixels
            total = total + (self.coverage * coverage).astype(np.float32)[:, None, None]
        if self.distance:
            metres = find_distance(codes, self.reach_m, step)
            total = total + metres * np.float32(self.distance / self.reach_m)
        if self.probability and probability is not None:
            # no data has no probability, and its label is missing anyway
            total = total + da.nan_to_num(probability) * np.float32(self.probability)
        return da.broadcast_to(total, codes.shape)


def _start_of(target: Any) -> np.datetime64:
    start = parse_dates(target).start
    if start is None:
        raise InputError(f"a target is one date, got {target!r}, which has no start")
    return np.datetime64(start.replace(tzinfo=None), "ns")
