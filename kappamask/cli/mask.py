"""`kappamask mask`. Row 7."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kappamask.cli.query import EXAMPLE, add_query, area_of, search_items
from kappamask.cli.terminal import Commands, add_command, say, show_progress


def add_mask(commands: Commands) -> None:
    """Add `kappamask mask`."""
    parser = add_command(
        commands,
        "mask",
        run_mask,
        "Label every date of an area and time: COG, STAC item and picture each.",
        f"{EXAMPLE} --max-cloud-cover 80 --out masks",
    )
    add_query(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="finished dates in it are kept: repeat the command to go on",
    )
    parser.add_argument("--model", default="default", help="see `kappamask models`")
    parser.add_argument(
        "--resolution",
        type=float,
        default=10,
        metavar="METRES",
        help="of the mask (default: %(default)s)",
    )
    parser.add_argument("--engine", default="stackstac", choices=["stackstac", "odc"])
    parser.add_argument(
        "--dn-offset",
        type=int,
        metavar="DN",
        help="0 or -1000, for items that do not tell their offset",
    )
    parser.add_argument("--no-pictures", action="store_true", help="write no PNG")


def run_mask(options: argparse.Namespace) -> int:
    """Search, label, write; name the dates that failed."""
    items = search_items(options)
    return mask_and_tell(
        items,
        area_of(options),
        options.out,
        model=options.model,
        resolution=options.resolution,
        engine=options.engine,
        dn_offset=options.dn_offset,
        pictures=not options.no_pictures,
    )


def mask_and_tell(items: Sequence[Any], area: Any, folder: Path, **settings: Any) -> int:
    """Label items, say what came of it, give the exit code."""
    from kappamask.pipeline import MaskOptions, mask_items

    with show_progress() as progress:
        report = mask_items(items, area, folder, options=MaskOptions(**settings), progress=progress)
    say(f"{len(report.masks)} dates labelled in {folder.resolve()}")
    for date, reason in report.failed.items():
        say(f"kappamask: {date} failed: {reason}", file=sys.stderr)
    if report.failed:
        say("kappamask: repeat the command to try the failed dates again", file=sys.stderr)
    return 1 if report.failed else 0
