"""The calendar: which periods there are, where each begins, which dates lie in it.

Numpy and, for frequencies that have no name here, pandas.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kappamask.base.errors import InputError, UnknownNameError

# Names as openEO and xarray use them: where one of them begins, and how many of the units in which
# that is written it lasts. Seasons are those of xarray's `time.season`: DJF, MAM, JJA, SON.
PERIODS = {
    "hour": (np.datetime64("1970-01-01T00"), 1),
    "day": (np.datetime64("1970-01-01"), 1),
    "week": (np.datetime64("1970-01-05"), 7),  # a Monday (ISO 8601)
    "dekad": (np.datetime64("1970-01"), 1),  # each month is cut into days 1-10, 11-20 and 21-end
    "month": (np.datetime64("1970-01"), 1),
    "season": (np.datetime64("1969-12"), 3),
    "tropical-season": (np.datetime64("1969-11"), 6),  # November to April, May to October
    "year": (np.datetime64("1970"), 1),
    "decade": (np.datetime64("1970"), 10),  # 0 to 9
    "decade-ad": (np.datetime64("1971"), 10),  # 1 to 0
}
# Of composites: one of hours is no image, and who writes decade means dekad.
COMPOSED = ("day", "week", "dekad", "month", "season", "year")
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


def period_edges(first: np.datetime64, last: np.datetime64, period: str) -> np.ndarray:
    """List where the periods begin that hold the times from `first` to `last`.

    Parameters
    ----------
    first, last
        datetime64 of any unit, not in wrong order.
    period
        One of `PERIODS`.

    Returns
    -------
    numpy.ndarray
        datetime64[ns]: the starts in order, and the end of the last period, which no longer
        belongs to it.

    Examples
    --------
    >>> edges = period_edges(np.datetime64("2022-06-28"), np.datetime64("2022-07-12"), "dekad")
    >>> edges.astype("M8[D]").astype(str).tolist()
    ['2022-06-21', '2022-07-01', '2022-07-11', '2022-07-21']
    """
    start, length = PERIODS[period]
    span = np.array([first, last]).astype(start.dtype)
    low, high = (span - start).astype(int) // length
    edges = start + length * np.arange(low, high + 2)
    if period == "dekad":
        edges = (edges.astype("M8[D]")[:, None] + np.array([0, 10, 20])).ravel()
        edges = edges[np.searchsorted(edges, first, "right") - 1 :]
        edges = edges[: np.searchsorted(edges, last, "right") + 1]
    return edges.astype("M8[ns]")


def split_dates(times: np.ndarray, period: str | None) -> list[Period]:
    """Assign each date to its period; periods between the first and the last may be empty.

    Parameters
    ----------
    times
        datetime64 (n,), in order, at least one.
    period
        One of `COMPOSED`; a pandas frequency of starts or days (``"2MS"``, ``"QS"``,
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
    if period in COMPOSED:
        edges = period_edges(times[0], times[-1], period)
    else:
        edges = _frequency_edges(pd.Timestamp(times[0]), pd.Timestamp(times[-1]), period)
    cuts = np.searchsorted(times, edges).tolist()
    return [
        Period(edges[index], edges[index + 1], slice(cuts[index], cuts[index + 1]))
        for index in range(edges.size - 1)
    ]


def _frequency_edges(first: pd.Timestamp, last: pd.Timestamp, frequency: str) -> np.ndarray:
    """List the same as `period_edges` for a frequency of pandas."""
    try:
        with warnings.catch_warnings(action="error", category=FutureWarning):
            offset = pd.tseries.frequencies.to_offset(frequency)
    except (ValueError, TypeError, FutureWarning):  # it warns of names that it guesses
        known = [*COMPOSED, "a pandas frequency"]
        raise UnknownNameError.of("period", str(frequency), known) from None
    weekly = isinstance(offset, pd.offsets.Week) and offset.weekday is not None
    if not (weekly or isinstance(offset, _BEGINS)) or offset.n < 1:
        raise InputError(
            "a period is whole days, weeks, or months, quarters or years by their start, got "
            f"{frequency!r}: take one of {', '.join(COMPOSED)}, or '10D', '2MS', 'QS'"
        )
    edges = [offset.rollback(first.normalize())]
    while edges[-1] <= last:
        edges.append(edges[-1] + offset)
    return np.array([edge.to_datetime64() for edge in edges], "M8[ns]")
