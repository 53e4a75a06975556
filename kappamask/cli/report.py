"""`kappamask report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from kappamask.cli.terminal import add_pictures, say


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the folder and the page."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="what `kappamask mask` wrote")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.html", help="(default: report.html in DIR)"
    )
    add_pictures(parser, "tables only: a small page")


def run(options: argparse.Namespace) -> int:
    """Write the page, and say where it is."""
    from kappamask.plot.report import write_report

    page = write_report(options.folder, options.out, pictures=options.pictures)
    say(f"Open the page: {page.resolve()}")
    return 0
