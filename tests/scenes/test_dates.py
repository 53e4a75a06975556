from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kappamask.base.errors import InputError
from kappamask.scenes.dates import parse_dates


@pytest.mark.parametrize(
    ("dates", "expected"),
    [
        ("2024-06-01", "2024-06-01T00:00:00Z/2024-06-02T00:00:00Z"),
        ("2024-06-01/2024-06-30", "2024-06-01T00:00:00Z/2024-07-01T00:00:00Z"),
        ("20240601/20240630", "2024-06-01T00:00:00Z/2024-07-01T00:00:00Z"),
        ("20240602", "2024-06-02T00:00:00Z/2024-06-03T00:00:00Z"),
        ("2022-W22/2022-W23", "2022-05-30T00:00:00Z/2022-06-13T00:00:00Z"),
        ("2022W223", "2022-06-01T00:00:00Z/2022-06-02T00:00:00Z"),
        (
            (datetime(2024, 6, 1), datetime(2024, 6, 30)),  # noqa: DTZ001
            "2024-06-01T00:00:00Z/2024-07-01T00:00:00Z",
        ),
        (
            (np.datetime64("2024-06-01"), np.datetime64("2024-06-30", "ns")),
            "2024-06-01T00:00:00Z/2024-07-01T00:00:00Z",
        ),
        (np.datetime64("2024-06-02"), "2024-06-02T00:00:00Z/2024-06-03T00:00:00Z"),
        ("2024-12", "2024-12-01T00:00:00Z/2025-01-01T00:00:00Z"),
        ("2024-02/2024-02", "2024-02-01T00:00:00Z/2024-03-01T00:00:00Z"),
        ("2024", "2024-01-01T00:00:00Z/2025-01-01T00:00:00Z"),
        ("../2024-06-30", "../2024-07-01T00:00:00Z"),
        ("2024-06-30/..", "2024-06-30T00:00:00Z/.."),
        (("2024-06-01", None), "2024-06-01T00:00:00Z/.."),
        (["2024-06-01", "2024-06-02"], "2024-06-01T00:00:00Z/2024-06-03T00:00:00Z"),
        ((date(2024, 6, 1), date(2024, 6, 2)), "2024-06-01T00:00:00Z/2024-06-03T00:00:00Z"),
        (date(2024, 6, 1), "2024-06-01T00:00:00Z/2024-06-02T00:00:00Z"),
        (
            (datetime(2024, 6, 1, 10), datetime(2024, 6, 1, 12, tzinfo=UTC)),  # noqa: DTZ001
            "2024-06-01T10:00:00Z/2024-06-01T12:00:00.000001Z",
        ),
        ("2024-06-01T10:20:30Z", "2024-06-01T10:20:30Z/2024-06-01T10:20:31Z"),
        ("2024-06-01T10:20:30.024Z", "2024-06-01T10:20:30.024000Z/2024-06-01T10:20:30.025000Z"),
        ("2024-06-01T10:20:30.000000Z", "2024-06-01T10:20:30Z/2024-06-01T10:20:30.000001Z"),
        ("2024-06-01T10:20:30,5+02:00", "2024-06-01T08:20:30.500000Z/2024-06-01T08:20:30.600000Z"),
        (
            "2024-06-01T10:20:30.024Z/2024-06-01T10:20:30.024Z",
            "2024-06-01T10:20:30.024000Z/2024-06-01T10:20:30.025000Z",
        ),
        ("2024-06-01T02:00:00+02:00/..", "2024-06-01T00:00:00Z/.."),
    ],
)
def test_dates_are_spans_of_whole_units_in_utc(dates, expected):
    assert str(parse_dates(dates)) == expected


@pytest.mark.parametrize(
    ("dates", "message"),
    [
        ("2024-06-30/2024-06-01", r"from early to late, got 2024-06-30T.*swap"),
        ("2024-06-31", r"got '2024-06-31'"),
        ("June 2024", r"a date is YYYY-MM-DD"),
        ("2024-13", r"got '2024-13'"),
        ("01/06/2022", r"a date is YYYY-MM-DD, .*begin with the year"),
        ("2022/06/01", r"a date is YYYY-MM-DD, .*begin with the year"),
        ("1.6.2022", r"got '1.6.2022'"),
        ("202206", r"got '202206'"),
        ("2022-153", r"got '2022-153'"),
        ("2022-06-01,2022-06-30", r"got '2022-06-01,2022-06-30'"),
        (pd.NaT, r"got NaT"),
        ((np.datetime64("NaT"), None), r"got 'NaT'"),
        ("9999", r"got '9999'"),
        ("../..", r"at least one"),
        ((None, None), r"at least one"),
        ("2024-06-01/2024-06-02/2024-06-03", r"one date or a start and an end"),
        (20240601, r"one date or a start and an end"),
        (("2024-06-01", 7), r"got 7"),
    ],
)
def test_malformed_or_reversed_dates_are_refused(dates, message):
    with pytest.raises(InputError, match=message):
        parse_dates(dates)


@given(
    st.dates(date(2015, 6, 23), date(2035, 1, 1)),
    st.integers(0, 800),
    st.integers(-400, 1200),
    st.times(),
)
@example(date(2024, 6, 1), 0, 0, clock_time(0))
@example(date(2024, 6, 1), 0, 1, clock_time(0))
@example(date(2024, 6, 1), 0, 0, clock_time(23, 59, 59, 999999))
def test_a_span_of_days_holds_every_instant_of_its_days_and_no_other(first, length, shift, clock):
    last = first + timedelta(days=length)
    day = first + timedelta(days=shift)
    instant = datetime.combine(day, clock, tzinfo=UTC)
    assert (instant in parse_dates(f"{first}/{last}")) == (first <= day <= last)
