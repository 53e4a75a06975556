"""What commands share: options that say where, when and how; output, progress."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from kappamask.base.errors import InputError
from kappamask.cli.exit_codes import check_signals, refuse_output

Chosen = TypeVar("Chosen")
Result = TypeVar("Result")
Commands = Any  # argparse does not name the type of its sub-parsers' collection
AGAIN = "no file is left half-written, repeat the command"
QUERY = "--bbox 11.29,46.46,11.40,46.53 --date 2022-06-01/2022-06-30"  # of the examples


def add_command(
    commands: Commands, name: str, help_: str, example: str | None, *, resume: str = AGAIN
) -> argparse.ArgumentParser:
    """Add one command whose help ends with an example, if it has one.

    `resume` is said where it is interrupted: what is kept, and how to go on.
    """
    about: dict[str, Any] = {}
    if example is not None:
        about = {
            "description": help_,
            "epilog": f"example:\n  kappamask {name} {example}",
            "formatter_class": argparse.RawDescriptionHelpFormatter,
        }
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help_, **about)
    parser.set_defaults(resume=resume)
    return parser


# --- options ------------------------------------------------------------------------------------


class Default(str):
    """A value that nobody gave."""

    __slots__ = ()


def add_query(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add the options that say where, when and from which catalogue."""
    area = parser.add_mutually_exclusive_group()
    area.add_argument("--bbox", metavar="W,S,E,N", help="degrees, one comma-separated argument")
    area.add_argument(
        "--area", type=Path, metavar="FILE.geojson", help="polygons in degrees, or FILE.gpkg"
    )
    parser.add_argument(
        "--tile", metavar="32TPS", help="MGRS tile: items of it alone; of a product with several"
    )
    parser.add_argument(
        "--date",
        required=required,
        metavar="START/END",
        help="2022-06-01/2022-06-30, one day, or one month; both ends included",
    )
    parser.add_argument(
        "--catalog",
        default=Default("earth-search"),
        metavar="NAME|URL|DIR/catalog.json|DIR",
        help="a known catalogue, a STAC API, a static catalogue, or a folder of SAFE and EOPF Zarr "
        "products (default: %(default)s)",
    )
    parser.add_argument("--level", default=Default("L2A"), choices=["L1C", "L2A"])
    parser.add_argument(
        "--max-cloud-cover",
        type=float,
        metavar="PERCENT",
        help="of the whole item, as the catalogue says",
    )
    parser.add_argument("--max-items", type=int, metavar="N", help="keep so many, the earliest")


def add_labelling(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how items are read and labelled."""
    parser.add_argument("--model", default="default", help="see `kappamask models`")
    parser.add_argument(
        "--resolution",
        type=float,
        default=10,
        metavar="METRES",
        help="of a pixel (default: %(default)s); at 20 overviews and resolution levels are read",
    )
    parser.add_argument(
        "--device",
        default="auto",
        choices=["auto", "cpu", "cuda"],
        help="where the network computes; auto: on a GPU where there is one",
    )
    parser.add_argument("--engine", default=Default("stackstac"), choices=["stackstac", "odc"])
    parser.add_argument(
        "--dn-offset",
        type=int,
        metavar="DN",
        help="0 or -1000, for items that do not tell their offset",
    )
    parser.add_argument(
        "--yes-large",
        action="store_true",
        help="take an area of more than 100 million pixels a date (10 000 km2 at 10 m)",
    )


def add_pictures(parser: argparse.ArgumentParser, help_: str = "write no PNG") -> None:
    """Add the option that leaves pictures out."""
    parser.add_argument("--no-pictures", dest="pictures", action="store_false", help=help_)


def add_out(
    parser: argparse.ArgumentParser, help_: str | None = None, metavar: str = "DIR"
) -> None:
    """Add the option that says where things go, which has to be given."""
    parser.add_argument("--out", type=Path, required=True, metavar=metavar, help=help_)


def chosen(kind: type[Chosen], options: argparse.Namespace, **more: Any) -> Chosen:
    """Fill a class of options: its fields take the words that have their names, or `more`."""
    known = vars(options) | ({"max_pixels": None} if getattr(options, "yes_large", False) else {})
    known |= more
    names = [field.name for field in fields(cast("Any", kind)) if field.name in known]
    return kind(**{name: known[name] for name in names})


def area_of(options: argparse.Namespace) -> Any:
    """Give the area as `kappamask.search` takes it; None where none was given."""
    if options.area is not None or options.bbox is None:
        return options.area
    try:
        return tuple(float(part) for part in options.bbox.split(","))
    except ValueError:
        raise InputError(
            "--bbox is west,south,east,north in degrees as one argument, "
            f"got {options.bbox!r}: write for example 11.29,46.46,11.40,46.53"
        ) from None


def search_items(options: argparse.Namespace) -> list[Any]:
    """Search with the options of `add_query`; refuse what is too large to label before."""
    from kappamask.scenes.area import check_size
    from kappamask.scenes.search import search

    area = area_of(options)
    if area is None and not options.tile:
        raise InputError("a search needs an area: give --bbox, --area or --tile")
    if area is not None and not getattr(options, "yes_large", True):  # `search` reads no pixels
        check_size(area, resolution=options.resolution)
    return search(
        area_of(options),
        options.date,
        catalog=options.catalog,
        level=options.level,
        tile=options.tile,
        max_cloud_cover=options.max_cloud_cover,
        max_items=options.max_items,
    )


# --- output -------------------------------------------------------------------------------------


def say(text: str, *, file: Any = None) -> None:
    """Print for people; what standard error does not take is lost.

    Raises
    ------
    BrokenPipeError, WriteError
        If standard output does not take it.
    """
    text = text.encode("utf-8", "backslashreplace").decode()  # names of files may be no UTF-8
    if file is not None and file is not sys.stdout:
        with suppress(OSError):
            print(text, file=file)
        return
    try:
        print(text, flush=True)  # noqa: T201  who reads along sees it now
    except OSError as error:
        refuse_output(error)


def say_failed(failed: Mapping[str, str]) -> int:
    """Name the dates that failed, and why; give the exit code."""
    for date, reason in failed.items():
        say(f"kappamask: {date} failed: {reason}", file=sys.stderr)
    if failed:
        say("kappamask: repeat the command to try the failed dates again", file=sys.stderr)
    return 1 if failed else 0


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


class Shown:
    """A bar on standard error that jobs call with (name, done, total), and lines above it."""

    def __init__(self, bar: Any, task: Any) -> None:
        self._bar, self._task = bar, task
        self.said: tuple[int, int] | None = None

    def __call__(self, name: str, done: int, total: int) -> None:
        """Show how far a job came."""
        self.said = done, total
        self.update(description=name, completed=done, total=total)

    def update(self, **change: Any) -> None:
        """Change the bar."""
        check_signals()
        self._bar.update(self._task, **change, visible=True)

    def tell(self, text: str) -> None:
        """Print a line above the bar."""
        check_signals()
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _bar(name: str, *columns: str) -> Iterator[Shown]:
    """Show a bar on standard error, whatever becomes of that; only lines if it is no terminal."""
    from rich import progress
    from rich.console import Console

    shown = [progress.TextColumn("{task.description}"), progress.BarColumn()]
    shown += [getattr(progress, column)() for column in columns]
    console = Console(file=cast("IO[str]", Heedless(sys.stderr)))
    with progress.Progress(*shown, console=console, disable=not console.is_terminal) as bar:
        # Hidden until there is something to show: an error that comes before stands alone.
        yield Shown(bar, bar.add_task(name, total=None, visible=False))


@contextmanager
def show_progress() -> Iterator[Shown]:
    """Show a bar on stderr; yield what is called with (name, done, total), and with lines.

    An interruption is told how far it came.
    """
    with _bar("", "MofNCompleteColumn", "TimeRemainingColumn") as shown:
        try:
            yield shown
        except KeyboardInterrupt as stop:
            if shown.said:
                stop.add_note("after {} of {}".format(*shown.said))
            raise


def run_job(job: Callable[..., Result], *what: Any, **how: Any) -> Result:
    """Call what takes `progress` and `tell`, showing both."""
    with show_progress() as progress:
        return job(*what, progress=progress, tell=progress.tell, **how)


@contextmanager
def show_download(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar of bytes on stderr; yield what is called with (bytes done, bytes in all)."""
    with _bar(name, "DownloadColumn", "TransferSpeedColumn") as shown:
        yield lambda done, total: shown.update(completed=done, total=total or None)
