"""`kappamask composite`. Row 7."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from kappamask.base.errors import InputError
from kappamask.cli.query import EXAMPLE, add_labelling, add_query, area_of, search_items
from kappamask.cli.terminal import Commands, add_command, say, show_progress
from kappamask.composites import BUFFER_M, METHODS


def add_composite(commands: Commands) -> None:
    """Add `kappamask composite`."""
    parser = add_command(
        commands,
        "composite",
        run_composite,
        "Compose images without clouds: reflectance, number of dates, date of each pixel.",
        f"{EXAMPLE} --period month --out june",
        resume="finished dates and images are kept, repeat the command to go on",
    )
    add_query(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="what is finished in it is kept: repeat the command to go on",
    )
    parser.add_argument("--method", default="median", choices=METHODS)
    parser.add_argument(
        "--period",
        metavar="NAME",
        help="day, week, dekad, month, season, year, or a pandas frequency such as 2MS; "
        "without it, one image of all dates",
    )
    for name, metres in BUFFER_M.items():
        parser.add_argument(
            f"--buffer-{name}",
            type=float,
            default=metres,
            metavar="METRES",
            help=f"around each {name} that are not used (default: %(default)s)",
        )
    parser.add_argument(
        "--target",
        metavar="DATE",
        help="best-pixel prefers dates near this one, or near the 'middle' of each period",
    )
    parser.add_argument(
        "--bands", metavar="B04,B03,B02", help="of the image (default: all that there are)"
    )
    add_labelling(parser)
    parser.add_argument("--no-pictures", action="store_true", help="write no PNG")


def run_composite(options: argparse.Namespace) -> int:
    """Search, label, compose, write; name the dates that failed."""
    from kappamask.composites.ranking import Ranking
    from kappamask.jobs.composites import CompositeOptions, compose_items

    if options.target is not None and options.method != "best-pixel":
        raise InputError(
            f"--target is for --method best-pixel, got --method {options.method}: leave one out"
        )
    chosen = CompositeOptions(
        method=options.method,
        period=options.period,
        buffer_m={"cloud": options.buffer_cloud, "shadow": options.buffer_shadow},
        ranking=Ranking(target=options.target) if options.target else None,
        bands=options.bands.split(",") if options.bands else None,
        pictures=not options.no_pictures,
        model=options.model,
        resolution=options.resolution,
        engine=options.engine,
        dn_offset=options.dn_offset,
    )
    items = search_items(options)
    with show_progress() as progress:
        report = compose_items(
            items, area_of(options), options.out, options=chosen, progress=progress
        )
    return tell(report, options.out)


def tell(report: Any, folder: Path) -> int:
    """Say what came of it, give the exit code."""
    for path in report.images:
        known = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["properties"]
        never = known["kappamask:never_clear_percentage"]
        say(
            f"{path.name}: {known['kappamask:mean_observations']:.1f} dates per pixel, "
            f"{never:.1f} % of pixels never clear"
        )
    say(f"{len(report.images)} composites of {len(report.masks)} dates in {folder.resolve()}")
    for date, reason in report.failed.items():
        say(f"kappamask: {date} failed: {reason}", file=sys.stderr)
    if report.failed:
        say("kappamask: repeat the command to try the failed dates again", file=sys.stderr)
    return 1 if report.failed else 0
