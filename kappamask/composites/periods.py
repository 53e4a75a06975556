"""Dates by calendar period. Row 5: imports `errors`; pandas only."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kappamask.base.errors import InputError, UnknownNameError

# Names as xarray and openEO use them, and pandas' frequency of period starts. Seasons are those of
# xarray's `time.season`: DJF, MAM, JJA, SON; weeks begin on Monday (ISO 8601).
PERIODS: dict[str, str] = {
    "day": "D",
    "week": "W-MON",
    "dekad": "dekad",  # days 1-10, 11-20 and 21-end of each month; pandas has none
    "month": "MS",
    "season": "QS-DEC",
    "year": "YS",
}
_BEGINS = (pd.offsets.MonthBegin, pd.offsets.QuarterBegin, pd.offsets.YearBegin, pd.offsets.Day)


@dataclass(frozen=True)
class Period:
    """A span of time and the dates that lie in it."""

    start: np.datetime64
    end: np.datetime64  # not in it, except that the whole range ends with its last date
    dates: slice  # of the dates in order of time; perhaps none

    @property
    def count(self) -> int:
        """How many dates lie in it."""
        return int(self.dates.stop - self.dates.start)


def split_dates(times: np.ndarray, period: str | None) -> list[Period]:
    """Assign each date to its period; periods between the first and the last may be empty.

    Parameters
    ----------
    times
        datetime64 (n,), in order, at least one.
    period
        One of `PERIODS`; a pandas frequency of starts or days (``"2MS"``, ``"QS"``,
        ``"10D"``, which counts from the first day); or None for all dates together.

    Raises
    ------
    UnknownNameError
        If pandas does not know the frequency either.
    InputError
        If the frequency is one of ends (``"ME"``) or shorter than a day.

    Examples
    --------
    >>> times = np.array(["2022-06-02", "2022-06-30", "2022-08-01"], "datetime64[ns]")
    >>> [(str(one.start)[:10], str(one.end)[:10], one.count) for one in split_dates(times, "month")]
    [('2022-06-01', '2022-07-01', 2), ('2022-07-01', '2022-08-01', 0),
     ('2022-08-01', '2022-09-01', 1)]
    """
    if period is None:
        return [Period(times[0], times[-1], slice(0, times.size))]
    edges = _edges(pd.Timestamp(times[0]), pd.Timestamp(times[-1]), period)
    cuts = np.searchsorted(times, edges).tolist()
    return [
        Period(edges[index], edges[index + 1], slice(cuts[index], cuts[index + 1]))
        for index in range(edges.size - 1)
    ]


def _edges(first: pd.Timestamp, last: pd.Timestamp, period: str) -> np.ndarray:
    day = first.normalize()
    if period == "dekad":
        edges = [day.replace(day=1 + 10 * min((day.day - 1) // 10, 2))]
        while edges[-1] <= last:
            edges.append(_next_dekad(edges[-1]))
    else:
        offset = _offset(period)
        edges = [offset.rollback(day)]
        while edges[-1] <= last:
            edges.append(edges[-1] + offset)
    return np.array([edge.to_datetime64() for edge in edges], "M8[ns]")


def _next_dekad(start: pd.Timestamp) -> pd.Timestamp:
    if start.day < 21:
        return start.replace(day=start.day + 10)
    return start + pd.offsets.MonthBegin()


def _offset(period: str) -> pd.offsets.BaseOffset:
    try:
        with warnings.catch_warnings(action="error", category=FutureWarning):
            offset = pd.tseries.frequencies.to_offset(PERIODS.get(period, period))
    except (ValueError, TypeError, FutureWarning):  # it warns of names that it guesses
        raise UnknownNameError.of("period", str(period), [*PERIODS, "a pandas frequency"]) from None
    weekly = isinstance(offset, pd.offsets.Week) and offset.weekday is not None
    if not (weekly or isinstance(offset, _BEGINS)) or offset.n < 1:
        raise InputError(
            "a period is whole days, weeks, or months, quarters or years by their start, got "
            f"{period!r}: take one of {', '.join(PERIODS)}, or '10D', '2MS', 'QS'"
        )
    return offset
