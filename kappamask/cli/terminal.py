"""What commands share: their parsers' form, output, progress. Row 7."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Commands = Any  # argparse does not name the type of its sub-parsers' collection


def add_command(
    commands: Commands, name: str, run: Callable[..., int], help_: str, example: str
) -> argparse.ArgumentParser:
    """Add one command whose help ends with an example."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_,
        description=help_,
        epilog=f"example:\n  kappamask {name} {example}".rstrip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def say(text: str, *, file: Any = None) -> None:
    """Print for people."""
    print(text, file=file or sys.stdout)


@contextmanager
def show_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar on stderr; yield what is called with (name, done, total)."""
    from rich.console import Console
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
    with Progress(*columns, console=Console(stderr=True)) as bar:
        # Hidden until there is something to show: an error that comes before stands alone.
        task = bar.add_task("", total=None, visible=False)

        def show(date: str, done: int, total: int) -> None:
            bar.update(task, description=date, completed=done, total=total, visible=True)

        yield show


@contextmanager
def show_download(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar of bytes on stderr; yield what is called with (bytes done, bytes in all)."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None)

        yield show
