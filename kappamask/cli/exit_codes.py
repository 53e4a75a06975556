"""How a command ends: its exit code, one line of error, signals, output that nobody takes.

`docs/howto/command-line.md` tells users the same; tests/doors/test_limits.py holds both to it.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn, Self

from kappamask.base.errors import (
    InputError,
    KappaMaskError,
    UnknownNameError,
    WriteError,
    find_limit,
)
from kappamask.base.files import clear_staging

FAILED, USAGE = 1, 2
SIGNALLED = 128  # and the signal's number, as shells count
CLOSED_PIPE = SIGNALLED + 13  # SIGPIPE, which not every system has
IMPATIENT = 1.0  # seconds: `timeout` and a terminal may send one signal twice at once
PAUSE = 0.05  # seconds until a signal that came at a bad moment is looked at again
OPTIONS = {  # arguments as messages name them: what the command line has for them, in this order
    r"\bpass (?=\w+=)": "give ",
    r"\bmax_pixels=None": "--yes-large",
    r"\barea=\.\.\.": "--bbox or --area",
    r"\bmax_cloud_cover\b(?!=)": "--max-cloud-cover",
    r"\b(dn|max|buffer)_(offset|cloud_cover|items|cloud|shadow)=": r"--\1-\2 ",
    r"\b(level|model|engine|resolution|tile|catalog|period|method)=": r"--\1 ",
    r"\b(bands)=(?=[\w'])": r"--\1 ",
}
STOPPING = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end."""


class Signals:
    """While it lasts, SIGINT and SIGTERM raise `Stopped`; a second one, later, ends at once.

    Not while something is imported: numpy prints a traceback of its own where its import is
    cut short. Then `Stopped` is raised when that is through.

    Parameters
    ----------
    ours
        Whether the process is the command's: then, once stopped, signals stay so when it is
        over, since Python still waits for what its threads read.

    Attributes
    ----------
    number
        The signal that came, or None.
    over
        Set when the work is done: a signal that comes now changes nothing.
    """

    def __init__(self, *, ours: bool) -> None:
        self.ours = ours
        self.number: int | None = None
        self.over = False
        self._raised = False
        self._came = 0.0
        self._before: dict[int, Any] = {}
        self._unraisable = sys.unraisablehook

    def __enter__(self) -> Self:
        """Take over, but for signals that whoever started this process wants ignored."""
        _ACTIVE.append(self)
        self._unraisable, sys.unraisablehook = sys.unraisablehook, self._lose
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        """Give back."""
        _ACTIVE.remove(self)
        if not (self.ours and self.number):
            sys.unraisablehook = self._unraisable
        if hasattr(signal, "setitimer") and signal.SIGALRM in self._before:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before.pop(signal.SIGALRM))
        if not (self.ours and self.number):
            for number, before in self._before.items():
                signal.signal(number, before)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.over and self.number is None:
            return
        if self.number is None:
            self.number, self._came = number, time.monotonic()
            self._interrupt(frame)
        elif time.monotonic() - self._came > IMPATIENT:
            os._exit(SIGNALLED + number)

    def _again(self, _: int, frame: FrameType | None) -> None:
        if not (self._raised or self.over):
            self._interrupt(frame)

    def _interrupt(self, frame: FrameType | None) -> None:
        if is_importing(frame) and hasattr(signal, "setitimer"):
            before = signal.signal(signal.SIGALRM, self._again)
            self._before.setdefault(signal.SIGALRM, before)
            signal.setitimer(signal.ITIMER_REAL, PAUSE)
            return
        self.stop()

    def _lose(self, lost: sys.UnraisableHookArgs) -> None:
        """Keep Python from printing what a destructor swallows: `check_signals` raises it again."""
        if not isinstance(lost.exc_value, Stopped):
            self._unraisable(lost)

    def stop(self) -> NoReturn:
        """Raise `Stopped`."""
        self._raised = True
        raise Stopped


_ACTIVE: list[Signals] = []


def check_signals() -> None:
    """Raise again what got lost: Python drops what a handler raises inside a destructor.

    Raises
    ------
    Stopped
        If a signal came.
    """
    for signals in _ACTIVE:
        if signals.number is not None:
            signals.stop()


def is_importing(frame: FrameType | None) -> bool:
    """Tell whether a frame is called by an import.

    Examples
    --------
    >>> is_importing(sys._getframe())
    False
    """
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def end(error: BaseException, signals: Signals, resume: str) -> int:
    """Say in one line why a command ended, and give its exit code.

    Parameters
    ----------
    error
        What ended it.
    signals
        Whatever comes after a signal comes of it: an import that was cut short is no bug.
    resume
        What is kept, and how to go on.

    Raises
    ------
    BaseException
        The error itself, if it is none that a user could do anything about: a bug.
    """
    signals.over = True
    if isinstance(error, KeyboardInterrupt) or signals.number is not None:
        clear_staging()
        number = signals.number or signal.SIGINT
        done = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
        tell(f"kappamask: interrupted{done}: {resume}")
        return SIGNALLED + number
    if isinstance(error, BrokenPipeError):
        silence(sys.stdout)
        return CLOSED_PIPE
    told = explain(error)
    if told is None:
        raise error
    tell(f"kappamask: error: {told}")
    return USAGE if isinstance(error, InputError | UnknownNameError) else FAILED


def explain(error: BaseException) -> str | None:
    """Give one line for an error that a user can do something about; None for others.

    Examples
    --------
    >>> explain(OSError(28, "No space left on device", "a.csv"))
    'files must be readable and writable, got No space left on device for a.csv: free some space...
    >>> explain(ZeroDivisionError("division by zero"))
    """
    limit = find_limit(error)
    if limit is not None or isinstance(error, KappaMaskError):
        return in_options(" ".join(str(limit or error).split()))
    if isinstance(error, OSError):
        where = f" for {error.filename}" if error.filename else ""
        return (
            f"files must be readable and writable, got {error.strerror or error}{where}: free some "
            "space, look at the permissions, or choose another place"
        )
    return None


def in_options(text: str) -> str:
    """Say an argument of Python as the option of the command line that it is.

    Examples
    --------
    >>> in_options("its offset is not told: pass dn_offset=0 or dn_offset=-1000")
    'its offset is not told: give --dn-offset 0 or --dn-offset -1000'
    >>> in_options("item S2A_a does not tell its extent: pass area=...")
    'item S2A_a does not tell its extent: give --bbox or --area'
    """
    for argument, option in OPTIONS.items():
        text = re.sub(argument, option, text)
    return text


def flush_output() -> None:
    """Hand over what was said, while a failure can still be told.

    Raises
    ------
    BrokenPipeError
        If whoever read it is gone.
    WriteError
        If it could not be written.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        refuse_output(error)


def refuse_output(error: OSError) -> NoReturn:
    """Name standard output as what could not be written."""
    silence(sys.stdout)
    if isinstance(error, BrokenPipeError):
        raise error
    raise WriteError(
        f"standard output must take what is said, got {error.strerror or error}: free some space "
        "where it goes (files that the command wrote are whole)"
    ) from error


def tell(text: str) -> None:
    """Print to standard error, as far as it takes anything."""
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr)  # noqa: T201
    flush_errors()


def flush_errors() -> None:
    """Hand over what was told; where it cannot be, Python shall not try again at the end."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        silence(sys.stderr)


def silence(stream: Any) -> None:
    """Lead a stream that takes nothing more nowhere: Python flushes it again when it ends."""
    with suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
