"""A span of time in any usual form, as one interval in UTC. Imports `base` and numpy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from typing import Any, TypeAlias

import numpy as np

from kappamask.base.errors import InputError

Moment: TypeAlias = str | date | np.datetime64 | None
DatesLike: TypeAlias = str | date | np.datetime64 | Sequence[Moment]
FORMS = (
    "a date is YYYY-MM-DD, YYYYMMDD, YYYY-MM, YYYY, a week YYYY-Www or a time YYYY-MM-DDTHH:MM:SSZ"
)


@dataclass(frozen=True)
class Interval:
    """A span of time, half open: ``start <= time < end``; None is unbounded."""

    start: datetime | None
    end: datetime | None

    def __post_init__(self) -> None:
        """Check that the span is not empty and not everything."""
        if self.start is None and self.end is None:
            raise InputError("dates need a start or an end, got '../..': give at least one")
        if self.start and self.end and self.start >= self.end:
            raise InputError(f"dates run from early to late, got {self}: swap start and end")

    def __contains__(self, time: datetime) -> bool:
        """Tell whether a time lies in the span."""
        return (not self.start or self.start <= time) and (not self.end or time < self.end)

    def __str__(self) -> str:
        """Write the span as STAC's ``datetime`` wants it."""
        ends = (t.isoformat().replace("+00:00", "Z") if t else ".." for t in (self.start, self.end))
        return "/".join(ends)


def parse_dates(dates: DatesLike) -> Interval:
    """Read a span of time, from the start of its first date to the end of its last, in UTC.

    Parameters
    ----------
    dates
        ``"START/END"``, where each is a year, month, ISO week, day or time, in the extended
        form (2024-06-01) or the basic one (20240601), and ``..`` leaves the span open; a
        single one of these; a time lasts for its last digit, a second or a part of one; a
        `datetime.date` or `datetime.datetime`, which is the whole day if it is midnight; or a
        pair ``(start, end)`` of any of these, None for open.

    Raises
    ------
    InputError
        If a date is malformed, the end lies before the start, or both are open.

    Examples
    --------
    >>> str(parse_dates("2024-06"))
    '2024-06-01T00:00:00Z/2024-07-01T00:00:00Z'
    >>> str(parse_dates("../2024-06-30"))
    '../2024-07-01T00:00:00Z'
    """
    ends: Any = dates
    if isinstance(dates, str):
        ends = dates.split("/")
    elif isinstance(dates, date) or hasattr(dates, "dtype"):  # numpy's own dates
        ends = [dates]
    if isinstance(dates, str) and len(ends) == 3 and all(len(part) <= 4 for part in ends):
        raise InputError(f"{FORMS}, got {dates!r}: begin with the year, and write '-' in a date")
    if not isinstance(ends, tuple | list) or len(ends) not in (1, 2):
        raise InputError(
            f"dates are one date or a start and an end ('2024-06-01/2024-06-30'), got {dates!r}"
        )
    return Interval(_span(ends[0])[0], _span(ends[-1])[1])


def _span(moment: Any) -> tuple[datetime | None, datetime | None]:
    if moment is None or moment in ("..", ""):
        return None, None
    try:
        if hasattr(moment, "astype"):  # numpy's: a datetime, or None for NaT
            moment = moment.astype("M8[us]").item() or "NaT"
        if isinstance(moment, datetime) and moment == moment:  # noqa: PLR0124  but pandas' NaT
            # A midnight that no one wrote out is a day.
            day = moment.time() == clock()
            length = timedelta(days=1) if day else timedelta(microseconds=1)
            return _in_utc(moment), _in_utc(moment) + length
        text = str(moment).strip()  # of a datetime.date: YYYY-MM-DD
        if re.fullmatch(r"\d{4}(-\d{2}){0,2}|\d{8}", text):
            return _calendar_span(text.replace("-", ""))
        if re.fullmatch(r"\d{4}-?W\d{2}(-?[1-7])?", text):
            first = datetime.fromisoformat(text).replace(tzinfo=UTC)
            whole = len(text.replace("-", "")) == len("2024W22")
            return first, first + timedelta(days=7 if whole else 1)
        if not re.match(r"\d{4}-?\d{2}-?\d{2}[T ]", text):
            text = f"{text} is none of these"  # what Python reads beside them loses days
        start = _in_utc(datetime.fromisoformat(text))
        fraction = re.search(r"[.,](\d{1,6})", text)
        digits = len(fraction[1]) if fraction else 0
        return start, start + timedelta(microseconds=10 ** (6 - digits))
    except (ValueError, OverflowError) as error:
        raise InputError(f"{FORMS}, got {moment!r}: {error}") from None


def _calendar_span(digits: str) -> tuple[datetime, datetime]:
    year, month, day = (int(part or 0) for part in (digits[:4], digits[4:6], digits[6:]))
    start = datetime(year, month or 1, day or 1, tzinfo=UTC)
    if day:
        return start, start + timedelta(days=1)
    if month:
        return start, (start + timedelta(days=31)).replace(day=1)
    return start, start.replace(year=year + 1)


def _in_utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
