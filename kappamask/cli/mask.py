"""`kappamask mask`. Row 7."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kappamask.cli.query import (
    EXAMPLE,
    add_labelling,
    add_query,
    area_of,
    has_area,
    search_items,
)
from kappamask.cli.terminal import Commands, add_command, say, show_progress

KEPT = "finished dates are kept, repeat the command to go on"


def add_mask(commands: Commands) -> None:
    """Add `kappamask mask`."""
    parser = add_command(
        commands,
        "mask",
        run_mask,
        "Label every date of an area and time, or a SAFE product: COG and STAC item each.",
        f"{EXAMPLE} --max-cloud-cover 80 --out masks\n"
        "  kappamask mask S2A_MSIL1C_20170430T103021_N0205_R108_T32UPV_20170430T103024.SAFE "
        "--out masks",
        resume=KEPT,
    )
    parser.add_argument(
        "product",
        nargs="?",
        type=Path,
        metavar="PRODUCT",
        help="a SAFE product, folder or zip, instead of dates and a catalogue; "
        "--bbox or --area then cut out a part",
    )
    add_query(parser, required=False)
    parser.set_defaults(refuse=parser.error)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="finished dates in it are kept: repeat the command to go on",
    )
    add_labelling(parser)
    parser.add_argument("--tile", help="MGRS tile, for a PRODUCT of several, such as 32TPS")
    parser.add_argument(
        "--no-pictures", action="store_true", help="write no PNG (of a PRODUCT there is none)"
    )


def run_mask(options: argparse.Namespace) -> int:
    """Search, label, write; name the dates that failed."""
    check_words(options)
    if options.product is not None:
        return run_product(options)
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


def check_words(options: argparse.Namespace) -> None:
    """Refuse words that do not go together: wrong usage, exit code 2."""
    if options.product is None:
        absent = [] if has_area(options) else ["--bbox or --area"]
        absent += [] if options.date else ["--date"]
        if absent:
            options.refuse(f"without a PRODUCT the following are required: {', '.join(absent)}")
        if options.tile:
            options.refuse("--tile goes with a PRODUCT")
    else:
        searched = {"--date": options.date, "--max-cloud-cover": options.max_cloud_cover}
        searched |= {"--max-items": options.max_items}
        if given := [word for word, value in searched.items() if value is not None]:
            options.refuse(f"a PRODUCT is not searched for: leave out {', '.join(given)}")


def run_product(options: argparse.Namespace) -> int:
    """Label a SAFE product."""
    from kappamask.jobs.masks import MaskOptions, mask_product

    wanted = MaskOptions(
        model=options.model,
        resolution=options.resolution,
        tile=options.tile,
        dn_offset=options.dn_offset,
    )
    area = area_of(options) if has_area(options) else None
    with show_progress() as progress:
        paths = mask_product(
            options.product, options.out, area=area, options=wanted, progress=progress
        )
    for path in paths:
        say(str(path))
    return 0


def mask_and_tell(items: Sequence[Any], area: Any, folder: Path, **settings: Any) -> int:
    """Label items; say what was done, skipped and failed; give the exit code."""
    from kappamask.jobs.masks import MaskOptions, mask_items

    with show_progress() as progress:
        report = mask_items(items, area, folder, options=MaskOptions(**settings), progress=progress)
    counts = f"{len(report.done)} done, {len(report.skipped)} skipped (finished before)"
    say(f"{counts}, {len(report.failed)} failed: masks in {folder.resolve()}")
    for date, reason in report.failed.items():
        say(f"kappamask: {date} failed: {reason}", file=sys.stderr)
    if report.failed:
        say("kappamask: repeat the command to try the failed dates again", file=sys.stderr)
    return 1 if report.failed else 0
