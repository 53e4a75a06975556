"""`kappamask mask`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kappamask.cli.terminal import (
    Default,
    add_labelling,
    add_out,
    add_pictures,
    add_query,
    area_of,
    chosen,
    run_job,
    say,
    say_failed,
    search_items,
)

OF_SEARCH = ("date", "catalog", "max_cloud_cover", "max_items", "engine")
OF_RASTERS = ("scale", "offset", "nodata")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add area and time, or a product; how it is labelled; where the masks go."""
    parser.add_argument(
        "products",
        nargs="*",
        metavar="PRODUCT",
        help="SAFE products (folder, zip) and EOPF Zarr products, here or at an https or s3 "
        "address, rasters of your own (GeoTIFF, VRT), folders of these, instead of dates and a "
        "catalogue; --bbox or --area then cut out a part",
    )
    add_query(parser, required=False)
    parser.set_defaults(refuse=parser.error)
    add_out(parser, "finished dates in it are kept: repeat the command to go on")
    add_labelling(parser)
    add_pictures(parser)
    parser.add_argument(
        "--per-field", action="store_true", help="a mask of each polygon of --area, with its name"
    )
    parser.add_argument(
        "--bands",
        type=lambda text: text.split(","),
        metavar="B02,B03,...",
        help="read these only; of a raster: what its bands are, in order, - for none",
    )
    parser.add_argument(
        "--scale", type=float, metavar="N", help="of a raster: reflectance is (value + offset) / N"
    )
    parser.add_argument("--offset", type=float, metavar="N", help="of a raster, such as -1000")
    parser.add_argument("--nodata", type=float, metavar="N", help="of a raster: what is no data")
    parser.add_argument(
        "--snow", action="store_true", help="write NAME_snow.tif too: snow on clear ground, by B11"
    )
    parser.add_argument(
        "--refine",
        action="store_true",
        help="let three dates or more correct one another: masks in the folder refined",
    )


def run(options: argparse.Namespace) -> int:
    """Search or open, label, write; name the dates that failed."""
    check_words(options)
    area = area_of(options)
    from kappamask import jobs

    asked = chosen(jobs.MaskOptions, options)
    if options.products:
        from kappamask.scenes.products import Told

        level = None if isinstance(options.level, Default) else options.level
        told = Told(None, level, options.scale, options.offset, options.nodata)
        asked = replace(asked, raster=told)
        return label(jobs.mask_products, options.products, options.out, area=area, options=asked)
    if options.per_field:
        options.yes_large = True  # fields may lie far apart: each one is looked at by itself
    job = jobs.mask_fields if options.per_field else jobs.mask_items
    return label(job, search_items(options), area, options.out, options=asked)


def check_words(options: argparse.Namespace) -> None:
    """Refuse words that do not go together: wrong usage, exit code 2."""
    given = [
        f"--{name.replace('_', '-')}"
        for name in (OF_SEARCH if options.products else OF_RASTERS)
        if not isinstance(getattr(options, name), Default | None)
    ]
    if options.products:
        if given:
            options.refuse(f"a PRODUCT is not searched for: leave out {', '.join(given)}")
        if options.refine:
            options.refuse("--refine needs several dates, a PRODUCT is one: leave it out")
        return
    absent = [] if options.area or options.bbox or options.tile else ["--bbox, --area or --tile"]
    absent += [] if options.date else ["--date"]
    if absent:
        options.refuse(f"without a PRODUCT the following are required: {', '.join(absent)}")
    if options.per_field and not options.area:
        options.refuse("--per-field goes with --area")
    if given:
        options.refuse(f"{', '.join(given)} say what a raster of your own does not: name its file")


def mask_and_tell(items: Sequence[Any], area: Any, folder: Path, **settings: Any) -> int:
    """Label items; say what was done, skipped and failed; give the exit code."""
    from kappamask.jobs import MaskOptions, mask_items

    return label(mask_items, items, area, folder, options=MaskOptions(**settings))


def label(job: Callable[..., Any], *what: Any, **how: Any) -> int:
    """Run a job whose last positional argument is its folder; say what was done and failed."""
    report, folder = run_job(job, *what, **how), what[-1]
    counts = f"{len(report.done)} done, {len(report.skipped)} skipped (finished before)"
    say(f"{counts}, {len(report.failed)} failed: masks in {folder.resolve()}")
    return say_failed(report.failed)
