"""How many cases are tried, how long each may take, and how many there were.

`KAPPAMASK_FUZZ=10000` tries so many of each kind (`make fuzz`); without it, so few that
all kinds together take less than half a minute.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections import Counter
from contextlib import contextmanager

from hypothesis import HealthCheck, settings

CASES = int(os.environ.get("KAPPAMASK_FUZZ", "0"))  # of each kind; 0: as CI wants it
SECONDS = 20.0  # of the processor that one case may take
PATIENCE = 300.0  # seconds on the clock, which a busy machine may take for that
TRIED: Counter[str] = Counter()  # cases by kind, for the summary


class HangError(BaseException):
    """A case that took too long; no `except Exception` of the product may swallow it."""


@contextmanager
def time_limit(seconds=SECONDS):
    """Raise where the code is after so many seconds of the processor, or many on the clock."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number, _):
        spent = f"{seconds:g} s" if number == signal.SIGPROF else f"{PATIENCE:g} s on the clock"
        raise HangError(f"one case took more than {spent}")

    timers = {signal.SIGPROF: signal.ITIMER_PROF, signal.SIGALRM: signal.ITIMER_REAL}
    before = {number: signal.signal(number, stop) for number in timers}
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        for number, timer in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def cases(kind, *, ci, share=1.0):
    """Set how many cases a test tries, count them under a kind, and stop those that hang.

    `ci` is how many by default; `share` which part of the cases of a kind are this test's.
    Goes between `given` and the function.
    """

    def wrap(function):
        @functools.wraps(function)
        def counted(*arguments, **named):
            TRIED[kind] += 1
            with time_limit():
                return function(*arguments, **named)

        return settings(
            max_examples=round(CASES * share) or ci,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        )(counted)

    return wrap
