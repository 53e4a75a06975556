"""What commands share: their parsers' form, output, progress. Row 7."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

from kappamask.cli.exit_codes import check_signals, refuse_output

Commands = Any  # argparse does not name the type of its sub-parsers' collection
AGAIN = "no file is left half-written, repeat the command"


def add_command(
    commands: Commands,
    name: str,
    run: Callable[..., int],
    help_: str,
    example: str,
    *,
    resume: str = AGAIN,
) -> argparse.ArgumentParser:
    """Add one command whose help ends with an example.

    `resume` is said where it is interrupted: what is kept, and how to go on.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_,
        description=help_,
        epilog=f"example:\n  kappamask {name} {example}".rstrip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, resume=resume)
    return parser


def say(text: str, *, file: Any = None) -> None:
    """Print for people; what standard error does not take is lost.

    Raises
    ------
    BrokenPipeError, WriteError
        If standard output does not take it.
    """
    if file is not None and file is not sys.stdout:
        with suppress(OSError):
            print(text, file=file)
        return
    try:
        print(text, flush=True)  # noqa: T201  who reads along sees it now
    except OSError as error:
        refuse_output(error)


class Heedless:
    """A stream that loses what it cannot write: a bar is no reason to stop.

    Parameters
    ----------
    stream
        Anything else is asked of it.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        """Ask the stream."""
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write as far as it goes."""
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush as far as it goes."""
        with suppress(OSError):
            self._stream.flush()


def make_console() -> Any:
    """Make what bars are drawn on: standard error, whatever becomes of it."""
    from rich.console import Console

    return Console(file=cast("IO[str]", Heedless(sys.stderr)))


@contextmanager
def show_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar on stderr; yield what is called with (name, done, total).

    An interruption is told how far it came.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    said: tuple[int, int] | None = None
    with Progress(*columns, console=make_console()) as bar:
        # Hidden until there is something to show: an error that comes before stands alone.
        task = bar.add_task("", total=None, visible=False)

        def show(date: str, done: int, total: int) -> None:
            nonlocal said
            said = done, total
            check_signals()
            bar.update(task, description=date, completed=done, total=total, visible=True)

        try:
            yield show
        except KeyboardInterrupt as stop:
            if said:
                stop.add_note("after {} of {}".format(*said))
            raise


@contextmanager
def show_download(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar of bytes on stderr; yield what is called with (bytes done, bytes in all)."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=make_console()) as bar:
        task = bar.add_task(name, total=None, visible=False)  # as above

        def show(done: int, total: int) -> None:
            check_signals()
            bar.update(task, completed=done, total=total or None, visible=True)

        yield show
