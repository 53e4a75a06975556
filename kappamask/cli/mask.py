"""`kappamask mask`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kappamask.cli.terminal import (
    Default,
    add_labelling,
    add_query,
    area_of,
    labelling_of,
    say,
    say_failed,
    search_items,
    show_progress,
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add area and time, or a product; how it is labelled; where the masks go."""
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
        "--per-field", action="store_true", help="a mask of each polygon of --area, with its name"
    )
    parser.add_argument(
        "--no-pictures", action="store_true", help="write no PNG (of a PRODUCT there is none)"
    )
    parser.add_argument(
        "--snow", action="store_true", help="write NAME_snow.tif too: snow on clear ground, by B11"
    )


def run(options: argparse.Namespace) -> int:
    """Search or open, label, write; name the dates that failed."""
    check_words(options)
    area, asked = area_of(options), labelling_of(options) | {"snow": options.snow}
    if options.product is None:
        if options.per_field:
            options.yes_large = True  # fields may lie far apart: each one is looked at by itself
        return mask_and_tell(
            search_items(options), area, options.out, per_field=options.per_field, **asked
        )
    from kappamask.jobs import MaskOptions, mask_product

    wanted = MaskOptions(tile=options.tile, **asked)
    with show_progress() as progress:
        paths = mask_product(
            options.product,
            options.out,
            area=area,
            options=wanted,
            progress=progress,
            tell=progress.tell,
        )
    for path in paths:
        say(str(path))
    return 0


def check_words(options: argparse.Namespace) -> None:
    """Refuse words that do not go together: wrong usage, exit code 2."""
    if options.product is None:
        absent = [] if options.area or options.bbox else ["--bbox or --area"]
        absent += [] if options.date else ["--date"]
        if absent:
            options.refuse(f"without a PRODUCT the following are required: {', '.join(absent)}")
        if options.tile:
            options.refuse("--tile goes with a PRODUCT")
        if options.per_field and not options.area:
            options.refuse("--per-field goes with --area")
        return
    of_search = ("date", "catalog", "level", "max_cloud_cover", "max_items", "engine")
    given = [
        f"--{name.replace('_', '-')}"
        for name in of_search
        if not isinstance(getattr(options, name), Default | None)
    ]
    if given:
        options.refuse(f"a PRODUCT is not searched for: leave out {', '.join(given)}")


def mask_and_tell(
    items: Sequence[Any], area: Any, folder: Path, *, per_field: bool = False, **settings: Any
) -> int:
    """Label items; say what was done, skipped and failed; give the exit code."""
    from kappamask import jobs
    from kappamask.jobs import MaskOptions

    work = jobs.mask_fields if per_field else jobs.mask_items
    with show_progress() as progress:
        report = work(
            items,
            area,
            folder,
            options=MaskOptions(**settings),
            progress=progress,
            tell=progress.tell,
        )
    counts = f"{len(report.done)} done, {len(report.skipped)} skipped (finished before)"
    say(f"{counts}, {len(report.failed)} failed: masks in {folder.resolve()}")
    return say_failed(report.failed)
