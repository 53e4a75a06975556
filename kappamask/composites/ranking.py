"""How good each date is for a best-pixel composite. Row 5: imports rows 0-2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kappamask.base.errors import InputError
from kappamask.composites.periods import Period
from kappamask.scenes.dates import parse_dates

if TYPE_CHECKING:
    import dask.array as da

MIDDLE = "middle"


@dataclass(frozen=True)
class Ranking:
    """What a best-pixel composite looks for: a weighted sum of four marks from 0 to 1.

    With ``Ranking(coverage=0)`` and neither target nor probabilities, the clear date
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
    target: Any = None  # a date in any form of kappamask.search, or "middle" of each period
    reach_m: float = 200.0  # beyond, clouds do not matter; 20 pixels of 10 m, as in openEO
    spread_days: float = 30.0  # days from the target where the mark has fallen to exp(-1/2)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        weights = (self.distance, self.probability, self.date, self.coverage)
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


def _start_of(target: Any) -> np.datetime64:
    start = parse_dates(target).start
    if start is None:
        raise InputError(f"a target is one date, got {target!r}, which has no start")
    return np.datetime64(start.replace(tzinfo=None), "ns")


@dataclass(frozen=True)
class Marks:
    """The lazy parts of a ranking, of all dates of a cube; None where a part has no weight."""

    metres: da.Array | None  # float32 (time, y, x), up to `reach_m`
    probability: da.Array | None  # float32 (time, y, x)
    coverage: da.Array | None  # float64 (time,)

    def score(self, ranking: Ranking, dates: slice, near: np.ndarray) -> da.Array:
        """Add the marks of some dates up: float32 (time, y, x) or (time, 1, 1)."""
        import dask.array as da

        total = da.asarray((ranking.date * near).astype(np.float32))[:, None, None]
        if self.coverage is not None:
            share = (ranking.coverage * self.coverage[dates]).astype(np.float32)
            total = total + share[:, None, None]
        if self.metres is not None:
            total = total + self.metres[dates] * np.float32(ranking.distance / ranking.reach_m)
        if self.probability is not None:
            # no data has no probability, and its label is missing anyway
            clear = da.nan_to_num(self.probability[dates])
            total = total + clear * np.float32(ranking.probability)
        return total
